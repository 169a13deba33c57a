//! Strings that many objects have in common, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this nobody needs to look for strings that are not used any more.
const SMALL: usize = 4096;

/// Zones, nodes, names of ports and services: few different ones, each in many objects. Those
/// that nobody holds any more are let go from time to time, since nodes come and go for months.
#[derive(Debug, Default)]
pub(super) struct Strings {
    known: HashSet<Arc<str>>,
    /// How many were still in use when last looked.
    in_use: usize,
}

impl Strings {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= SMALL.max(self.in_use * 2) {
            self.known.retain(|one| Arc::strong_count(one) > 1);
            self.in_use = self.known.len();
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }

    /// An empty string says as little as an absent one.
    pub(super) fn optional(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty()).map(|text| self.get(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_one_allocation() {
        let mut strings = Strings::default();
        let (one, two) = (strings.get("zone-1"), strings.get("zone-1"));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(strings.optional(Some("")), None);
    }

    #[test]
    fn what_nobody_holds_is_let_go() {
        let mut strings = Strings::default();
        let held: Vec<_> = (0..100).map(|n| strings.get(&format!("held-{n}"))).collect();
        for n in 0..10 * SMALL {
            strings.get(&format!("node-{n}"));
        }
        assert!(strings.known.len() <= SMALL, "{} strings are kept", strings.known.len());
        assert!(Arc::ptr_eq(&held[0], &strings.get("held-0")));
    }
}

//! Interned strings: one allocation for all equal ones.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many strings, unused ones are not searched for.
const SMALL: usize = 4096;

/// Zones, nodes, names of ports and services: few different ones, each in many objects. Unused ones
/// are dropped from time to time, since nodes are replaced over months.
#[derive(Debug, Default)]
pub(super) struct StringInterner {
    interned: HashSet<Arc<str>>,
    /// How many were in use at the last search.
    in_use: usize,
}

impl StringInterner {
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(interned) = self.interned.get(text) {
            return interned.clone();
        }
        if self.interned.len() >= SMALL.max(self.in_use * 2) {
            self.interned.retain(|one| Arc::strong_count(one) > 1);
            self.in_use = self.interned.len();
        }
        let new: Arc<str> = text.into();
        self.interned.insert(new.clone());
        new
    }

    /// An empty string counts as absent.
    pub(super) fn optional(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty()).map(|text| self.intern(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_one_allocation() {
        let mut strings = StringInterner::default();
        let (one, two) = (strings.intern("zone-1"), strings.intern("zone-1"));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(strings.optional(Some("")), None);
    }

    #[test]
    fn what_nobody_holds_is_let_go() {
        let mut strings = StringInterner::default();
        let held: Vec<_> = (0..100).map(|n| strings.intern(&format!("held-{n}"))).collect();
        for n in 0..10 * SMALL {
            strings.intern(&format!("node-{n}"));
        }
        assert!(strings.interned.len() <= SMALL, "{} strings are kept", strings.interned.len());
        assert!(Arc::ptr_eq(&held[0], &strings.intern("held-0")));
    }
}

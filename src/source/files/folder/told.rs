//! What is said about many objects, as far as anybody would read it.

use std::collections::BTreeMap;

use super::super::parse::TOLD;

/// Words by place, the first [`TOLD`] of them.
#[derive(Debug, Default)]
pub(super) struct Told {
    words: BTreeMap<String, String>,
    more: u64,
}

impl Told {
    /// Neither closure is called once there are enough.
    pub(super) fn say(&mut self, place: impl FnOnce() -> String, words: impl FnOnce() -> String) {
        if self.words.len() < TOLD {
            self.words.insert(place(), words());
        } else {
            self.more += 1;
        }
    }

    pub(super) fn more(&mut self, count: u64) {
        self.more += count;
    }

    pub(super) fn all(mut self) -> BTreeMap<String, String> {
        if self.more > 0 {
            let words = format!("{} in other places, which are not listed", self.more);
            self.words.insert("and".to_owned(), words);
        }
        self.words
    }
}

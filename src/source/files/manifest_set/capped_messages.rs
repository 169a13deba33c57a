//! Messages about many objects: the first ones, and the number of all others, since nobody reads more.

use std::collections::BTreeMap;

use super::super::parse::MAX_MESSAGES;

/// Messages by place, the first [`MAX_MESSAGES`] of them.
#[derive(Debug, Default)]
pub(super) struct CappedMessages {
    messages: BTreeMap<String, String>,
    omitted: u64,
}

impl CappedMessages {
    /// Neither closure is called once there are [`MAX_MESSAGES`].
    pub(super) fn insert(
        &mut self,
        place: impl FnOnce() -> String,
        message: impl FnOnce() -> String,
    ) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.insert(place(), message());
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn add_omitted(&mut self, count: u64) {
        self.omitted += count;
    }

    pub(super) fn into_map(mut self) -> BTreeMap<String, String> {
        if self.omitted > 0 {
            let message = format!("{} in other places, which are not listed", self.omitted);
            self.messages.insert("and".to_owned(), message);
        }
        self.messages
    }
}

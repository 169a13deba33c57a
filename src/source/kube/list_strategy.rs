//! How a watch gets its list: streamed, or in pages.
//!
//! A streamed list (KEP-3157) is the beginning of the watch itself: every object as an event, then a
//! mark. It costs the API server a fraction of the memory that pages cost it, which counts when every
//! replica lists at once after an outage. kube's watcher has no way back from a server that cannot do
//! it, so that is here.

use kube::runtime::watcher::{self, InitialListStrategy};

use super::errors;

/// How the next list is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ListStrategy {
    #[default]
    Streamed,
    /// In pages this time, as the last one could not be streamed, or not to its end.
    PagedOnce,
    /// In pages from now on: the server does not know of the other way.
    Paged,
}

impl ListStrategy {
    pub(super) fn watcher_config(self, base: &watcher::Config) -> watcher::Config {
        let initial_list_strategy = match self {
            Self::Streamed => InitialListStrategy::StreamingList,
            Self::PagedOnce | Self::Paged => InitialListStrategy::ListWatch,
        };
        watcher::Config { initial_list_strategy, ..base.clone() }
    }

    /// For people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Streamed => "streamed",
            Self::PagedOnce | Self::Paged => "in pages",
        }
    }

    /// After a list that is complete.
    pub(super) fn after_success(self) -> Self {
        match self {
            Self::Streamed | Self::PagedOnce => Self::Streamed,
            Self::Paged => Self::Paged,
        }
    }

    /// After a streamed list that failed.
    pub(super) fn after_failure(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::WatchStartFailed(kube::Error::Api(status)) => match status.code {
                // What servers say to a parameter that they do not know, or that is switched off
                // (before 1.34), or to a kind that cannot be watched.
                400 | 404..=406 | 415 | 422 | 501 => Self::Paged,
                // Credentials, rights, overload: pages would be refused as well.
                401 | 403 | 410 | 429 => Self::Streamed,
                // Whatever stands in between may be unable to carry a watch.
                _ => Self::PagedOnce,
            },
            error if errors::is_expired(error) => Self::Streamed,
            _ => Self::PagedOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> watcher::Error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status(code)))
    }

    fn status(code: u16) -> Box<Status> {
        Box::new(Status { code, ..Default::default() })
    }

    #[test]
    fn a_server_that_does_not_know_of_it_is_asked_for_pages_from_then_on() {
        for code in [400, 404, 406, 415, 422, 501] {
            let strategy = ListStrategy::after_failure(&refused(code));
            assert_eq!(strategy, ListStrategy::Paged, "{code}");
            assert_eq!(strategy.after_success(), ListStrategy::Paged, "{code}");
        }
    }

    #[test]
    fn a_refusal_that_would_meet_pages_too_changes_nothing() {
        for code in [401, 403, 410, 429] {
            assert_eq!(
                ListStrategy::after_failure(&refused(code)),
                ListStrategy::Streamed,
                "{code}"
            );
        }
        assert_eq!(
            ListStrategy::after_failure(&watcher::Error::WatchError(status(410))),
            ListStrategy::Streamed
        );
    }

    #[test]
    fn a_stream_that_broke_is_replaced_by_pages_once() {
        let broken = kube::Error::ReadEvents(std::io::Error::other("reset"));
        for error in [
            watcher::Error::WatchFailed(broken),
            watcher::Error::WatchError(status(504)),
            watcher::Error::WatchStartFailed(kube::Error::Service("closed".into())),
            refused(502),
        ] {
            let strategy = ListStrategy::after_failure(&error);
            assert_eq!(strategy, ListStrategy::PagedOnce, "{error}");
            assert_eq!(strategy.after_success(), ListStrategy::Streamed, "{error}");
        }
    }
}

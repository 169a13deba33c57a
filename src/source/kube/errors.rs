//! What a failure of the API means to a person, and to the watch.

use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;

use crate::causes::with_causes;

/// A failed request for `what` to the server at `url`.
pub(super) fn explain(error: &kube::Error, url: &str, what: &str) -> String {
    match error {
        kube::Error::Api(status) => explain_status(status, what, what),
        other => format!("{}, from {url}", with_causes(other)),
    }
}

/// A failed watch of `plural` (`services`), which RBAC calls `resource`.
pub(super) fn explain_watch(
    error: &watcher::Error,
    url: &str,
    plural: &str,
    resource: &str,
) -> String {
    match status_of(error) {
        Some(status) => explain_status(status, plural, resource),
        None => format!("{}, from {url}", with_causes(error)),
    }
}

fn explain_status(status: &Status, what: &str, resource: &str) -> String {
    let said = &status.message;
    match status.code {
        401 => format!(
            "401 Unauthorized: the API server does not know our credentials ({said}); check the \
             token of the ServiceAccount, or the kubeconfig's user"
        ),
        403 => format!(
            "403 Forbidden: {said}; a ClusterRole (or, with namespaces given, a Role in each) \
             must allow get, list and watch on {resource}"
        ),
        code => format!("{code} {}: {said} (on {what})", status.reason),
    }
}

fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// How long the server asks us to stay away, in its answer (429 and 503 have it); at most a minute,
/// so that no answer takes us off for good.
pub(super) fn retry_after(error: &watcher::Error) -> Duration {
    let details = status_of(error).and_then(|status| status.details.as_ref());
    let seconds = details.map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(seconds.min(60).into())
}

/// Nobody answered: no connection to the server, or it was lost before an answer.
pub(super) fn unreached(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Service(_) | kube::Error::HyperError(_))
            | watcher::Error::WatchStartFailed(
                kube::Error::Service(_) | kube::Error::HyperError(_)
            )
    )
}

/// The version that we would resume from is too old for the server.
pub(super) fn is_expired(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 410)
}

/// The server does not know the kind.
pub(super) fn is_not_found(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 404)
}

/// The server knows us, and that we have no right.
pub(super) fn is_forbidden(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 403)
}

/// Whether to list anew instead of resuming when the server is back. kube's watcher would resume,
/// but a server whose history is shorter now (restored from a backup, set up anew) takes a position
/// in the future for good and sends nothing from then on. An outage comes before that, so whoever
/// failed to start a watch, or whose watch broke off or fell silent, lists again; one who was
/// refused (401, 403, 429) need not, nor one whose watch the server ended.
pub(super) fn needs_new_list(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 410 || status.code >= 500
        }
        watcher::Error::WatchStartFailed(_) => true,
        // What cannot be read (no JSON at all, or cut off) told of a change that nobody knows now.
        watcher::Error::WatchFailed(_) => true,
        // kube's watcher would list anew as well, but as it did last time.
        error => is_expired(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Box<Status> {
        Box::new(Status { code, message: message.to_owned(), ..Default::default() })
    }

    #[test]
    fn forbidden_says_which_rights_are_needed() {
        let error = watcher::Error::InitialListFailed(kube::Error::Api(status(403, "no!")));
        let text = explain_watch(&error, "https://api", "services", "services");
        assert!(text.contains("get, list and watch on services"), "{text}");
        assert!(text.contains("no!"), "{text}");
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_within_reason() {
        let asks = |seconds| {
            let json =
                serde_json::json!({ "code": 429, "details": { "retryAfterSeconds": seconds } });
            let status = serde_json::from_value(json).expect("a status");
            retry_after(&watcher::Error::WatchError(status))
        };
        assert_eq!(asks(7), Duration::from_secs(7));
        assert_eq!(asks(86_400u32), Duration::from_secs(60));
        let silent = watcher::Error::WatchError(status(429, "busy"));
        assert_eq!(retry_after(&silent), Duration::ZERO);
    }

    #[test]
    fn a_server_that_answers_is_no_server_that_is_not_reached() {
        let refused = || kube::Error::Service("connection refused".into());
        assert!(unreached(&watcher::Error::WatchStartFailed(refused())));
        assert!(unreached(&watcher::Error::InitialListFailed(refused())));
        let busy = || kube::Error::Api(status(503, "busy"));
        assert!(!unreached(&watcher::Error::WatchStartFailed(busy())));
        assert!(!unreached(&watcher::Error::InitialListFailed(busy())));
    }

    #[test]
    fn an_outage_or_a_forgotten_position_needs_a_new_list() {
        let failed = |status| watcher::Error::WatchStartFailed(kube::Error::Api(status));
        assert!(needs_new_list(&failed(status(410, "too old"))));
        assert!(needs_new_list(&failed(status(504, "Too large resource version: 900"))));
        assert!(needs_new_list(&failed(status(503, "starting"))));
        let refused = kube::Error::Service("connection refused".into());
        assert!(needs_new_list(&watcher::Error::WatchStartFailed(refused)));
        let garbage = serde_json::from_str::<u8>("{").expect_err("half a value");
        let lost = watcher::Error::WatchFailed(kube::Error::SerdeError(garbage));
        assert!(needs_new_list(&lost));
        let broken = kube::Error::ReadEvents(std::io::Error::other("reset"));
        assert!(needs_new_list(&watcher::Error::WatchFailed(broken)));
        // Listing anew all the time would not help against a missing right to watch.
        assert!(!needs_new_list(&failed(status(403, "no!"))));
        assert!(needs_new_list(&watcher::Error::WatchError(status(410, "too old"))));
        assert!(is_expired(&watcher::Error::WatchError(status(410, "too old"))));
    }
}

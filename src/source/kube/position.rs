//! How far a watch has got where no event says it: at the end of a list, and at a bookmark.
//!
//! kube's watcher keeps both to itself. A list's position is in the request for the watch that follows it
//! (and in each that resumes it); a bookmark is a line of a watch's body. Whoever asks "has the change with
//! version V been seen" needs them: the version may be of an object that is not watched, or be gone again.

use http::Uri;
use serde::Deserialize;

/// How the API server begins the line of a bookmark (the fields of an event come in this order).
const BOOKMARK: &[u8] = br#"{"type":"BOOKMARK""#;

/// The position from which a watch is asked for: everything up to it has been delivered.
pub(super) fn of_watch_request(uri: &Uri) -> Option<u64> {
    let mut parameters = uri.query()?.split('&');
    // A list that is streamed begins anywhere.
    if parameters.clone().any(|one| one == "sendInitialEvents=true") {
        return None;
    }
    parameters.find_map(|one| one.strip_prefix("resourceVersion="))?.parse().ok()
}

/// The position of the last line of a piece of a watch's body, if that is a whole bookmark. Bookmarks are
/// written when there is nothing else to write, so a bookmark seldom comes otherwise; one that does is
/// missed, and the request that resumes the watch tells its position.
pub(super) fn of_bookmark(piece: &[u8]) -> Option<u64> {
    let lines = piece.strip_suffix(b"\n")?;
    let start = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = lines.get(start..)?;
    if !line.starts_with(BOOKMARK) {
        return None;
    }
    let bookmark: Bookmark = serde_json::from_slice(line).ok()?;
    bookmark.object.metadata.resource_version.parse().ok()
}

#[derive(Deserialize)]
struct Bookmark {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_begins_where_its_list_ended() {
        let of = |uri: &str| of_watch_request(&uri.parse().unwrap());
        assert_eq!(
            of("/api/v1/services?watch=true&timeoutSeconds=30&resourceVersion=812"),
            Some(812)
        );
        assert_eq!(of("/api/v1/services?watch=true&resourceVersion=none"), None);
        assert_eq!(of("/api/v1/services?watch=true"), None);
        assert_eq!(of("/api/v1/services"), None);
        let streamed = "/api/v1/services?watch=true&sendInitialEvents=true&resourceVersion=7";
        assert_eq!(of(streamed), None);
    }

    #[test]
    fn a_bookmark_is_read_where_it_is_the_last_line() {
        let bookmark = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Service\",\"apiVersion\":\"v1\",\
                        \"metadata\":{\"resourceVersion\":\"812\",\"creationTimestamp\":null,\
                        \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}},\"spec\":{}}}\n";
        let added = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n";
        assert_eq!(of_bookmark(bookmark.as_bytes()), Some(812));
        assert_eq!(of_bookmark(format!("{added}{added}{bookmark}").as_bytes()), Some(812));
        assert_eq!(of_bookmark(format!("{bookmark}{added}").as_bytes()), None);
        assert_eq!(of_bookmark(added.as_bytes()), None);
        assert_eq!(of_bookmark(bookmark.trim_end().as_bytes()), None, "the rest may be missing");
        assert_eq!(of_bookmark(b""), None);
        assert_eq!(of_bookmark(b"{\"type\":\"BOOKMARK\"\n"), None);
    }
}

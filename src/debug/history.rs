//! The last responses and answers of a proxy, for its own page.

use serde::Serialize;

use super::milliseconds;
use crate::proxies::{Happening, HistoryEntry, ProxyStatus, XdsStream};

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct HistoryItem {
    at: String,
    #[serde(rename = "type")]
    resource_type: String,
    what: &'static str,
    /// As in syncz.
    nonce: String,
    resources: u32,
    removed: u32,
    bytes: u32,
    generation: u64,
    /// The text of a NACK, if it is the last one of its type and no ACK has come since.
    error: Option<String>,
}

/// Newest first.
pub(super) fn history(stream: &XdsStream, status: &ProxyStatus) -> Vec<HistoryItem> {
    let mut errors = status.types.each_ref().map(|one| one.last_error.clone());
    let item = |entry: HistoryEntry| HistoryItem {
        at: milliseconds(entry.at),
        resource_type: entry.resource_type.short().to_ascii_uppercase(),
        what: match entry.what {
            Happening::Response => "response",
            Happening::Ack => "ack",
            Happening::Nack => "nack",
        },
        nonce: format!("{:016x}", entry.nonce),
        resources: entry.resources,
        removed: entry.removed,
        bytes: entry.bytes,
        generation: entry.generation,
        error: match entry.what {
            Happening::Nack => errors[entry.resource_type.index()].take(),
            Happening::Response | Happening::Ack => None,
        }
        .map(|text| text.to_string()),
    };
    stream.history().into_iter().map(item).collect()
}

//! The last responses and answers of a proxy, for its own page.

use serde::Serialize;

use super::milliseconds;
use super::proxies::name;
use crate::proxies::{Happening, HistoryEntry, ProxyStatus, XdsStream};

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct HistoryItem {
    at: String,
    #[serde(rename = "type")]
    resource_type: &'static str,
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
    let mut errors: Vec<_> = status.types.iter().map(|one| one.last_error.as_deref()).collect();
    let item = |entry: HistoryEntry| HistoryItem {
        at: milliseconds(entry.at),
        resource_type: name(entry.resource_type.into()),
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
            Happening::Nack => errors.get_mut(entry.resource_type.0).and_then(Option::take),
            Happening::Response | Happening::Ack => None,
        }
        .map(str::to_owned),
    };
    stream.history().into_iter().map(item).collect()
}

//! `/debug/proxies/{key}`: one proxy, in all detail that is bounded; and what it was sent, one resource at a time.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::history::{HistoryItem, history};
use super::proxies::{Row, name, row};
use super::sent::{Counter, sent};
use super::{DebugError, DebugState, Parameters, ResponseWriter, milliseconds};
use crate::descriptors::to_json;
use crate::names::ResourceType;
use crate::proxies::{ProxyStatus, TypeStatus, XdsStream};

/// Names of a subscription that are listed.
const MAX_NAMES: usize = 100;
/// Resources that the words of a NACK are found to be about.
const MAX_ABOUT: usize = 10;

#[derive(Serialize)]
struct Detail {
    #[serde(flatten)]
    row: Row,
    /// Which proxies are sent the same; none while it is being found.
    view: Option<String>,
    history: Vec<HistoryItem>,
}

/// What one proxy's page says of a type beside the row's cell.
#[derive(Debug, Serialize)]
pub(super) struct TypeDetail {
    error: Option<String>,
    error_at: Option<String>,
    /// The resources that are named in those words.
    about: Vec<String>,
    version: Option<String>,
    last_sent: Option<String>,
    last_acknowledged: Option<String>,
    subscription: Option<Names>,
}

#[derive(Debug, Serialize)]
struct Names {
    wildcard: bool,
    names: Vec<String>,
    names_total: usize,
}

/// Everything about one.
pub(super) fn proxy(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let stream = stream(state, parameters)?;
    let status = stream.status();
    let ProxyStatus { assigned, types, .. } = &status;
    let mut row = row(&stream, &mut Counter::default()).ok_or_else(|| gone(parameters))?;
    for (of, status) in ResourceType::IN_ORDER.into_iter().zip(types) {
        if let Some(cell) = row.types.get_mut(name(of)) {
            cell.detail = Some(detail(status));
        }
    }
    writer.json(&Detail {
        row,
        view: assigned.as_ref().and_then(|assigned| assigned.view()).map(|view| view.to_string()),
        history: history(&stream, &status),
    })
}

fn detail(status: &TypeStatus) -> TypeDetail {
    TypeDetail {
        error: status.last_error.as_deref().map(str::to_owned),
        error_at: status.last_nack.filter(|_| status.last_error.is_some()).map(milliseconds),
        about: status.last_error.as_deref().map(|words| about(status, words)).unwrap_or_default(),
        version: status.version.map(|version| version.to_string()),
        last_sent: status.last_sent.map(milliseconds),
        last_acknowledged: status.last_acked.map(milliseconds),
        subscription: status.subscription.as_ref().map(|one| Names {
            wildcard: one.is_wildcard(),
            names: one.names().take(MAX_NAMES).map(ToString::to_string).collect(),
            names_total: one.len(),
        }),
    }
}

/// The resources that were sent and that Envoy's words name. A NACK has no field for them.
fn about(status: &TypeStatus, words: &str) -> Vec<String> {
    let sent = sent(status);
    let named = sent.iter().filter(|resource| is_named(words, &resource.name));
    named.take(MAX_ABOUT).map(|resource| resource.name.to_string()).collect()
}

/// Whether the name stands in the text, and not as a part of a longer one.
fn is_named(text: &str, name: &str) -> bool {
    let of_a_name = |one: char| one.is_alphanumeric() || matches!(one, '_' | '-' | '|');
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + name.len()..]);
            !before.ends_with(of_a_name) && !after.starts_with(of_a_name)
        })
}

/// The names of what it was sent of one type, or one resource.
pub(super) fn resources(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let wanted = parameters.get("type").unwrap_or_default();
    let of = ResourceType::IN_ORDER
        .into_iter()
        .find(|of| name(*of).eq_ignore_ascii_case(wanted))
        .ok_or_else(|| DebugError::UnknownType(wanted.to_owned()))?;
    let mut types = stream(state, parameters)?.status().types;
    let status = std::mem::take(&mut types[of.index()]);
    let sent = sent(&status);
    if let Some(wanted) = parameters.get("name") {
        let found = sent.iter().find(|resource| *resource.name == *wanted);
        let resource = found.ok_or_else(|| DebugError::NotSent(wanted.to_owned()))?;
        return writer.json(&json!({
            "name": *resource.name,
            "version": resource.version.to_string(),
            "resource": to_json(of.type_url(), &resource.value()),
        }));
    }
    let (offset, limit) = parameters.range()?;
    let search = parameters.get("search").map(str::to_lowercase);
    let fits = |name: &str| search.as_deref().is_none_or(|part| name.to_lowercase().contains(part));
    let names: Vec<_> =
        sent.iter().map(|resource| &*resource.name).filter(|name| fits(name)).collect();
    let shown: Vec<_> = names.iter().skip(offset).take(limit).collect();
    writer.json(&json!({ "total": names.len(), "names": shown }))
}

fn stream(state: &DebugState, parameters: &Parameters) -> Result<Arc<XdsStream>, DebugError> {
    let key = parameters.get("key").unwrap_or_default();
    let found = state.proxies.all().into_iter().find(|stream| stream.id.to_string() == key);
    found.ok_or_else(|| gone(parameters))
}

fn gone(parameters: &Parameters) -> DebugError {
    DebugError::Gone(parameters.get("key").unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_a_whole() {
        let words =
            "Error adding/updating listener(s) 127.0.0.1_8080: cannot bind '127.0.0.1:8080'";
        assert!(is_named(words, "127.0.0.1_8080"));
        assert!(!is_named(words, "127.0.0.1_80"));
        assert!(!is_named(words, "0.0.1_8080x"));
        assert!(!is_named(words, ""));
        assert!(is_named("é <script>", "<script>"));
    }
}

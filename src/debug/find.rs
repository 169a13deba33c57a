//! The streams that `?proxyID=` and `?namespace=` select.

use std::sync::Arc;

use super::{DebugError, DebugState, Parameters};
use crate::proxies::XdsStream;

/// How many connections an error names when `proxyID` is ambiguous.
const MAX_EXAMPLES: usize = 10;

/// The streams that match both, by connection id; all streams if neither is given.
///
/// A `proxyID` that is a whole connection id means that one, a whole name all streams of that
/// name, and anything else a part of a connection id.
pub(super) fn matching_streams(
    state: &DebugState,
    parameters: &Parameters,
) -> Result<Vec<Arc<XdsStream>>, DebugError> {
    let mut all = state.proxies.all();
    if let Some(namespace) = parameters.get("namespace") {
        all.retain(|connection| {
            let identity = connection.status().identity;
            identity.is_some_and(|one| one.view.namespace.as_deref() == Some(namespace))
        });
    }
    let Some(wanted) = parameters.get("proxyID") else { return Ok(all) };
    let mut best = 1;
    let mut found = Vec::new();
    for connection in all {
        let match_rank = match_rank(&connection.connection_id(), wanted);
        if match_rank > best {
            found.clear();
            best = match_rank;
        }
        if match_rank == best {
            found.push(connection);
        }
    }
    match found.is_empty() {
        true => Err(DebugError::NotConnected(wanted.to_owned())),
        false => Ok(found),
    }
}

/// How well an id matches; zero if it does not.
fn match_rank(id: &str, wanted: &str) -> u8 {
    let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
    match () {
        () if id == wanted => 3,
        () if name == wanted => 2,
        () if id.contains(wanted) => 1,
        () => 0,
    }
}

/// The selected stream. Of several streams of one proxy that is the youngest, since the others
/// are most likely on their way out; of several proxies it is none.
pub(super) fn one_stream(
    state: &DebugState,
    parameters: &Parameters,
) -> Result<Arc<XdsStream>, DebugError> {
    let wanted = parameters.get("proxyID").ok_or(DebugError::NoProxyId)?;
    let found = matching_streams(state, parameters)?;
    let Some(youngest) = found.last() else {
        return Err(DebugError::NotConnected(wanted.to_owned()));
    };
    let proxy = |connection: &XdsStream| {
        let node = connection.status().identity.map(|identity| identity.node_id);
        (node, connection.peer.map(|peer| peer.ip()))
    };
    if found.iter().all(|other| proxy(other) == proxy(youngest)) {
        return Ok(youngest.clone());
    }
    let ids = found.iter().take(MAX_EXAMPLES).map(|one| format!("{:?}", one.connection_id()));
    let mut examples = ids.collect::<Vec<_>>().join(", ");
    if found.len() > MAX_EXAMPLES {
        examples.push_str(", …");
    }
    Err(DebugError::Ambiguous { wanted: wanted.to_owned(), count: found.len(), examples })
}

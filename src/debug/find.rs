//! Which proxies `?proxyID=` and `?namespace=` mean.

use std::sync::Arc;

use super::{DebugState, Parameters, Problem};
use crate::proxies::XdsStream;

/// Connections that are named where there are more than one may mean.
const EXAMPLES: usize = 10;

/// Those that fit both, by connection id; everybody if neither is given.
///
/// A `proxyID` that is a whole connection id means that one, a whole name all streams of that
/// name, and anything else a part of a connection id.
pub(super) fn all(
    state: &DebugState,
    parameters: &Parameters,
) -> Result<Vec<Arc<XdsStream>>, Problem> {
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
        let fit = fit(&connection.connection_id(), wanted);
        if fit > best {
            found.clear();
            best = fit;
        }
        if fit == best {
            found.push(connection);
        }
    }
    match found.is_empty() {
        true => Err(Problem::NotConnected(wanted.to_owned())),
        false => Ok(found),
    }
}

/// Zero if not at all.
fn fit(id: &str, wanted: &str) -> u8 {
    let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
    match () {
        () if id == wanted => 3,
        () if name == wanted => 2,
        () if id.contains(wanted) => 1,
        () => 0,
    }
}

/// The one that is meant. Of several streams of one proxy that is the youngest, since the others
/// are most likely on their way out; of several proxies it is none.
pub(super) fn one(state: &DebugState, parameters: &Parameters) -> Result<Arc<XdsStream>, Problem> {
    let wanted = parameters.get("proxyID").ok_or(Problem::NoProxyId)?;
    let found = all(state, parameters)?;
    let Some(youngest) = found.last() else {
        return Err(Problem::NotConnected(wanted.to_owned()));
    };
    let proxy = |connection: &XdsStream| {
        let node = connection.status().identity.map(|identity| identity.node_id);
        (node, connection.peer.map(|peer| peer.ip()))
    };
    if found.iter().all(|other| proxy(other) == proxy(youngest)) {
        return Ok(youngest.clone());
    }
    let ids = found.iter().take(EXAMPLES).map(|one| format!("{:?}", one.connection_id()));
    let mut examples = ids.collect::<Vec<_>>().join(", ");
    if found.len() > EXAMPLES {
        examples.push_str(", …");
    }
    Err(Problem::Ambiguous { wanted: wanted.to_owned(), count: found.len(), examples })
}

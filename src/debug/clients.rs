//! `/debug/connections` and `/debug/adsz`: who is connected, and who subscribes to what. Streams that
//! have said nothing yet are there, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use pilothouse_xds::Subscription;
use serde::{Serialize, Serializer};

use super::response_writer::LazyList;
use super::syncz::protocol;
use super::{DebugError, DebugState, Parameters, ResponseWriter, find, rfc3339};
use crate::names::ResourceType;
use crate::proxies::{Labels, ProxyStatus, XdsStream};

/// Istio's AdsClients.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Clients<C> {
    total_clients: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<C>,
}

/// Istio's AdsClient; `protocol` and `identity` are ours. The last three are adsz' alone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    connection_id: String,
    connected_at: String,
    /// As in syncz.
    #[serde(skip_serializing_if = "super::syncz::is_false")]
    probe: bool,
    address: String,
    /// As in syncz.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_map")]
    labels: Option<Labels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Locality>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    watches: BTreeMap<&'static str, Names>,
}

/// As Envoy's message is in Go's JSON.
#[derive(Debug, Serialize)]
struct Locality {
    #[serde(skip_serializing_if = "String::is_empty")]
    region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sub_zone: String,
}

/// The names that are asked for; the wildcard is "*" as in the protocol.
#[derive(Debug)]
struct Names(Arc<Subscription>);

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wildcard = self.0.is_wildcard().then_some("*");
        serializer.collect_seq(wildcard.into_iter().chain(self.0.names().map(|name| &**name)))
    }
}

/// Every stream, by connection id.
pub(super) fn connections(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    write(state, parameters, writer, client)
}

/// The same, and what each subscribes to.
pub(super) fn adsz(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    write(state, parameters, writer, |connection| {
        let ProxyStatus { identity, types, .. } = connection.status();
        let watches = ResourceType::IN_ORDER.into_iter().zip(types);
        let identity = identity.as_ref();
        Client {
            labels: identity.map(|one| one.labels.clone()).filter(|labels| !labels.is_empty()),
            locality: identity.and_then(|one| locality(&one.locality)),
            watches: watches
                .filter_map(|(of, status)| Some((of.type_url(), Names(status.subscription?))))
                .collect(),
            ..client(connection)
        }
    })
}

fn write(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
    client: impl Fn(&XdsStream) -> Client,
) -> Result<(), DebugError> {
    let mut all = find::matching_streams(state, parameters)?;
    all.sort_by_cached_key(|connection| connection.connection_id());
    let total_clients = all.len();
    let clients = LazyList(all, |connection: &Arc<XdsStream>| client(connection));
    writer.json(&Clients { total_clients, clients: Some(clients).filter(|_| total_clients > 0) })
}

fn client(connection: &XdsStream) -> Client {
    let (probe, identity) = connection.read(|status| {
        let identity = status.identity.as_ref();
        let principal = identity.and_then(|identity| identity.principal.as_ref());
        (identity.is_some_and(|identity| identity.probe), principal.map(ToString::to_string))
    });
    Client {
        connection_id: connection.connection_id(),
        connected_at: rfc3339(connection.connected),
        probe,
        address: connection.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        identity,
        protocol: protocol(connection),
        labels: None,
        locality: None,
        watches: BTreeMap::new(),
    }
}

fn locality(text: &str) -> Option<Locality> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let locality = Locality { region: next(), zone: next(), sub_zone: next() };
    (!text.is_empty()).then_some(locality)
}

fn as_map<S: Serializer>(labels: &Option<Labels>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().flat_map(|labels| labels.iter()).map(|(k, v)| (k, v)))
}

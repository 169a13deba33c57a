//! What [`pilothouse_xds_server`] must know of this mesh: who a proxy is ([`node`]), which view of a snapshot
//! it gets, the types that are served, and how its settings are called.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use pilothouse_xds::{ServedType, View};
use pilothouse_xds_server::{Mesh, ServerTexts};
use tracing::info;

use crate::metrics::Metrics;
use crate::names::ResourceType;
use crate::proxies::ProxyIdentity;
use crate::snapshot::Snapshot;
use crate::view::{ViewKey, ViewRequest};

pub mod node;

pub type AdsServer = pilothouse_xds_server::AdsServer<IstioMesh>;
pub type ServerContext = pilothouse_xds_server::ServerContext<IstioMesh>;
pub use pilothouse_xds_server::ServerLimits;
pub use pilothouse_xds_server::stream::{OnDemandRequest, OnDemandTypes};

/// The mesh of Istio's proxies, and of standalone Envoys.
#[derive(Debug)]
pub struct IstioMesh {
    pub metrics: Arc<Metrics>,
}

impl Mesh for IstioMesh {
    type Identity = ProxyIdentity;
    type ViewRequest = ViewRequest;
    type ViewKey = ViewKey;
    type Snapshot = Snapshot;

    const TEXTS: &'static ServerTexts = &TEXTS;

    fn types(&self) -> &'static [ServedType] {
        ResourceType::TABLE
    }

    fn identify(
        &self,
        node: Option<&[u8]>,
        peer: IpAddr,
    ) -> Result<(ProxyIdentity, ViewRequest), String> {
        let identified = node::identify(node).map_err(|error| error.to_string())?;
        let (identity, request) = identified;
        Ok((identity, ViewRequest { peer: Some(peer), ..request }))
    }

    fn proxy_connected(&self, identity: &ProxyIdentity, delta: bool) {
        if identity.probe {
            self.metrics.probe_opened();
            info!(proxy = %identity.name, by = %identity.user_agent, "probe connected");
        } else {
            info!(proxy = %identity.name, view = %identity.view, delta, "proxy connected");
        }
    }

    fn view(snapshot: &Snapshot, key: &ViewKey) -> Option<Arc<View>> {
        snapshot.views.get(key).cloned()
    }

    fn generation(snapshot: &Snapshot) -> u64 {
        snapshot.generation
    }

    fn change_received(snapshot: &Snapshot) -> Option<Instant> {
        snapshot.since
    }

    fn forget_gone_sets(snapshot: &Snapshot) {
        snapshot.forget_gone_sets();
    }
}

/// The settings are flags of `pilothouse serve`.
const TEXTS: ServerTexts = ServerTexts {
    not_ready: "not ready: the source has not been listed completely yet (see /ready on the \
                monitoring port for what is missing)",
    other_ports: "Debug pages are on the port of --http-addr (8080 unless it was changed), \
                  /ready and metrics on that of --monitoring-addr (15014).",
    max_names: "--max-names",
    max_types: "--max-types",
    request_bytes: "--max-request-bytes",
    first_request: "--first-request-timeout",
    send: "--send-timeout",
    requests_per_second: "--max-requests-per-second",
    streams_per_peer: "--max-streams-per-peer",
    connection_age: "--max-connection-age",
    connection_memory: "--max-connection-memory",
    peer_memory: "--max-peer-memory",
    keepalive: "--keepalive",
};

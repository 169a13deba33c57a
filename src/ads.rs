//! What [`pilothouse_xds_server`] must know of this mesh: who a proxy is ([`node`]), which view of a snapshot
//! it gets, the types that are served, and how its settings are called.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use pilothouse_xds::{ServedType, TypeIndex, View};
use pilothouse_xds_server::{Mesh, PeerCredentials, PeerKey, Refusal, ServerTexts};
use tracing::info;

use crate::identity::{ActFor, Authenticated, Authenticator, Principal, Proof};
use crate::metrics::{Authentication, Metrics};
use crate::names::ResourceType;
use crate::proxies::ProxyIdentity;
use crate::snapshot::Snapshot;
use crate::view::{ProxyKind, ViewKey, ViewRequest};

pub mod node;
pub mod uses;

use node::Identified;
use uses::UsesResolver;

pub type AdsServer = pilothouse_xds_server::AdsServer<IstioMesh>;
pub type ServerContext = pilothouse_xds_server::ServerContext<IstioMesh>;
pub use pilothouse_xds_server::ServerLimits;
pub use pilothouse_xds_server::stream::{AnsweredRequest, AnsweredTypes};

/// The mesh of Istio's proxies, and of standalone Envoys.
#[derive(Debug)]
pub struct IstioMesh {
    pub metrics: Arc<Metrics>,
    pub authenticator: Authenticator,
    /// Who may claim any namespace.
    pub act_for: ActFor,
    /// What proxies on demand use.
    pub uses: UsesResolver,
}

impl Mesh for IstioMesh {
    type Identity = ProxyIdentity;
    type Principal = Principal;
    type ViewRequest = ViewRequest;
    type ViewKey = ViewKey;
    type Snapshot = Snapshot;

    const TEXTS: &'static ServerTexts = &TEXTS;

    fn types(&self) -> &'static [ServedType] {
        ResourceType::TABLE
    }

    async fn authenticate(
        &self,
        credentials: PeerCredentials<'_>,
    ) -> Result<Option<Principal>, Refusal> {
        let found = self.authenticator.authenticate(credentials, SystemTime::now()).await;
        self.metrics.authenticated(match &found {
            Ok(None) => Authentication::Anonymous,
            Ok(Some(Authenticated { by: Proof::Certificate, .. })) => Authentication::Certificate,
            Ok(Some(Authenticated { by: Proof::Token, .. })) => Authentication::Token,
            Err(Refusal::Unavailable(_)) => Authentication::Unavailable,
            Err(Refusal::PermissionDenied(_)) => Authentication::Denied,
            Err(_) => Authentication::Unauthenticated,
        });
        Ok(found?.map(|found| found.principal))
    }

    fn identify(
        &self,
        node: Option<&[u8]>,
        delta: bool,
        peer: IpAddr,
        principal: Option<&Principal>,
    ) -> Result<(ProxyIdentity, ViewRequest), Refusal> {
        let identified = node::identify(node);
        let Identified { mut identity, mut request, claim } =
            identified.map_err(|error| Refusal::InvalidArgument(error.to_string()))?;
        // Absence deletes in the state of the world: what a proxy has used would have to be named again and
        // again, and Envoy's discovery on demand does not speak it.
        if request.view.kind == ProxyKind::OnDemandSidecar && !delta {
            return Err(Refusal::InvalidArgument(ON_DEMAND_NEEDS_DELTA.to_owned()));
        }
        request.peer = Some(match principal {
            None => PeerKey::of_address(peer),
            Some(principal) => {
                let allowed = claim.check(principal, &self.act_for);
                allowed.map_err(|error| {
                    self.metrics.authenticated(Authentication::Denied);
                    Refusal::PermissionDenied(error.to_string())
                })?;
                PeerKey::Principal(principal.to_string().into())
            }
        });
        identity.principal = principal.cloned();
        Ok((identity, request))
    }

    fn initial_names(
        &self,
        identity: &ProxyIdentity,
        resource_type: TypeIndex,
        view: &View,
    ) -> Arc<[Arc<str>]> {
        match &identity.uses {
            Some(uses) if resource_type == ResourceType::Cluster.into() => {
                let namespace = identity.view.namespace.as_ref();
                self.uses.resolve(uses, namespace, view.set(resource_type))
            }
            _ => Arc::default(),
        }
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

const ON_DEMAND_NEEDS_DELTA: &str = "discovery on demand needs delta xDS: set api_type DELTA_GRPC in the bootstrap's ads_config (the agent: \
     --xds delta), or leave DISCOVERY out of the node's metadata, which means all";

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

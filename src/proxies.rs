//! Who the proxies are, and the status of their streams, which
//! [`pilothouse_xds_server::proxies`] keeps.

use std::sync::{Arc, OnceLock};

use pilothouse_xds_server::Identity;
pub use pilothouse_xds_server::proxies::{Happening, HistoryEntry, SyncState, TypeStatus};

use crate::identity::Principal;
use crate::view::ViewKey;

/// Keys and values, by key.
pub type Labels = Arc<[(Box<str>, Box<str>)]>;

/// What the first request says about the proxy.
#[derive(Clone, Debug)]
pub struct ProxyIdentity {
    /// `node.id` as sent.
    pub node_id: Arc<str>,
    /// `pod.namespace` for a sidecar or router, else the node id: what people search for.
    pub name: Arc<str>,
    pub cluster: Arc<str>,
    pub view: ViewKey,
    /// `user_agent_name/version`, empty if not said.
    pub user_agent: Arc<str>,
    /// `region/zone/subzone` without empty tails.
    pub locality: Arc<str>,
    /// Not the proxy itself: `pilothouse doctor` or the sidecar's agent acts in its name.
    pub probe: bool,
    /// Of its pod (metadata `LABELS`), a few KiB at most.
    pub labels: Labels,
    /// Who it has been authenticated as; none without TLS, or where none is required.
    pub principal: Option<Principal>,
    /// What it says that it uses, if it is on demand; shared by the streams' status.
    pub uses: Option<Arc<Uses>>,
}

/// What a proxy on demand says that it uses (metadata `USES`), to have it from its start.
#[derive(Debug)]
pub struct Uses {
    /// Hosts and cluster names, separated by commas or spaces. A few KiB at most.
    pub text: Box<str>,
    /// Those that meant nothing when the stream began, a few at most.
    unknown: OnceLock<Box<[Box<str>]>>,
}

impl Uses {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), unknown: OnceLock::new() }
    }

    /// The entries that named nothing when the stream began; none before.
    pub fn unknown(&self) -> &[Box<str>] {
        self.unknown.get().map(|unknown| &**unknown).unwrap_or_default()
    }

    /// To be called once, when they are known.
    pub fn set_unknown(&self, unknown: Box<[Box<str>]>) {
        self.unknown.get_or_init(|| unknown);
    }
}

impl Identity for ProxyIdentity {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_probe(&self) -> bool {
        self.probe
    }
}

pub type Proxies = pilothouse_xds_server::Proxies<ProxyIdentity, ViewKey>;
pub type ProxyStatus = pilothouse_xds_server::proxies::ProxyStatus<ProxyIdentity, ViewKey>;
pub type Registration = pilothouse_xds_server::proxies::Registration<ProxyIdentity, ViewKey>;
pub type XdsStream = pilothouse_xds_server::proxies::XdsStream<ProxyIdentity, ViewKey>;

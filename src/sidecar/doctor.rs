//! `pilothouse doctor`: walks the path from an Envoy to its control plane, link by link, and names
//! the first that is broken, with its cause and what to do.
//!
//! Part of the sidecar's side: it uses `names` and what everybody can see over the network, never
//! the control plane's modules. Every step has a limit of its own, so that the whole ends in time
//! whatever hangs. Looking and judging are apart: what is seen is plain data, and what it means is
//! decided by functions without I/O.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

mod ads;
pub mod args;
mod bootstrap_tls;
mod capture;
mod clock;
mod connect;
mod deadline;
mod dns;
mod endpoint_probe;
mod endpoints;
mod envoy;
mod explain;
mod finding;
mod hosts;
mod kubernetes;
mod observations;
mod on_demand;
mod path;
mod pilot;
mod report;
mod resolv;
mod routes;
mod service;
mod service_name;
mod tls;
mod tls_verdict;
mod verdict;

pub use finding::{Code, Diagnosis, Link, LinkState, Outcome};
pub use service_name::{ServiceName, ServiceNameError};

use crate::sidecar::credentials::TlsArgs;
use crate::sidecar::host_port::HostPort;
use crate::well_known::ENVOY_ADMIN_PORT;

/// Who asks, so that a control plane knows a probe from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOrigin {
    /// `pilothouse doctor`.
    Doctor,
    /// The agent of a sidecar that is not ready.
    Agent,
}

/// What is to be examined. The default is a sidecar's place inside a pod.
#[derive(Clone, Debug)]
pub struct Target {
    /// Envoy's admin address; `None` leaves Envoy out.
    pub admin: Option<SocketAddr>,
    /// Whether a missing Envoy is a fault. Outside of pods it may simply be elsewhere.
    pub envoy_expected: bool,
    /// Where the control plane is; `None` for what Envoy's bootstrap says, else
    /// [`crate::well_known::DEFAULT_DISCOVERY_ADDRESS`], with TLS
    /// [`crate::well_known::DEFAULT_SECURE_DISCOVERY_ADDRESS`].
    pub discovery: Option<HostPort>,
    /// Whether the control plane is spoken to over TLS, and with what; where nothing is said, what
    /// Envoy's bootstrap says counts.
    pub tls: TlsArgs,
    /// Its monitoring port; `None` for port 15014 of the address that `discovery` leads to.
    pub monitoring: Option<SocketAddr>,
    /// Its debug port; `None` for port 8080 of that address.
    pub debug: Option<SocketAddr>,
    /// The node id to ask with; `None` for Envoy's own, else one that is made up.
    pub node_id: Option<String>,
    pub resolv_conf: PathBuf,
    /// Looked into before any name server is asked.
    pub hosts: PathBuf,
    /// Port of the name servers, for which resolv.conf has no word: 53.
    pub dns_port: u16,
    /// Whether to ask the Kubernetes API server, and with which context of the kubeconfig.
    pub kubernetes: bool,
    pub context: Option<String>,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Whether to look at the pod's iptables rules.
    pub capture: bool,
    /// A service whose endpoints are to be looked at as well.
    pub service: Option<ServiceName>,
    /// The path of a request to it, for which a rule of its routes must be there; `None` for `/`, for which none need be.
    pub path: Option<String>,
    pub origin: ProbeOrigin,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            admin: Some((Ipv4Addr::LOCALHOST, ENVOY_ADMIN_PORT).into()),
            envoy_expected: true,
            discovery: None,
            tls: TlsArgs::default(),
            monitoring: None,
            debug: None,
            node_id: None,
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            dns_port: 53,
            kubernetes: true,
            context: None,
            domain: crate::names::DEFAULT_DOMAIN.to_owned(),
            capture: true,
            service: None,
            path: None,
            origin: ProbeOrigin::Doctor,
        }
    }
}

/// Walks the path and says what is broken first, within `limit` whatever hangs. Dropping the
/// future ends everything that it began.
pub async fn diagnose(target: &Target, limit: Duration) -> Diagnosis {
    path::walk(target, deadline::Deadline::start(limit)).await
}

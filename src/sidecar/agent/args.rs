//! The agent's flags. Where Istio's agent takes something from the environment, the name is Istio's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::discovery::Discovery;
use crate::flags;
use crate::names;
use crate::sidecar::credentials::TlsArgs;
use crate::sidecar::host_port::HostPort;
use crate::well_known::ENVOY_ADMIN_PORT;

/// How Envoy asks the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xds {
    /// Changes only.
    Delta,
    /// The state of the world each time.
    Sotw,
}

/// What the proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyType {
    /// Beside one workload, in its pod.
    Sidecar,
    /// On its own, at an edge.
    Router,
}

impl ProxyType {
    /// The first part of a node id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

// What stands later wins, so that a manifest's own arguments can be added to.
#[derive(Clone, Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct AgentArgs {
    /// Name of the pod; this machine's host name if not given
    #[arg(long, value_parser = flags::pod_name, env = "POD_NAME", help_heading = "Identity")]
    pub pod_name: Option<String>,

    /// Namespace of the pod
    #[arg(
        long, value_parser = flags::namespace, default_value = "default",
        env = "POD_NAMESPACE", help_heading = "Identity"
    )]
    pub pod_namespace: String,

    /// Address of the pod; the one this machine would use to go out if not given
    #[arg(long, env = "INSTANCE_IP", value_name = "IP", help_heading = "Identity")]
    pub instance_ip: Option<String>,

    /// All addresses of the pod, where it has several
    #[arg(
        long,
        env = "INSTANCE_IPS",
        value_name = "IP",
        value_delimiter = ',',
        help_heading = "Identity"
    )]
    pub instance_ips: Vec<String>,

    /// DNS domain of the cluster
    #[arg(
        long, value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN,
        env = "PILOTHOUSE_DOMAIN", help_heading = "Identity"
    )]
    pub domain: String,

    /// What the proxy is for
    #[arg(
        long,
        value_enum,
        default_value = "sidecar",
        env = "PILOTHOUSE_PROXY_TYPE",
        help_heading = "Identity"
    )]
    pub proxy_type: ProxyType,

    /// The pod's labels as the downward API writes them. Its topology.kubernetes.io/zone and region
    /// become the proxy's place
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/istio/pod/labels",
        env = "PILOTHOUSE_LABELS_FILE",
        help_heading = "Identity"
    )]
    pub labels_file: PathBuf,

    /// The zone that the proxy runs in, instead of the pod's label
    #[arg(long, env = "PILOTHOUSE_ZONE", help_heading = "Identity")]
    pub zone: Option<String>,

    /// The region that the proxy runs in, instead of the pod's label
    #[arg(long, env = "PILOTHOUSE_REGION", help_heading = "Identity")]
    pub region: Option<String>,

    /// The control plane, HOST:PORT [default: discoveryAddress of the proxy config, else
    /// istio-pilot.istio-system.svc:15012 with TLS and istio-pilot.istio-system:15010 without]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "PILOTHOUSE_DISCOVERY_ADDRESS",
        help_heading = "Control plane"
    )]
    pub discovery_address: Option<HostPort>,

    /// Istio's proxy configuration, YAML or JSON; discoveryAddress, concurrency, drainDuration and
    /// terminationDrainDuration count
    #[arg(long, value_name = "YAML", env = "PROXY_CONFIG", help_heading = "Control plane")]
    pub proxy_config: Option<String>,

    /// Ask for changes only, or for the state of the world
    #[arg(
        long,
        value_enum,
        default_value = "delta",
        env = "PILOTHOUSE_XDS",
        help_heading = "Control plane"
    )]
    pub xds: Xds,

    /// Hold the clusters of all Services, or those that are called: Envoy asks for each when the first
    /// request needs it. On demand is for captured sidecars, needs --xds delta and Envoy 1.36
    /// [default: ISTIO_META_DISCOVERY, else all]
    #[arg(long, value_enum, env = "PILOTHOUSE_DISCOVERY", help_heading = "Control plane")]
    pub discovery: Option<Discovery>,

    /// What a proxy on demand has before it is ready, beside what it used before a restart: hosts of
    /// Services (reviews, ratings.shop) or names of clusters, with commas or spaces between
    #[arg(long, value_name = "LIST", env = "PILOTHOUSE_USES", help_heading = "Control plane")]
    pub uses: Option<String>,

    #[command(flatten)]
    pub tls: TlsArgs,

    /// Envoy's admin pages
    #[arg(
        long,
        alias = "admin-address",
        value_name = "ADDRESS",
        value_parser = flags::known_address,
        default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, ENVOY_ADMIN_PORT)),
        env = "PILOTHOUSE_ADMIN_ADDR",
        help_heading = "Addresses"
    )]
    pub admin_addr: SocketAddr,

    /// The agent's own pages: /healthz/ready, /healthz/live, /stats/prometheus [default: port 15020
    /// of every address]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::listen_address,
        env = "PILOTHOUSE_STATUS_ADDR",
        help_heading = "Addresses"
    )]
    pub status_addr: Option<SocketAddr>,

    /// Envoy's listener for probes, which asks the agent [default: port 15021 of every address]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::known_address,
        env = "PILOTHOUSE_HEALTH_ADDR",
        help_heading = "Addresses"
    )]
    pub health_addr: Option<SocketAddr>,

    /// Envoy's listener for Prometheus [default: port 15090 of every address]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::known_address,
        env = "PILOTHOUSE_PROMETHEUS_ADDR",
        help_heading = "Addresses"
    )]
    pub prometheus_addr: Option<SocketAddr>,

    /// The Envoy to run
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "envoy",
        env = "PILOTHOUSE_ENVOY",
        help_heading = "Envoy"
    )]
    pub envoy: PathBuf,

    /// Where the bootstrap is written, as envoy-rev.json, and uses.json, what a proxy on demand used
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/istio/proxy",
        env = "PILOTHOUSE_CONFIG_DIR",
        help_heading = "Envoy"
    )]
    pub config_dir: PathBuf,

    /// YAML or JSON that is laid over the bootstrap: objects are merged, null takes a field away,
    /// lists of things with names are merged by name, everything else is replaced
    #[arg(long, value_name = "FILE", env = "PILOTHOUSE_TEMPLATE", help_heading = "Envoy")]
    pub template: Option<PathBuf>,

    /// Print the bootstrap and end
    #[arg(long, env = "PILOTHOUSE_BOOTSTRAP_ONLY", help_heading = "Envoy")]
    pub bootstrap_only: bool,

    /// Worker threads; 0 for one a core [default: concurrency of the proxy config, else 2]
    #[arg(
        long, value_name = "N", value_parser = flags::threads,
        env = "PILOTHOUSE_CONCURRENCY", help_heading = "Envoy"
    )]
    pub concurrency: Option<u32>,

    /// Envoy's log level
    #[arg(
        long,
        alias = "proxyLogLevel",
        value_name = "LEVEL",
        default_value = "warning",
        env = "PILOTHOUSE_PROXY_LOG_LEVEL",
        help_heading = "Envoy"
    )]
    pub proxy_log_level: String,

    /// Log levels of Envoy's parts
    #[arg(
        long,
        alias = "proxyComponentLogLevel",
        value_name = "LIST",
        default_value = "misc:error",
        env = "PILOTHOUSE_PROXY_COMPONENT_LOG_LEVEL",
        help_heading = "Envoy"
    )]
    pub proxy_component_log_level: String,

    /// Further flags for Envoy, after `--`
    #[arg(last = true, value_name = "ENVOY FLAG")]
    pub envoy_args: Vec<String>,

    /// How long Envoy takes to close the connections of a listener that was replaced, and the longest
    /// wait with --exit-on-zero-active-connections [default: drainDuration of the proxy config, else
    /// 45s]
    #[arg(
        long, alias = "drainDuration", value_name = "DURATION", value_parser = flags::pause_in_seconds,
        env = "PILOTHOUSE_DRAIN_TIME", help_heading = "Ending"
    )]
    pub drain_time: Option<Duration>,

    /// How long connections may go on after SIGTERM, 0 for not at all; a plain number is one of seconds
    /// [default: TERMINATION_DRAIN_DURATION_SECONDS, else terminationDrainDuration of the proxy config,
    /// else by the grace period, else 5s]
    #[arg(
        long, value_name = "DURATION", value_parser = flags::pause_in_seconds,
        env = "TERMINATION_DRAIN_DURATION", help_heading = "Ending"
    )]
    pub termination_drain_duration: Option<Duration>,

    /// The pod's grace period. With it, and without a drain duration, a sidecar goes on until the
    /// application beside it has ended
    #[arg(
        long, value_name = "DURATION", value_parser = flags::pause_in_seconds,
        env = "PILOTHOUSE_TERMINATION_GRACE_PERIOD", help_heading = "Ending"
    )]
    pub termination_grace_period: Option<Duration>,

    /// After SIGTERM wait as long as there are connections, at least the minimum drain duration and at
    /// most the drain time
    #[arg(
        long,
        env = "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        help_heading = "Ending"
    )]
    pub exit_on_zero_active_connections: bool,

    /// The least time between SIGTERM and the end with --exit-on-zero-active-connections
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = flags::pause_in_seconds,
        env = "MINIMUM_DRAIN_DURATION", help_heading = "Ending"
    )]
    pub minimum_drain_duration: Duration,

    /// What the agent logs, for instance "debug"
    #[arg(
        long, value_parser = flags::log_filter, default_value = "info",
        env = "PILOTHOUSE_LOG", help_heading = "Process"
    )]
    pub log: String,
}

impl fmt::Display for AgentArgs {
    /// One line with what is in force and is not in the bootstrap.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "proxy-type={} xds={:?} envoy={} config-dir={}",
            self.proxy_type.as_str(),
            self.xds,
            self.envoy.display(),
            self.config_dir.display(),
        )
    }
}

/// `port` of every address: IPv6's wildcard serves both families, but may not be had where the kernel
/// has no IPv6, so it is taken only where the pod has such an address.
pub(super) fn everywhere(port: u16, addresses: &[IpAddr]) -> SocketAddr {
    match addresses.iter().any(IpAddr::is_ipv6) {
        true => (Ipv6Addr::UNSPECIFIED, port).into(),
        false => (Ipv4Addr::UNSPECIFIED, port).into(),
    }
}

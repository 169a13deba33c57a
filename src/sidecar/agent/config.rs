//! What the agent is to do, read from flags, environment and files. Everything that can be wrong with
//! them is found here, before anything is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::app_metrics::{APP_METRICS, AppMetricsError, Target};
use super::app_probes::{APP_PROBERS, Probers, ProbersError};
use super::args::{AgentArgs, ProxyType, Xds, everywhere};
use super::discovery::{ClusterDiscovery, Discovery};
use super::node::{self, Node};
use super::privilege;
use super::proxy_config::{ProxyConfig, ProxyConfigError};
use super::uses::parse_uses;
use crate::names::{DISCOVERY_METADATA, USES_METADATA};
use crate::sidecar::credentials::{Credentials, TlsMode};
use crate::sidecar::host_port::{HostPort, HostPortError};
use crate::well_known::{
    AGENT_STATUS_PORT, DEFAULT_DISCOVERY_ADDRESS, DEFAULT_SECURE_DISCOVERY_ADDRESS,
    ENVOY_HEALTH_PORT, ENVOY_PROMETHEUS_PORT,
};

const DEFAULT_CONCURRENCY: u32 = 2;
const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(45);
const DEFAULT_TERMINATION_DRAIN: Duration = Duration::from_secs(5);
/// Istio's variable for the time of draining, a number of seconds.
const DRAIN_SECONDS: &str = "TERMINATION_DRAIN_DURATION_SECONDS";
/// What is left of the grace period when the agent ends Envoy, at most.
const EXIT_MARGIN: Duration = Duration::from_secs(1);

/// What is wrong with what the agent was told.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("the default discovery address: {0}")]
    Discovery(HostPortError),
    #[error("--instance-ip (INSTANCE_IP, INSTANCE_IPS): {found:?} is no IP address")]
    InstanceIp { found: String },
    #[error(
        "this machine has no address to go out with ({error}), so give the pod's: --instance-ip or \
         INSTANCE_IP"
    )]
    NoAddress { error: std::io::Error },
    #[error("--proxy-config (PROXY_CONFIG): {0}")]
    ProxyConfig(#[from] ProxyConfigError),
    #[error("{DRAIN_SECONDS} is {found:?}, which is no whole number of seconds")]
    DrainSeconds { found: String },
    #[error("{APP_PROBERS}: {0}")]
    Probers(#[from] ProbersError),
    #[error("{APP_METRICS}: {0}")]
    AppMetrics(#[from] AppMetricsError),
    #[error(transparent)]
    Node(#[from] node::NodeError),
    #[error("{from}: {error}")]
    ClusterDiscovery { from: &'static str, error: String },
    #[error(
        "--discovery on-demand needs --xds delta, and --xds (PILOTHOUSE_XDS) is sotw: in the state of \
         the world one cluster more cannot be asked for. Leave --xds out, or --discovery"
    )]
    OnDemandWithoutDelta,
    #[error(
        "--discovery on-demand is for sidecars, and --proxy-type (PILOTHOUSE_PROXY_TYPE) is router: a \
         router has the clusters of all Services. Leave --discovery out"
    )]
    OnDemandRouter,
}

/// All that the agent needs to know.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub node: Node,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Where the control plane is.
    pub discovery: HostPort,
    /// With what it is met over TLS; `None` for plaintext.
    pub credentials: Option<Credentials>,
    pub xds: Xds,
    /// Which clusters Envoy asks for there.
    pub clusters: ClusterDiscovery,
    pub admin: SocketAddr,
    pub status: SocketAddr,
    pub health: SocketAddr,
    pub prometheus: SocketAddr,
    pub envoy: EnvoyOptions,
    pub config_dir: PathBuf,
    pub template: Option<PathBuf>,
    pub drain_policy: DrainPolicy,
    pub probers: Probers,
    /// Where the application's own metrics are, if they are to be merged.
    pub app_metrics: Option<Target>,
}

/// How Envoy is called.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    pub program: PathBuf,
    pub concurrency: u32,
    pub log_level: String,
    pub component_log_level: String,
    pub drain_time: Duration,
    pub more: Vec<OsString>,
}

/// How long the end may take, see `drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPolicy {
    /// This long, whatever happens.
    Fixed(Duration),
    /// As long as there are connections.
    UntilIdle { at_least: Duration, at_most: Duration },
    /// As long as the application is there.
    UntilApplicationEnds { at_least: Duration, at_most: Duration },
}

impl AgentConfig {
    /// From the flags, and from what of the environment has no flag (`ISTIO_META_…`).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        args: &AgentArgs,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let given = ProxyConfig::parse(args.proxy_config.as_deref().unwrap_or_default())?;
        let discovery = match args.discovery_address.clone().or(given.discovery_address) {
            Some(discovery) => discovery,
            None => default_discovery(args.tls.tls).parse().map_err(ConfigError::Discovery)?,
        };
        let credentials = args.tls.credentials(&discovery, None);
        let addresses = addresses(args)?;
        let drain_time = args.drain_time.or(given.drain).unwrap_or(DEFAULT_DRAIN_TIME);
        let drain_policy = drain_policy(args, environment, given.termination_drain, drain_time)?;
        let probers = environment.get(APP_PROBERS).map(String::as_str).unwrap_or_default();
        let listen = |address: Option<SocketAddr>, port| {
            address.unwrap_or_else(|| everywhere(port, &addresses))
        };
        let (status, health, prometheus) = (
            listen(args.status_addr, AGENT_STATUS_PORT),
            listen(args.health_addr, ENVOY_HEALTH_PORT),
            listen(args.prometheus_addr, ENVOY_PROMETHEUS_PORT),
        );
        let mut node = Node::new(identity(args, addresses), environment)?;
        let clusters = cluster_discovery(args, &mut node)?;
        Ok(Self {
            discovery,
            credentials,
            domain: args.domain.clone(),
            xds: args.xds,
            clusters,
            admin: args.admin_addr,
            status,
            health,
            prometheus,
            envoy: EnvoyOptions {
                program: args.envoy.clone(),
                concurrency: args.concurrency.or(given.concurrency).unwrap_or(DEFAULT_CONCURRENCY),
                log_level: args.proxy_log_level.clone(),
                component_log_level: args.proxy_component_log_level.clone(),
                drain_time,
                more: args.envoy_args.iter().map(OsString::from).collect(),
            },
            config_dir: args.config_dir.clone(),
            template: args.template.clone(),
            drain_policy,
            probers: Probers::parse(probers)?,
            app_metrics: Target::parse(environment.get(APP_METRICS).map(String::as_str))?,
            node,
        })
    }

    /// Whether the proxy stands beside a workload, which has its own reasons to go out until the end.
    pub fn is_sidecar(&self) -> bool {
        self.node.proxy_type == ProxyType::Sidecar
    }
}

/// What flags say, else the node's metadata, from which it is taken: there stands what is in force.
fn cluster_discovery(args: &AgentArgs, node: &mut Node) -> Result<ClusterDiscovery, ConfigError> {
    let wrong = |from| move |error| ConfigError::ClusterDiscovery { from, error };
    let mut said = |key: &str| match node.metadata.remove(key) {
        Some(serde_json::Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    let (mode, uses) = (said(DISCOVERY_METADATA), said(USES_METADATA));
    let mode = match (args.discovery, mode) {
        (Some(mode), _) => mode,
        (None, Some(text)) => Discovery::parse(&text).map_err(wrong("ISTIO_META_DISCOVERY"))?,
        (None, None) => Discovery::default(),
    };
    let named = match (args.uses.as_deref(), uses.as_deref()) {
        (Some(text), _) => parse_uses(text).map_err(wrong("--uses (PILOTHOUSE_USES)"))?,
        (None, text) => parse_uses(text.unwrap_or_default()).map_err(wrong("ISTIO_META_USES"))?,
    };
    let mut clusters = ClusterDiscovery::new(mode, named);
    if clusters.is_on_demand() {
        if args.xds == Xds::Sotw {
            return Err(ConfigError::OnDemandWithoutDelta);
        }
        if args.proxy_type == ProxyType::Router {
            return Err(ConfigError::OnDemandRouter);
        }
        if !node.is_captured() {
            clusters.fall_back(
                "the pod's traffic is not captured (INTERCEPTION_MODE is NONE), so that Envoy listens \
                 on the ports of all Services and needs their clusters"
                    .to_owned(),
            );
        }
    }
    Ok(clusters)
}

fn default_discovery(tls: Option<TlsMode>) -> &'static str {
    match tls {
        None | Some(TlsMode::Off) => DEFAULT_DISCOVERY_ADDRESS,
        Some(TlsMode::Certificate | TlsMode::Token) => DEFAULT_SECURE_DISCOVERY_ADDRESS,
    }
}

/// How the end is to be, by the first of these that says so: `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`, the time
/// of draining as flag, in Istio's variable and in the proxy configuration, the pod's grace period.
fn drain_policy(
    args: &AgentArgs,
    environment: &BTreeMap<String, String>,
    configured: Option<Duration>,
    drain_time: Duration,
) -> Result<DrainPolicy, ConfigError> {
    let at_least = args.minimum_drain_duration;
    if args.exit_on_zero_active_connections {
        return Ok(DrainPolicy::UntilIdle { at_least, at_most: drain_time.max(at_least) });
    }
    let seconds = environment.get(DRAIN_SECONDS).filter(|text| !text.is_empty());
    let seconds = seconds.map(|text| {
        let seconds = text.trim().parse::<u32>();
        let wrong = |_| ConfigError::DrainSeconds { found: text.clone() };
        seconds.map(|seconds| Duration::from_secs(seconds.into())).map_err(wrong)
    });
    let seconds = seconds.transpose()?;
    if let Some(total) = args.termination_drain_duration.or(seconds).or(configured) {
        return Ok(DrainPolicy::Fixed(total));
    }
    // A router stands beside no application.
    Ok(match args.termination_grace_period.filter(|_| args.proxy_type == ProxyType::Sidecar) {
        Some(grace) => {
            let at_most = grace - EXIT_MARGIN.min(grace / 5);
            DrainPolicy::UntilApplicationEnds { at_least: at_least.min(at_most), at_most }
        }
        None => DrainPolicy::Fixed(DEFAULT_TERMINATION_DRAIN),
    })
}

fn identity(args: &AgentArgs, addresses: Vec<IpAddr>) -> node::Identity<'_> {
    node::Identity {
        proxy_type: args.proxy_type,
        name: non_empty(args.pod_name.as_deref()).map_or_else(host_name, str::to_owned),
        namespace: non_empty(Some(&args.pod_namespace)).unwrap_or("default"),
        domain: &args.domain,
        addresses,
        labels_file: Path::new(&args.labels_file),
        zone: non_empty(args.zone.as_deref()),
        region: non_empty(args.region.as_deref()),
        unprivileged: privilege::is_unprivileged(),
    }
}

/// An environment variable that is set to nothing says nothing.
fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn addresses(args: &AgentArgs) -> Result<Vec<IpAddr>, ConfigError> {
    let mut addresses = Vec::new();
    for text in args.instance_ip.iter().chain(&args.instance_ips) {
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let address =
            text.parse().map_err(|_| ConfigError::InstanceIp { found: text.to_owned() })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        addresses.push(outgoing_address().map_err(|error| ConfigError::NoAddress { error })?);
    }
    Ok(addresses)
}

/// The address that this machine would send from. Nothing is sent: connecting a datagram socket only
/// looks up the way.
fn outgoing_address() -> std::io::Result<IpAddr> {
    let try_to = |from: &str, to: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    // Addresses set aside for documentation (RFC 5737, RFC 3849).
    try_to("0.0.0.0:0", "192.0.2.1:9").or_else(|_| try_to("[::]:0", "[2001:db8::1]:9"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn config(flags: &[&str]) -> Result<AgentConfig, ConfigError> {
        let flags = ["agent", "--instance-ip=10.0.0.1"].iter().chain(flags);
        AgentConfig::new(&Line::parse_from(flags).args, &BTreeMap::new())
    }

    #[test]
    fn istios_proxy_config_counts_below_flags() {
        let yaml = "--proxy-config={discoveryAddress: 'pilot.mesh:15010', concurrency: 3, \
                    drainDuration: 20s, terminationDrainDuration: 7s, tracing: {zipkin: {}}}";
        let config_of = |flags: &[&str]| config(flags).unwrap();
        let from_yaml = config_of(&[yaml]);
        assert_eq!(from_yaml.discovery.host, "pilot.mesh");
        assert_eq!(from_yaml.envoy.concurrency, 3);
        assert_eq!(from_yaml.envoy.drain_time, Duration::from_secs(20));
        assert_eq!(from_yaml.drain_policy, DrainPolicy::Fixed(Duration::from_secs(7)));
        let flags = [yaml, "--discovery-address=[fd00::1]:1", "--termination-drain-duration=1s"];
        let from_flags = config_of(&flags);
        assert_eq!(from_flags.discovery, HostPort { host: "fd00::1".to_owned(), port: 1 });
        assert_eq!(from_flags.drain_policy, DrainPolicy::Fixed(Duration::from_secs(1)));
        let neither = config_of(&["--exit-on-zero-active-connections"]);
        assert_eq!(neither.discovery.host, "istio-pilot.istio-system");
        let (at_least, at_most) = (Duration::from_secs(5), Duration::from_secs(45));
        assert_eq!(neither.drain_policy, DrainPolicy::UntilIdle { at_least, at_most });
    }

    #[test]
    fn the_first_that_says_how_long_the_end_may_take_decides() {
        let environment = BTreeMap::from([(DRAIN_SECONDS.to_owned(), "8".to_owned())]);
        let none = BTreeMap::new();
        let ending = |flags: &[&str], environment: &BTreeMap<String, String>| {
            let flags = ["agent", "--instance-ip=10.0.0.1"].iter().chain(flags);
            AgentConfig::new(&Line::parse_from(flags).args, environment).unwrap().drain_policy
        };
        let after = |seconds| DrainPolicy::Fixed(Duration::from_secs(seconds));
        let flag = "--termination-drain-duration=9s";
        let yaml = "--proxy-config={terminationDrainDuration: 7s}";
        let grace = "--termination-grace-period=30s";
        assert_eq!(ending(&[flag, yaml, grace], &environment), after(9));
        assert_eq!(ending(&[yaml, grace], &environment), after(8));
        assert_eq!(ending(&[yaml, grace], &none), after(7));
        assert_eq!(ending(&[], &none), after(5));
        assert_eq!(ending(&[grace, "--proxy-type=router"], &none), after(5));
        let with = |at_least, at_most| DrainPolicy::UntilApplicationEnds {
            at_least: Duration::from_millis(at_least),
            at_most: Duration::from_millis(at_most),
        };
        assert_eq!(ending(&[grace], &none), with(5_000, 29_000));
        // The kill comes at the end of the grace period, however short that is.
        assert_eq!(ending(&["--termination-grace-period=1s"], &none), with(800, 800));
        assert_eq!(ending(&["--termination-grace-period=0s"], &none), with(0, 0));
        let wrong = BTreeMap::from([(DRAIN_SECONDS.to_owned(), "8s".to_owned())]);
        let line = Line::parse_from(["agent", "--instance-ip=10.0.0.1"]);
        let error = AgentConfig::new(&line.args, &wrong).unwrap_err().to_string();
        assert!(error.contains("TERMINATION_DRAIN_DURATION_SECONDS is \"8s\""), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (flag, words) in [
            ("--proxy-config=[a]", &["PROXY_CONFIG", "cannot be read"][..]),
            ("--proxy-config={discoveryAddress: x}", &["discoveryAddress", "PROXY_CONFIG"]),
            ("--proxy-config=[", &["PROXY_CONFIG", "cannot be read"]),
            ("--proxy-config={concurrency: 4294967295}", &["PROXY_CONFIG", "concurrency", "1024"]),
            ("--proxy-config={drainDuration: 18446744073709551615s}", &["drainDuration"]),
            ("--proxy-config={drainDuration: long}", &["drainDuration", "long", "5s"]),
            ("--instance-ips=10.0.0.300", &["INSTANCE_IP", "10.0.0.300"]),
        ] {
            let error = config(&[flag]).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{flag}: {error}");
        }
    }

    #[test]
    fn defaults_that_the_help_tells_in_words_are_those_in_force() {
        use clap::CommandFactory as _;

        let line = Line::command();
        for (flag, default) in [
            (
                "discovery-address",
                format!(
                    "else {DEFAULT_SECURE_DISCOVERY_ADDRESS} with TLS and \
                     {DEFAULT_DISCOVERY_ADDRESS} without"
                ),
            ),
            ("status-addr", format!("port {AGENT_STATUS_PORT} of every address")),
            ("health-addr", format!("port {ENVOY_HEALTH_PORT} of every address")),
            ("prometheus-addr", format!("port {ENVOY_PROMETHEUS_PORT} of every address")),
            ("concurrency", format!("else {DEFAULT_CONCURRENCY}")),
            ("drain-time", format!("else {DEFAULT_DRAIN_TIME:?}")),
            ("termination-drain-duration", format!("else {DEFAULT_TERMINATION_DRAIN:?}")),
        ] {
            let argument = line.get_arguments().find(|one| one.get_long() == Some(flag)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("{default}]")), "--{flag}: {help}");
        }
    }

    #[test]
    fn clusters_on_demand_are_for_captured_sidecars_over_delta() {
        let line = |flags: &[&str], environment: &[(&str, &str)]| {
            let flags = ["agent", "--instance-ip=10.0.0.1"].iter().chain(flags);
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            AgentConfig::new(&Line::parse_from(flags).args, &environment.iter().map(own).collect())
        };
        let on_demand = "--discovery=on-demand";
        let found = line(&[on_demand, "--uses=a, b.c a"], &[]).unwrap().clusters;
        assert!(found.is_on_demand());
        assert_eq!(found.named(), ["a", "b.c"]);
        assert!(!line(&[], &[]).unwrap().clusters.is_on_demand());

        // A flag is above the metadata, which says what is in force.
        let metadata = [("ISTIO_META_DISCOVERY", "on-demand"), ("ISTIO_META_USES", "d")];
        let config = line(&[], &metadata).unwrap();
        assert!(config.clusters.is_on_demand() && !config.node.metadata.contains_key("USES"));
        assert_eq!(config.clusters.named(), ["d"]);
        assert!(!line(&["--discovery=all"], &metadata).unwrap().clusters.is_on_demand());

        let none = [("ISTIO_META_INTERCEPTION_MODE", "NONE")];
        let said = line(&[on_demand], &none).unwrap().clusters.to_string();
        assert!(said.starts_with("discovery all, not on-demand: the pod's traffic"), "{said}");
        for (flags, environment, words) in [
            (&[on_demand, "--xds=sotw"][..], &[][..], "needs --xds delta"),
            (&[on_demand, "--proxy-type=router"], &[], "is for sidecars"),
            (&["--uses=a;b"], &[], "--uses (PILOTHOUSE_USES): \"a;b\" is neither"),
            (&[], &[("ISTIO_META_DISCOVERY", "some")], "ISTIO_META_DISCOVERY: \"some\" is neither"),
        ] {
            let error = line(flags, environment).unwrap_err().to_string();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn both_families_are_served_where_the_pod_has_ipv6() {
        assert_eq!(config(&[]).unwrap().status.to_string(), "0.0.0.0:15020");
        assert_eq!(config(&["--instance-ips=fd00::1"]).unwrap().health.to_string(), "[::]:15021");
    }
}

//! What the agent is to do, read from flags, environment and files. Everything that can be wrong with
//! them is found here, before anything is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::app_probes::{APP_PROBERS, Probers, ProbersError};
use super::args::{
    Args, DEFAULT_DISCOVERY_ADDRESS, HEALTH_PORT, PROMETHEUS_PORT, ProxyType, STATUS_PORT, Xds,
    everywhere,
};
use super::node::{self, Node};
use super::privilege;
use super::proxy_config::{ProxyConfig, ProxyConfigError};

const DEFAULT_CONCURRENCY: u32 = 2;
const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(45);
const DEFAULT_TERMINATION_DRAIN: Duration = Duration::from_secs(5);
/// Istio's variable for the time of draining, a number of seconds.
const DRAIN_SECONDS: &str = "TERMINATION_DRAIN_DURATION_SECONDS";
/// What is left of the grace period when the agent ends Envoy, at most.
const BEFORE_THE_KILL: Duration = Duration::from_secs(1);

/// What is wrong with what the agent was told.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error(
        "--discovery-address (PILOTHOUSE_DISCOVERY_ADDRESS) is {found:?}, which is no HOST:PORT: give \
         for instance {DEFAULT_DISCOVERY_ADDRESS}"
    )]
    DiscoveryAddress { found: String },
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
    #[error(transparent)]
    Node(#[from] node::NodeError),
}

/// All that the agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: Node,
    /// DNS domain of the cluster.
    pub domain: String,
    pub discovery: Discovery,
    pub xds: Xds,
    pub admin: SocketAddr,
    pub status: SocketAddr,
    pub health: SocketAddr,
    pub prometheus: SocketAddr,
    pub envoy: Launch,
    pub config_dir: PathBuf,
    pub template: Option<PathBuf>,
    pub ending: Ending,
    pub probers: Probers,
}

/// How Envoy is called.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub concurrency: u32,
    pub log_level: String,
    pub component_log_level: String,
    pub drain_time: Duration,
    pub more: Vec<OsString>,
}

/// How long the end may take, see `drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This long, whatever happens.
    After(Duration),
    /// As long as there are connections.
    WhenQuiet { at_least: Duration, at_most: Duration },
    /// As long as the application is there.
    WithApplication { at_least: Duration, at_most: Duration },
}

/// Where the control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

impl Discovery {
    /// `HOST:PORT`, an IPv6 address in brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match bare {
            Some(inside) => inside.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
            None => {
                let of_a_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                !host.is_empty() && host.chars().all(of_a_name)
            }
        };
        valid.then(|| Self { host: bare.unwrap_or(host).to_owned(), port })
    }

    /// The address, if it is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl std::fmt::Display for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Config {
    /// From the flags, and from what of the environment has no flag (`ISTIO_META_…`).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(args: &Args, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let given = ProxyConfig::parse(args.proxy_config.as_deref().unwrap_or_default())?;
        let discovery = args.discovery_address.as_deref();
        let discovery = match (discovery, given.discovery_address) {
            (None, Some(configured)) => configured,
            (flag, _) => {
                let found = flag.unwrap_or(DEFAULT_DISCOVERY_ADDRESS);
                Discovery::parse(found)
                    .ok_or_else(|| ConfigError::DiscoveryAddress { found: found.to_owned() })?
            }
        };
        let addresses = addresses(args)?;
        let drain_time = args.drain_time.or(given.drain).unwrap_or(DEFAULT_DRAIN_TIME);
        let ending = ending(args, environment, given.termination_drain, drain_time)?;
        let probers = environment.get(APP_PROBERS).map(String::as_str).unwrap_or_default();
        let listen = |address: Option<SocketAddr>, port| {
            address.unwrap_or_else(|| everywhere(port, &addresses))
        };
        Ok(Self {
            discovery,
            domain: args.domain.clone(),
            xds: args.xds,
            admin: args.admin_addr,
            status: listen(args.status_addr, STATUS_PORT),
            health: listen(args.health_addr, HEALTH_PORT),
            prometheus: listen(args.prometheus_addr, PROMETHEUS_PORT),
            envoy: Launch {
                program: args.envoy.clone(),
                concurrency: args.concurrency.or(given.concurrency).unwrap_or(DEFAULT_CONCURRENCY),
                log_level: args.proxy_log_level.clone(),
                component_log_level: args.proxy_component_log_level.clone(),
                drain_time,
                more: args.envoy_args.iter().map(OsString::from).collect(),
            },
            config_dir: args.config_dir.clone(),
            template: args.template.clone(),
            ending,
            probers: Probers::parse(probers)?,
            node: Node::new(identity(args, addresses), environment)?,
        })
    }

    /// Whether the proxy stands beside a workload, which has its own reasons to go out until the end.
    pub fn is_sidecar(&self) -> bool {
        self.node.proxy_type == ProxyType::Sidecar
    }
}

/// How the end is to be, by the first of these that says so: `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`, the time
/// of draining as flag, in Istio's variable and in the proxy configuration, the pod's grace period.
fn ending(
    args: &Args,
    environment: &BTreeMap<String, String>,
    configured: Option<Duration>,
    drain_time: Duration,
) -> Result<Ending, ConfigError> {
    let at_least = args.minimum_drain_duration;
    if args.exit_on_zero_active_connections {
        return Ok(Ending::WhenQuiet { at_least, at_most: drain_time.max(at_least) });
    }
    let seconds = environment.get(DRAIN_SECONDS).filter(|text| !text.is_empty());
    let seconds = seconds.map(|text| {
        let seconds = text.trim().parse::<u32>();
        let wrong = |_| ConfigError::DrainSeconds { found: text.clone() };
        seconds.map(|seconds| Duration::from_secs(seconds.into())).map_err(wrong)
    });
    let seconds = seconds.transpose()?;
    if let Some(total) = args.termination_drain_duration.or(seconds).or(configured) {
        return Ok(Ending::After(total));
    }
    // A router stands beside no application.
    Ok(match args.termination_grace_period.filter(|_| args.proxy_type == ProxyType::Sidecar) {
        Some(grace) => {
            let at_most = grace - BEFORE_THE_KILL.min(grace / 5);
            Ending::WithApplication { at_least: at_least.min(at_most), at_most }
        }
        None => Ending::After(DEFAULT_TERMINATION_DRAIN),
    })
}

fn identity(args: &Args, addresses: Vec<IpAddr>) -> node::Identity<'_> {
    node::Identity {
        proxy_type: args.proxy_type,
        name: filled(args.pod_name.as_deref()).map_or_else(host_name, str::to_owned),
        namespace: filled(Some(&args.pod_namespace)).unwrap_or("default"),
        domain: &args.domain,
        addresses,
        labels_file: Path::new(&args.labels_file),
        zone: filled(args.zone.as_deref()),
        region: filled(args.region.as_deref()),
        unprivileged: privilege::is_unprivileged(),
    }
}

/// An environment variable that is set to nothing says nothing.
fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn addresses(args: &Args) -> Result<Vec<IpAddr>, ConfigError> {
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
        addresses.push(outgoing().map_err(|error| ConfigError::NoAddress { error })?);
    }
    Ok(addresses)
}

/// The address that this machine would send from. Nothing is sent: connecting a datagram socket only
/// looks up the way.
fn outgoing() -> std::io::Result<IpAddr> {
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
        args: Args,
    }

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let flags = ["agent", "--instance-ip=10.0.0.1"].iter().chain(flags);
        Config::new(&Line::parse_from(flags).args, &BTreeMap::new())
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
        assert_eq!(from_yaml.ending, Ending::After(Duration::from_secs(7)));
        let flags = [yaml, "--discovery-address=[fd00::1]:1", "--termination-drain-duration=1s"];
        let from_flags = config_of(&flags);
        assert_eq!(from_flags.discovery, Discovery { host: "fd00::1".to_owned(), port: 1 });
        assert_eq!(from_flags.ending, Ending::After(Duration::from_secs(1)));
        let neither = config_of(&["--exit-on-zero-active-connections"]);
        assert_eq!(neither.discovery.host, "istio-pilot.istio-system");
        let (at_least, at_most) = (Duration::from_secs(5), Duration::from_secs(45));
        assert_eq!(neither.ending, Ending::WhenQuiet { at_least, at_most });
    }

    #[test]
    fn the_first_that_says_how_long_the_end_may_take_decides() {
        let environment = BTreeMap::from([(DRAIN_SECONDS.to_owned(), "8".to_owned())]);
        let none = BTreeMap::new();
        let ending = |flags: &[&str], environment: &BTreeMap<String, String>| {
            let flags = ["agent", "--instance-ip=10.0.0.1"].iter().chain(flags);
            Config::new(&Line::parse_from(flags).args, environment).unwrap().ending
        };
        let after = |seconds| Ending::After(Duration::from_secs(seconds));
        let flag = "--termination-drain-duration=9s";
        let yaml = "--proxy-config={terminationDrainDuration: 7s}";
        let grace = "--termination-grace-period=30s";
        assert_eq!(ending(&[flag, yaml, grace], &environment), after(9));
        assert_eq!(ending(&[yaml, grace], &environment), after(8));
        assert_eq!(ending(&[yaml, grace], &none), after(7));
        assert_eq!(ending(&[], &none), after(5));
        assert_eq!(ending(&[grace, "--proxy-type=router"], &none), after(5));
        let with = |at_least, at_most| Ending::WithApplication {
            at_least: Duration::from_millis(at_least),
            at_most: Duration::from_millis(at_most),
        };
        assert_eq!(ending(&[grace], &none), with(5_000, 29_000));
        // The kill comes at the end of the grace period, however short that is.
        assert_eq!(ending(&["--termination-grace-period=1s"], &none), with(800, 800));
        assert_eq!(ending(&["--termination-grace-period=0s"], &none), with(0, 0));
        let wrong = BTreeMap::from([(DRAIN_SECONDS.to_owned(), "8s".to_owned())]);
        let line = Line::parse_from(["agent", "--instance-ip=10.0.0.1"]);
        let error = Config::new(&line.args, &wrong).unwrap_err().to_string();
        assert!(error.contains("TERMINATION_DRAIN_DURATION_SECONDS is \"8s\""), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (flag, words) in [
            ("--discovery-address=istio-pilot", &["--discovery-address", "HOST:PORT"][..]),
            ("--discovery-address=http://pilot:15010", &["--discovery-address", "HOST:PORT"]),
            ("--discovery-address=::1:15010", &["HOST:PORT"]),
            ("--discovery-address=pilot:0", &["HOST:PORT"]),
            ("--proxy-config=[a]", &["PROXY_CONFIG", "cannot be read"]),
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
    fn both_families_are_served_where_the_pod_has_ipv6() {
        assert_eq!(config(&[]).unwrap().status.to_string(), "0.0.0.0:15020");
        assert_eq!(config(&["--instance-ips=fd00::1"]).unwrap().health.to_string(), "[::]:15021");
    }
}

//! What the agent is to do, read from flags, environment and files. Everything that can be wrong with
//! them is found here, before anything is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::args::{
    Args, DEFAULT_DISCOVERY_ADDRESS, HEALTH_PORT, PROMETHEUS_PORT, ProxyType, STATUS_PORT, Xds,
    everywhere,
};
use super::node::{self, Node};
use crate::flags;
use crate::yaml;

const DEFAULT_CONCURRENCY: u32 = 2;
const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(45);
const DEFAULT_TERMINATION_DRAIN: Duration = Duration::from_secs(5);

/// What is wrong with what the agent was told.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error(
        "{from} is {found:?}, which is no HOST:PORT: give for instance {DEFAULT_DISCOVERY_ADDRESS}"
    )]
    DiscoveryAddress { from: &'static str, found: String },
    #[error("--instance-ip (INSTANCE_IP, INSTANCE_IPS): {found:?} is no IP address")]
    InstanceIp { found: String },
    #[error(
        "this machine has no address to go out with ({error}), so give the pod's: --instance-ip or \
         INSTANCE_IP"
    )]
    NoAddress { error: std::io::Error },
    #[error("--proxy-config (PROXY_CONFIG) cannot be read: {error}")]
    ProxyConfig { error: String },
    #[error("--proxy-config (PROXY_CONFIG): {field} is {found:?}, which is no duration like 5s")]
    ProxyConfigDuration { field: &'static str, found: String },
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
}

/// Where the control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

impl Discovery {
    /// `HOST:PORT`, an IPv6 address in brackets. `from` names the place for the error.
    fn parse(text: &str, from: &'static str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::DiscoveryAddress { from, found: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match bare {
            Some(inside) => inside.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
            None => {
                let of_a_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                !host.is_empty() && host.chars().all(of_a_name)
            }
        };
        match valid && port != 0 {
            true => Ok(Self { host: bare.unwrap_or(host).to_owned(), port }),
            false => Err(wrong()),
        }
    }

    /// The address, if it is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// The part of Istio's `ProxyConfig` that counts here; all else in it is for what is not there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    discovery_address: Option<String>,
    concurrency: Option<u32>,
    drain_duration: Option<String>,
    termination_drain_duration: Option<String>,
}

impl ProxyConfig {
    fn parse(text: Option<&str>) -> Result<Self, ConfigError> {
        match text.map(str::trim).filter(|text| !text.is_empty()) {
            None => Ok(Self::default()),
            Some(text) => serde_saphyr::from_str(text)
                .map_err(|error| yaml::explain(&error, text.as_bytes()))
                .map_err(|error| ConfigError::ProxyConfig { error }),
        }
    }
}

fn duration(
    field: &'static str,
    text: Option<&String>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    flags::pause_in_seconds(text)
        .map_err(|_| ConfigError::ProxyConfigDuration { field, found: text.clone() })
}

impl Config {
    /// From the flags, and from what of the environment has no flag (`ISTIO_META_…`).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(args: &Args, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let given = ProxyConfig::parse(args.proxy_config.as_deref())?;
        let discovery = match (&args.discovery_address, &given.discovery_address) {
            (Some(flag), _) => Discovery::parse(flag, "--discovery-address")?,
            (None, Some(configured)) => {
                Discovery::parse(configured, "discoveryAddress in --proxy-config (PROXY_CONFIG)")?
            }
            (None, None) => Discovery::parse(DEFAULT_DISCOVERY_ADDRESS, "the default")?,
        };
        if let Some(threads) = given.concurrency {
            flags::threads(&threads.to_string()).map_err(|error| ConfigError::ProxyConfig {
                error: format!("concurrency is {threads}: {error}"),
            })?;
        }
        let addresses = addresses(args)?;
        let drain_time = match args.drain_time {
            Some(flag) => flag,
            None => duration("drainDuration", given.drain_duration.as_ref(), DEFAULT_DRAIN_TIME)?,
        };
        let termination = match args.termination_drain_duration {
            Some(flag) => flag,
            None => duration(
                "terminationDrainDuration",
                given.termination_drain_duration.as_ref(),
                DEFAULT_TERMINATION_DRAIN,
            )?,
        };
        let ending = match args.exit_on_zero_active_connections {
            true => Ending::WhenQuiet {
                at_least: args.minimum_drain_duration,
                at_most: drain_time.max(args.minimum_drain_duration),
            },
            false => Ending::After(termination),
        };
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
            node: Node::new(identity(args, addresses), environment)?,
        })
    }

    /// Whether the proxy stands beside a workload, which has its own reasons to go out until the end.
    pub fn is_sidecar(&self) -> bool {
        self.node.proxy_type == ProxyType::Sidecar
    }
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
    fn what_is_wrong_is_named() {
        for (flag, words) in [
            ("--discovery-address=istio-pilot", &["--discovery-address", "HOST:PORT"][..]),
            ("--discovery-address=http://pilot:15010", &["--discovery-address", "HOST:PORT"]),
            ("--discovery-address=::1:15010", &["HOST:PORT"]),
            ("--discovery-address=pilot:0", &["HOST:PORT"]),
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

//! Arguments: every flag has an environment twin, and what is in force is printed at start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::ads::session;
use crate::ads::stream;
use crate::agent;
use crate::app::{self, memory};
use crate::doctor;
use crate::inject;
use crate::iptables;
use crate::names;
use crate::publish::Timing;
use crate::source::{files, kube};

/// A small, very fast Pilot: the control plane that Envoys ask what the mesh looks like.
#[derive(Debug, Parser)]
#[command(name = "pilothouse", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Envoys: watch Services and their endpoints, push CDS, EDS, LDS and RDS over ADS.
    #[command(after_help = EXAMPLES)]
    Serve(Box<Serve>),
    /// Walk the path from an Envoy to its control plane, and name the link that is broken.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Box<doctor::args::Args>),
    /// Run an Envoy beside a workload: write its bootstrap, start it, answer for its readiness.
    Agent(Box<agent::Args>),
    #[command(hide = true)]
    Tether(Box<agent::Tether>),
    #[command(after_help = INJECT_EXAMPLES)]
    Inject(Box<inject::Args>),
    #[command(after_help = IPTABLES_EXAMPLES)]
    Iptables(Box<iptables::Args>),
}

const EXAMPLES: &str = "Examples:
  pilothouse serve --manifests ./examples/bookinfo    a folder of Services and EndpointSlices
  pilothouse serve --source kube                      of the KUBECONFIG, or the cluster this runs in
  pilothouse serve --source kube --namespace shop     one namespace of it

Every flag can be given as an environment variable; the command line wins.";

const DOCTOR_EXAMPLES: &str = "Examples:
  kubectl exec POD -c istio-proxy -- pilothouse doctor    in a pod, beside its Envoy
  pilothouse doctor --service reviews.default:9080        and why nobody answers there
  pilothouse doctor --no-envoy --discovery-address 127.0.0.1:15010    through a port-forward

Exit code: 0 all is well, 1 something is broken, 2 it could not be told.";

const INJECT_EXAMPLES: &str = "Examples:
  pilothouse inject -f bookinfo.yaml | kubectl apply -f -
  kubectl get deployment reviews-v1 -o yaml | pilothouse inject -f - | kubectl apply -f -

Left alone, and said so: pods on their node's network, pods with the label or annotation
sidecar.istio.io/inject: \"false\", pods that have their sidecar. Istio's annotations
traffic.sidecar.istio.io/... (includeInboundPorts, excludeOutboundIPRanges and so on) and
sidecar.istio.io/... (proxyImage, proxyCPU, logLevel, interceptionMode and so on) count.";

const IPTABLES_EXAMPLES: &str = "Examples:
  pilothouse iptables --dry-run                       show the rules that capture everything
  pilothouse iptables -x 10.0.0.0/8 -o 3306           all but a range and a port
  pilothouse iptables --clean                         as if it had never run

Lists are separated by commas. Flags and chains are Istio's; without flags everything is captured.";

/// The kinds of source that are named by `--source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Services and endpoints of a Kubernetes API server.
    Kube,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Take the mesh from a Kubernetes API server: the one of --context or KUBECONFIG if given, else
    /// the cluster this runs in, else ~/.kube/config
    #[arg(long, value_enum, env = "PILOTHOUSE_SOURCE", help_heading = "Source (exactly one)")]
    pub source: Option<Source>,

    /// Take the mesh from manifests: a file or a folder of YAML or JSON, re-read when it changes.
    /// Repeatable
    #[arg(
        long,
        value_name = "PATH",
        env = "PILOTHOUSE_MANIFESTS",
        value_delimiter = ',',
        help_heading = "Source (exactly one)"
    )]
    pub manifests: Vec<PathBuf>,

    /// Context of the kubeconfig, instead of its current one
    #[arg(long, env = "PILOTHOUSE_CONTEXT", help_heading = "Kubernetes")]
    pub context: Option<String>,

    /// Watch this namespace only. Repeatable; all namespaces if not given
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "PILOTHOUSE_NAMESPACE",
        value_delimiter = ',',
        help_heading = "Kubernetes"
    )]
    pub namespace: Vec<String>,

    /// Where endpoints come from: EndpointSlices, core/v1 Endpoints, or slices where the server
    /// has them
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "PILOTHOUSE_ENDPOINTS",
        help_heading = "Kubernetes"
    )]
    pub endpoints: kube::EndpointsKind,

    /// Watch Nodes as well, so that endpoints have the region of their zone (needs the right to list
    /// and watch nodes)
    #[arg(long, env = "PILOTHOUSE_WATCH_NODES", help_heading = "Kubernetes")]
    pub watch_nodes: bool,

    /// How long one watch request lasts: within this and 5 s a dead connection is noticed
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_WATCH_TIMEOUT", help_heading = "Kubernetes"
    )]
    pub watch_timeout: Duration,

    /// DNS domain of the cluster
    #[arg(long, default_value = names::DEFAULT_DOMAIN, env = "PILOTHOUSE_DOMAIN", help_heading = "Kubernetes")]
    pub domain: String,

    /// Where proxies connect (xDS over plaintext gRPC)
    #[arg(
        long,
        default_value = "0.0.0.0:15010",
        env = "PILOTHOUSE_GRPC_ADDR",
        help_heading = "Addresses"
    )]
    pub grpc_addr: SocketAddr,

    /// Where people look (/debug). It shows all configuration, so it is for loopback unless you
    /// decide otherwise
    #[arg(
        long,
        default_value = "127.0.0.1:8080",
        env = "PILOTHOUSE_HTTP_ADDR",
        help_heading = "Addresses"
    )]
    pub http_addr: SocketAddr,

    /// Where probes and Prometheus ask (/ready, /live, /metrics, /version)
    #[arg(
        long,
        default_value = "0.0.0.0:15014",
        env = "PILOTHOUSE_MONITORING_ADDR",
        help_heading = "Addresses"
    )]
    pub monitoring_addr: SocketAddr,

    /// Shortest time between two snapshots; the first change after a quiet time goes at once
    #[arg(
        long, value_name = "DURATION", default_value = "100ms", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_PACE", help_heading = "Publishing"
    )]
    pub pace: Duration,

    /// How long a cluster outlives the routes to it when its service is deleted
    #[arg(
        long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_LINGER", help_heading = "Publishing"
    )]
    pub linger: Duration,

    /// Bytes of one request
    #[arg(long, default_value_t = 4 << 20, env = "PILOTHOUSE_MAX_REQUEST_BYTES", help_heading = "Limits for a proxy")]
    pub max_request_bytes: usize,

    /// Names in one subscription
    #[arg(
        long,
        default_value_t = 100_000,
        env = "PILOTHOUSE_MAX_NAMES",
        help_heading = "Limits for a proxy"
    )]
    pub max_names: usize,

    /// Resource types on one stream
    #[arg(
        long,
        default_value_t = 16,
        env = "PILOTHOUSE_MAX_TYPES",
        help_heading = "Limits for a proxy"
    )]
    pub max_types: usize,

    /// Requests a second on one stream, averaged over ten seconds
    #[arg(
        long,
        default_value_t = 500,
        env = "PILOTHOUSE_MAX_REQUESTS_PER_SECOND",
        help_heading = "Limits for a proxy"
    )]
    pub max_requests_per_second: u32,

    /// Streams from one IP address; 0 for no limit
    #[arg(
        long,
        default_value_t = 10_000,
        env = "PILOTHOUSE_MAX_STREAMS_PER_PEER",
        help_heading = "Limits for a proxy"
    )]
    pub max_streams_per_peer: usize,

    /// Bytes of memory that one connection may make the server hold (requests, subscriptions, what
    /// it does not read); 0 for no limit
    #[arg(
        long,
        default_value_t = 32 << 20,
        env = "PILOTHOUSE_MAX_CONNECTION_MEMORY",
        help_heading = "Limits for a proxy"
    )]
    pub max_connection_memory: usize,

    /// The same for all connections together; the one that holds most goes first. 0 for no limit,
    /// half of the memory that the process may use if not given
    #[arg(long, env = "PILOTHOUSE_MAX_PEER_MEMORY", help_heading = "Limits for a proxy")]
    pub max_peer_memory: Option<usize>,

    /// Until a new stream's first request
    #[arg(
        long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_FIRST_REQUEST_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub first_request_timeout: Duration,

    /// How long newer content waits for the ACK of a type's last response
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_ACK_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub ack_timeout: Duration,

    /// How long a proxy that has stopped reading may take nothing of a response before it is
    /// disconnected
    #[arg(
        long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_SEND_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub send_timeout: Duration,

    /// New proxies that are brought into sync at the same time, when many come at once; the others
    /// wait for their turn. 0 for no limit
    #[arg(
        long,
        default_value_t = 100,
        env = "PILOTHOUSE_MAX_STARTING",
        help_heading = "Limits for a proxy"
    )]
    pub max_starting: usize,

    /// HTTP/2 keepalive: a quiet peer is asked this often, and dropped if it does not answer within
    /// a third of it
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_KEEPALIVE", help_heading = "Limits for a proxy"
    )]
    pub keepalive: Duration,

    /// How long streams and requests may take to end at shutdown
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration,
        env = "PILOTHOUSE_SHUTDOWN_TIMEOUT", help_heading = "Process"
    )]
    pub shutdown_timeout: Duration,

    /// What is logged, for instance "info" or "warn,pilothouse::ads=debug". kube's own crates repeat
    /// every failure that is said in our words
    #[arg(
        long,
        default_value = "info,kube_client=off,kube_runtime=off",
        env = "PILOTHOUSE_LOG",
        help_heading = "Process"
    )]
    pub log: String,

    /// How log lines look
    #[arg(
        long,
        value_enum,
        default_value = "text",
        env = "PILOTHOUSE_LOG_FORMAT",
        help_heading = "Process"
    )]
    pub log_format: LogFormat,
}

impl Serve {
    /// What to run, once the flags fit together.
    ///
    /// # Errors
    /// Neither kind of source or both: a usage error that names them.
    pub fn config(&self) -> Result<app::Config, clap::Error> {
        let source = match (self.source, self.manifests.as_slice()) {
            (None, []) => {
                return Err(usage(
                    "where does the mesh come from? Give --source kube (a Kubernetes API server) \
                     or --manifests PATH (a file or folder of Services and EndpointSlices), for \
                     instance:\n\n  pilothouse serve --manifests ./examples/bookinfo",
                ));
            }
            (Some(_), [_, ..]) => {
                return Err(usage(
                    "--source kube and --manifests exclude each other: the mesh comes from one \
                     place only",
                ));
            }
            (Some(Source::Kube), []) => app::Source::Kube(kube::Config {
                context: self.context.clone(),
                namespaces: self.namespace.clone(),
                endpoints: self.endpoints,
                nodes: self.watch_nodes,
                watch_timeout: self.watch_timeout,
            }),
            (None, paths) => app::Source::Files(files::Config { paths: paths.to_vec() }),
        };
        Ok(app::Config {
            source,
            domain: self.domain.clone(),
            grpc_addr: self.grpc_addr,
            http_addr: self.http_addr,
            monitoring_addr: self.monitoring_addr,
            timing: Timing { pace: self.pace, linger: self.linger },
            limits: stream::Limits {
                session: session::Limits { names: self.max_names, types: self.max_types },
                request_bytes: self.max_request_bytes,
                first_request: self.first_request_timeout,
                ack: self.ack_timeout,
                send: self.send_timeout,
                requests_per_second: self.max_requests_per_second,
                streams_per_peer: self.max_streams_per_peer,
                starting: self.max_starting,
                connection_memory: self.max_connection_memory,
                peer_memory: self.max_peer_memory.unwrap_or_else(memory::half),
            },
            keepalive: self.keepalive,
            shutdown_timeout: self.shutdown_timeout,
        })
    }
}

impl fmt::Display for Serve {
    /// One line with what is in force.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(Source::Kube) => {
                write!(f, "source=kube endpoints={:?}", self.endpoints)?;
                if self.watch_nodes {
                    write!(f, " watch-nodes")?;
                }
                write!(f, " watch-timeout={:?}", self.watch_timeout)?;
                if let Some(context) = &self.context {
                    write!(f, " context={context}")?;
                }
                match self.namespace.as_slice() {
                    [] => f.write_str(" namespaces=all")?,
                    some => write!(f, " namespaces={}", some.join(","))?,
                }
            }
            None => write!(f, "manifests={:?}", self.manifests)?,
        }
        write!(
            f,
            " domain={} grpc-addr={} http-addr={} monitoring-addr={} pace={:?} linger={:?} \
             max-request-bytes={} max-names={} max-types={} max-requests-per-second={} \
             max-streams-per-peer={} max-starting={} first-request-timeout={:?} ack-timeout={:?} \
             send-timeout={:?} keepalive={:?} shutdown-timeout={:?}",
            self.domain,
            self.grpc_addr,
            self.http_addr,
            self.monitoring_addr,
            self.pace,
            self.linger,
            self.max_request_bytes,
            self.max_names,
            self.max_types,
            self.max_requests_per_second,
            self.max_streams_per_peer,
            self.max_starting,
            self.first_request_timeout,
            self.ack_timeout,
            self.send_timeout,
            self.keepalive,
            self.shutdown_timeout,
        )
    }
}

fn usage(message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut("serve") {
        Some(serve) => serve.error(ErrorKind::MissingRequiredArgument, message),
        None => command.error(ErrorKind::MissingRequiredArgument, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> Result<app::Config, clap::Error> {
        let arguments = ["pilothouse", "serve"].iter().chain(arguments);
        let Command::Serve(serve) = Cli::try_parse_from(arguments)?.command else {
            panic!("these are the arguments of serve");
        };
        serve.config()
    }

    #[test]
    fn exactly_one_source_is_needed() {
        let error = serve(&[]).unwrap_err().to_string();
        assert!(error.contains("--source kube") && error.contains("--manifests PATH"), "{error}");
        assert!(error.contains("pilothouse serve --manifests ./examples/bookinfo"), "{error}");
        let error = serve(&["--source", "kube", "--manifests", "x"]).unwrap_err().to_string();
        assert!(error.contains("exclude each other"), "{error}");
        assert!(serve(&["--source", "kube", "--namespace", "a", "--namespace", "b"]).is_ok());
        assert!(serve(&["--manifests", "a", "--manifests", "b"]).is_ok());
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}

//! Arguments. Those of `serve` stand here; what is in force is printed at start.
//!
//! `environment` says how variables stand in for flags, `config` what becomes of the flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::flags;
use crate::identity::allowed::{AccountPattern, ReaderPattern};
use crate::identity::tokens::{IssuerUrl, TokenVerification};
use crate::names;
use crate::operator;
use crate::sidecar::{agent, doctor, inject, injector, iptables};
use crate::source::kube;

mod config;
mod environment;

pub use environment::{definition, parse, unread_variables};

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
    Doctor(Box<doctor::args::DoctorArgs>),
    /// Run an Envoy beside a workload: write its bootstrap, start it, answer for its readiness.
    Agent(Box<agent::AgentArgs>),
    AgentWait(agent::AgentWaitArgs),
    #[command(hide = true)]
    ParentDeathExec(Box<agent::ParentDeathExec>),
    #[command(after_help = INJECT_EXAMPLES)]
    Inject(Box<inject::InjectArgs>),
    /// Answer an API server that asks about each new pod: a mutating webhook that adds the sidecar.
    #[command(after_help = INJECTOR_EXAMPLES)]
    Injector(Box<injector::InjectorArgs>),
    #[command(after_help = IPTABLES_EXAMPLES)]
    Iptables(Box<iptables::IptablesArgs>),
    /// Show which proxies have what, over all replicas of the control plane; or one proxy, or one service.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(Box<operator::StatusArgs>),
    /// Show which workloads call which services, as far as their proxies are on demand.
    #[command(after_help = USES_EXAMPLES)]
    Uses(Box<operator::UsesArgs>),
    /// Show the last changes of the mesh: when each was published, and which proxies have it.
    #[command(after_help = CHANGES_EXAMPLES)]
    Changes(Box<operator::ChangesArgs>),
    /// Wait until every proxy that is connected has acknowledged a change.
    #[command(after_help = WAIT_EXAMPLES)]
    Wait(Box<operator::WaitArgs>),
    /// Serve the page of the debug port for all replicas at once, on this machine, and open it in a browser.
    #[command(after_help = DASHBOARD_EXAMPLES)]
    Dashboard(Box<operator::DashboardArgs>),
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion(operator::CompletionArgs),
    #[command(after_help = MAN_EXAMPLES)]
    Man(operator::ManArgs),
}

const EXAMPLES: &str = "Examples:
  pilothouse serve --manifests ./examples/bookinfo    a folder of Services and EndpointSlices
  pilothouse serve --source kube                      of the KUBECONFIG, or the cluster this runs in
  pilothouse serve --source kube --namespace shop     one namespace of it

Every flag can be given as an environment variable, of which an empty one counts as not set; the
command line wins. A time is written as 500ms, 30s or 1m 30s.";

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
traffic.sidecar.istio.io/... (includeInboundPorts, excludeOutboundIPRanges and so on),
sidecar.istio.io/... (proxyImage, proxyCPU, logLevel, interceptionMode and so on) and
proxy.istio.io/config count; docs/injection.md lists them. The application's probes are led to the
agent, unless sidecar.istio.io/rewriteAppHTTPProbers is \"false\".";

const INJECTOR_EXAMPLES: &str = "Examples:
  kubectl apply -k manifests/injector
  pilothouse injector manifests | kubectl apply -f -     its certificate, and the webhook's configuration
  kubectl label namespace default istio-injection=enabled

docs/injector.md says how it is installed, what its settings are and what happens while it is down.";

const IPTABLES_EXAMPLES: &str = "Examples:
  pilothouse iptables --dry-run                       show the rules that capture everything
  pilothouse iptables -x 10.0.0.0/8 -o 3306           all but a range and a port
  pilothouse iptables --clean                         as if it had never run

Lists are separated by commas. Flags and chains are Istio's; without flags everything is captured.";

const STATUS_EXAMPLES: &str = "Examples:
  pilothouse status                                   all proxies, what is wrong first
  pilothouse status --state rejected -o wide          those that have rejected something
  pilothouse status reviews-v1-7d9f.default           one proxy, with Envoy's words for what it rejected
  pilothouse status --service default/reviews         one service, and who lags behind
  pilothouse status --address 127.0.0.1:8080          of a server outside of a cluster

Exit code: 0 every replica has answered, 1 one could not be asked, or what was asked about is not there.
The right that it takes: get and list pods, and create pods/portforward, in the control plane's namespace.";

const USES_EXAMPLES: &str = "Examples:
  pilothouse uses                          all of them, caller by caller
  pilothouse uses default/reviews          who calls reviews
  pilothouse uses -n shop -o json          what the proxies of a namespace call, for programs

Only proxies on demand say what they use (docs/on-demand.md).
Exit code: 0 every replica has answered, 1 one could not be asked.";

const CHANGES_EXAMPLES: &str = "Examples:
  pilothouse changes                       the last 20
  pilothouse changes reviews --limit 100   those of objects with reviews in their name
  pilothouse changes -o json               for programs, with all stragglers that are known

Exit code: 0 every replica has answered, 1 one could not be asked.";

const WAIT_EXAMPLES: &str = "Examples:
  kubectl apply -f reviews.yaml && pilothouse wait service/reviews
  pilothouse wait svc/reviews -n shop --timeout 10s
  pilothouse wait endpointslice/reviews-x7k2p --resource-version 12345
  pilothouse wait service/reviews --address 127.0.0.1:8080    of a server over manifests

Exit code: 0 every connected proxy that should have it has acknowledged it, 1 some have not and are named,
2 it cannot be told.";

const DASHBOARD_EXAMPLES: &str = "Examples:
  pilothouse dashboard
  pilothouse dashboard --no-browser --port 8888
  pilothouse dashboard --address 127.0.0.1:8080 --address 127.0.0.1:8081

It listens on 127.0.0.1 only and prints its address; a browser is opened where there is a display.";

const COMPLETION_EXAMPLES: &str = "Examples:
  source <(pilothouse completion bash)
  pilothouse completion zsh > \"${fpath[1]}/_pilothouse\"
  pilothouse completion fish > ~/.config/fish/completions/pilothouse.fish";

const MAN_EXAMPLES: &str = "Examples:
  pilothouse man | man -l -
  pilothouse man /usr/local/share/man/man1";

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

    /// Take the mesh from manifests: a file or a folder (not its subfolders) of YAML or JSON, re-read
    /// when it changes. Repeatable; the variable has commas between paths
    #[arg(
        long,
        value_name = "PATH",
        env = "PILOTHOUSE_MANIFESTS",
        help_heading = "Source (exactly one)"
    )]
    pub manifests: Vec<PathBuf>,

    /// Context of the kubeconfig, instead of its current one
    #[arg(long, env = "PILOTHOUSE_CONTEXT", help_heading = "Kubernetes")]
    pub context: Option<String>,

    /// Watch this namespace only, or take only its objects from manifests. Repeatable, or with commas
    /// between namespaces; all namespaces if not given
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_parser = flags::namespace,
        env = "PILOTHOUSE_NAMESPACE",
        value_delimiter = ',',
        help_heading = "Kubernetes"
    )]
    pub namespace: Vec<String>,

    /// Where endpoints come from: EndpointSlices, core/v1 Endpoints, or slices where the server
    /// has them [default: auto]
    #[arg(long, value_enum, env = "PILOTHOUSE_ENDPOINTS", help_heading = "Kubernetes")]
    pub endpoints: Option<kube::EndpointsKind>,

    /// Watch Nodes as well, so that endpoints have the region of their zone (needs the right to list
    /// and watch nodes)
    #[arg(long, env = "PILOTHOUSE_WATCH_NODES", help_heading = "Kubernetes")]
    pub watch_nodes: bool,

    /// Tell of configuration that a proxy rejects and of ports that cannot be served by Kubernetes
    /// Events (needs the right to create and patch them: manifests/events)
    #[arg(long, env = "PILOTHOUSE_EVENTS", help_heading = "Kubernetes")]
    pub events: bool,

    /// How long one watch request lasts, 1s to 290s: within this and 5 s a dead connection is noticed
    /// [default: 30s]
    #[arg(
        long, value_name = "DURATION", value_parser = flags::watch_timeout,
        env = "PILOTHOUSE_WATCH_TIMEOUT", help_heading = "Kubernetes"
    )]
    pub watch_timeout: Option<Duration>,

    /// DNS domain of the cluster
    #[arg(
        long, value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN,
        env = "PILOTHOUSE_DOMAIN", help_heading = "Kubernetes"
    )]
    pub domain: String,

    /// Where proxies connect (xDS over plaintext gRPC): IP:PORT, NAME:PORT, or :PORT for every address;
    /// "off" for nowhere
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::listen_or_off,
        default_value = "0.0.0.0:15010",
        env = "PILOTHOUSE_GRPC_ADDR",
        help_heading = "Addresses"
    )]
    pub grpc_addr: flags::Listen,

    /// Where proxies connect by TLS (xDS over gRPC). Needs --tls-cert and --tls-key
    /// [default: 0.0.0.0:15012 if these are given]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::listen_address,
        env = "PILOTHOUSE_SECURE_GRPC_ADDR",
        help_heading = "Addresses"
    )]
    pub secure_grpc_addr: Option<SocketAddr>,

    /// Where people look (/debug), on loopback: it shows all configuration and asks nobody who they are
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::loopback_address,
        default_value = "127.0.0.1:8080",
        env = "PILOTHOUSE_HTTP_ADDR",
        help_heading = "Addresses"
    )]
    pub http_addr: SocketAddr,

    /// Where people of other machines look: the same by TLS, for those of --debug-identities, by a client
    /// certificate or a token. Needs --tls-cert and --tls-key; nowhere if not given
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::listen_address,
        env = "PILOTHOUSE_SECURE_HTTP_ADDR",
        help_heading = "Addresses"
    )]
    pub secure_http_addr: Option<SocketAddr>,

    /// Where probes and Prometheus ask (/ready, /live, /metrics, /version)
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::listen_address,
        default_value = "0.0.0.0:15014",
        env = "PILOTHOUSE_MONITORING_ADDR",
        help_heading = "Addresses"
    )]
    pub monitoring_addr: SocketAddr,

    /// The server's certificate for --secure-grpc-addr, with those between it and the CA: a file in PEM,
    /// read again when it changes
    #[arg(long, value_name = "FILE", env = "PILOTHOUSE_TLS_CERT", help_heading = "TLS")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert: a file in PEM, read again when it changes. May be the same file
    #[arg(long, value_name = "FILE", env = "PILOTHOUSE_TLS_KEY", help_heading = "TLS")]
    pub tls_key: Option<PathBuf>,

    /// The CA that clients' certificates are verified by: a file of certificates in PEM, read again when
    /// it changes. Clients are asked for no certificate if not given
    #[arg(long, value_name = "FILE", env = "PILOTHOUSE_CLIENT_CA", help_heading = "TLS")]
    pub client_ca: Option<PathBuf>,

    /// Shortest time between two snapshots, up to 5s; the first change after a quiet time goes at once
    #[arg(
        long, value_name = "DURATION", default_value = "100ms", value_parser = flags::pace,
        env = "PILOTHOUSE_PACE", help_heading = "Publishing"
    )]
    pub pace: Duration,

    /// How long a cluster outlives the routes to it when its service is deleted, up to 1h
    #[arg(
        long, value_name = "DURATION", default_value = "1s", value_parser = flags::pause,
        env = "PILOTHOUSE_LINGER", help_heading = "Publishing"
    )]
    pub linger: Duration,

    /// How long a request of an on-demand sidecar waits for a cluster that it did not use before, up to 1m; then it is
    /// answered with 503 (flag NC)
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = flags::on_demand_timeout,
        env = "PILOTHOUSE_ON_DEMAND_TIMEOUT", help_heading = "Publishing"
    )]
    pub on_demand_timeout: Duration,

    /// Trust domain of identities: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT. A client certificate
    /// of another one is refused
    #[arg(
        long, value_name = "NAME", value_parser = flags::trust_domain,
        default_value = names::DEFAULT_DOMAIN,
        env = "PILOTHOUSE_TRUST_DOMAIN", help_heading = "Identity"
    )]
    pub trust_domain: String,

    /// Whether a proxy that connects over TLS must prove who it is, by a client certificate or a token;
    /// false serves those without, too, which may claim any namespace
    #[arg(
        long, value_name = "true|false", action = ArgAction::Set, default_value_t = true,
        env = "PILOTHOUSE_REQUIRE_IDENTITY", help_heading = "Identity"
    )]
    pub require_identity: bool,

    /// An identity that may claim any namespace, as gateways and the doctor do: NAMESPACE/SERVICE-ACCOUNT, or
    /// NAMESPACE/*. Repeatable, or with commas between
    #[arg(
        long,
        value_name = "NS/SA",
        value_delimiter = ',',
        env = "PILOTHOUSE_ACT_FOR",
        help_heading = "Identity"
    )]
    pub act_for: Vec<AccountPattern>,

    /// An identity that may read the debug pages from another machine (--secure-http-addr, istioctl over
    /// 15012): NAMESPACE/SERVICE-ACCOUNT, NAMESPACE/*, or a group as system:serviceaccounts:NAMESPACE.
    /// Repeatable, or with commas between
    #[arg(
        long,
        value_name = "NS/SA|GROUP",
        value_delimiter = ',',
        env = "PILOTHOUSE_DEBUG_IDENTITIES",
        help_heading = "Identity"
    )]
    pub debug_identities: Vec<ReaderPattern>,

    /// How ServiceAccount tokens of proxies are verified: by the keys that the issuer publishes, or by a
    /// TokenReview of the API server (each needs a right of its own: manifests/secure)
    #[arg(
        long,
        value_enum,
        default_value = "off",
        env = "PILOTHOUSE_TOKEN_VERIFICATION",
        help_heading = "Identity"
    )]
    pub token_verification: TokenVerification,

    /// Audience that a token must have. Repeatable, or with commas between audiences; any of them will do
    /// [default: istio-ca]
    #[arg(
        long,
        value_name = "AUDIENCE",
        value_parser = flags::audience,
        env = "PILOTHOUSE_TOKEN_AUDIENCE",
        value_delimiter = ',',
        help_heading = "Identity"
    )]
    pub token_audience: Vec<String>,

    /// Issuer of the tokens, an https URL, asked for its keys under /.well-known/openid-configuration
    /// [default: the API server]
    #[arg(
        long,
        value_name = "URL",
        value_parser = IssuerUrl::read,
        env = "PILOTHOUSE_TOKEN_ISSUER",
        help_heading = "Identity"
    )]
    pub token_issuer: Option<IssuerUrl>,

    /// Bytes of one request, 4096 to 1073741824
    #[arg(
        long, value_name = "BYTES", value_parser = flags::request_bytes, default_value_t = 4 << 20,
        env = "PILOTHOUSE_MAX_REQUEST_BYTES", help_heading = "Limits for a proxy"
    )]
    pub max_request_bytes: usize,

    /// Names in one subscription; 0 for no limit
    #[arg(
        long,
        value_name = "N",
        value_parser = flags::count_limit,
        default_value_t = 100_000,
        env = "PILOTHOUSE_MAX_NAMES",
        help_heading = "Limits for a proxy"
    )]
    pub max_names: usize,

    /// Resource types on one stream, the four that are served always among them; 0 for no limit
    #[arg(
        long,
        value_name = "N",
        value_parser = flags::type_limit,
        default_value_t = 16,
        env = "PILOTHOUSE_MAX_TYPES",
        help_heading = "Limits for a proxy"
    )]
    pub max_types: usize,

    /// Requests a second on one stream, averaged over ten seconds; 0 for no limit
    #[arg(
        long,
        value_name = "N",
        value_parser = flags::requests,
        default_value_t = 500,
        env = "PILOTHOUSE_MAX_REQUESTS_PER_SECOND",
        help_heading = "Limits for a proxy"
    )]
    pub max_requests_per_second: u32,

    /// Streams of one identity, or from one IP address without; 0 for no limit
    #[arg(
        long,
        value_name = "N",
        value_parser = flags::count_limit,
        default_value_t = 10_000,
        env = "PILOTHOUSE_MAX_STREAMS_PER_PEER",
        help_heading = "Limits for a proxy"
    )]
    pub max_streams_per_peer: usize,

    /// Different views: sorts of proxies, by kind, listener, namespace, zone and inbound ports. 0 for
    /// no limit
    #[arg(
        long, value_name = "N", value_parser = flags::count_limit, default_value_t = 10_000,
        env = "PILOTHOUSE_MAX_VIEWS", help_heading = "Limits for a proxy"
    )]
    pub max_views: usize,

    /// Different views of the proxies of one identity, or that connect from one IP address without: as
    /// many as a node has pods. 0 for no limit
    #[arg(
        long, value_name = "N", value_parser = flags::count_limit, default_value_t = 256,
        env = "PILOTHOUSE_MAX_VIEWS_PER_PEER", help_heading = "Limits for a proxy"
    )]
    pub max_views_per_peer: usize,

    /// How long a connection may last, give or take a tenth; then its streams are ended between two
    /// responses, so that proxies spread over all replicas again. 0 for no limit
    #[arg(
        long, value_name = "DURATION", default_value = "30m", value_parser = flags::time_limit,
        env = "PILOTHOUSE_MAX_CONNECTION_AGE", help_heading = "Limits for a proxy"
    )]
    pub max_connection_age: Duration,

    /// Bytes of memory that one connection may make the server hold (requests, subscriptions, what
    /// it does not read), 1048576 at least; 0 for no limit
    #[arg(
        long, value_name = "BYTES", value_parser = flags::memory, default_value_t = 32 << 20,
        env = "PILOTHOUSE_MAX_CONNECTION_MEMORY", help_heading = "Limits for a proxy"
    )]
    pub max_connection_memory: usize,

    /// The same for all connections together; the one that holds most goes first. 0 for no limit,
    /// half of the memory that the process may use if not given
    #[arg(
        long, value_name = "BYTES", value_parser = flags::memory,
        env = "PILOTHOUSE_MAX_PEER_MEMORY", help_heading = "Limits for a proxy"
    )]
    pub max_peer_memory: Option<usize>,

    /// Until a new stream's first request; 0 for no limit
    #[arg(
        long, value_name = "DURATION", default_value = "10s", value_parser = flags::time_limit,
        env = "PILOTHOUSE_FIRST_REQUEST_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub first_request_timeout: Duration,

    /// How long newer content waits for the ACK of a type's last response; 0 for no limit
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = flags::time_limit,
        env = "PILOTHOUSE_ACK_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub ack_timeout: Duration,

    /// How long a proxy that has stopped reading may take nothing of a response before it is
    /// disconnected; 0 for no limit
    #[arg(
        long, value_name = "DURATION", default_value = "60s", value_parser = flags::time_limit,
        env = "PILOTHOUSE_SEND_TIMEOUT", help_heading = "Limits for a proxy"
    )]
    pub send_timeout: Duration,

    /// New proxies that are brought into sync at the same time, when many come at once; the others
    /// wait for their turn; 0 for no limit
    #[arg(
        long,
        value_name = "N",
        value_parser = flags::count_limit,
        default_value_t = 100,
        env = "PILOTHOUSE_MAX_STARTING",
        help_heading = "Limits for a proxy"
    )]
    pub max_starting: usize,

    /// Connections of all proxies together, fewer where the limit of open files does not suffice;
    /// 0 for no other limit
    #[arg(
        long,
        default_value_t = 20_000,
        env = "PILOTHOUSE_MAX_CONNECTIONS",
        help_heading = "Limits for a proxy"
    )]
    pub max_connections: usize,

    /// HTTP/2 keepalive, 1s to 1h: a quiet peer is asked this often, and dropped if it does not answer
    /// within a third of it
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = flags::keepalive,
        env = "PILOTHOUSE_KEEPALIVE", help_heading = "Limits for a proxy"
    )]
    pub keepalive: Duration,

    /// How long streams and requests may take to end at shutdown, 1ms to 1h
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = flags::deadline,
        env = "PILOTHOUSE_SHUTDOWN_TIMEOUT", help_heading = "Process"
    )]
    pub shutdown_timeout: Duration,

    /// What is logged, for instance "info" or "warn,pilothouse::ads=debug". kube's own crates repeat
    /// every failure that is said in our words
    #[arg(
        long,
        value_parser = flags::log_filter,
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

#[cfg(test)]
mod tests;

//! The flags of `pilothouse injector` and of `pilothouse injector manifests`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::InjectorConfig;
use crate::flags;

/// How often the files are looked at. The kubelet brings a changed Secret within a minute or so.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_subcommand = true, subcommand_negates_reqs = true)]
pub struct InjectorArgs {
    #[command(subcommand)]
    pub command: Option<InjectorCommand>,

    /// Where the API server asks about pods (HTTPS, /inject)
    #[arg(
        long, value_name = "ADDRESS", value_parser = flags::listen_address,
        default_value = "0.0.0.0:9443", env = "PILOTHOUSE_ADDR"
    )]
    pub addr: SocketAddr,

    /// Where probes and Prometheus ask (/ready, /live, /metrics, /version)
    #[arg(
        long, value_name = "ADDRESS", value_parser = flags::listen_address,
        default_value = "0.0.0.0:15014", env = "PILOTHOUSE_MONITORING_ADDR"
    )]
    pub monitoring_addr: SocketAddr,

    /// Certificate of the webhook and those between it and its CA (PEM), read anew when it changes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/pilothouse/injector-tls/tls.crt",
        env = "PILOTHOUSE_TLS_CERT"
    )]
    pub tls_cert: PathBuf,

    /// Its private key (PEM)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/pilothouse/injector-tls/tls.key",
        env = "PILOTHOUSE_TLS_KEY"
    )]
    pub tls_key: PathBuf,

    /// The settings (YAML), read anew when they change
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/pilothouse/injector/config.yaml",
        env = "PILOTHOUSE_SETTINGS"
    )]
    pub settings: PathBuf,

    /// How long pods are still reviewed once the process is to end, up to 1h: until the Service leads
    /// nobody here any more
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = flags::pause,
        env = "PILOTHOUSE_DRAIN"
    )]
    pub drain: Duration,

    /// What is logged, for instance "info" or "warn,pilothouse::sidecar::injector=debug"
    #[arg(
        long, value_parser = flags::log_filter,
        default_value = "info,kube_client=off", env = "PILOTHOUSE_LOG"
    )]
    pub log: String,
}

impl InjectorArgs {
    /// The configuration that the flags say.
    pub fn config(&self) -> InjectorConfig {
        InjectorConfig {
            address: self.addr,
            monitoring_address: self.monitoring_addr,
            certificate: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            settings: self.settings.clone(),
            reload_interval: RELOAD_INTERVAL,
            drain: self.drain,
        }
    }
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum InjectorCommand {
    Manifests(ManifestsArgs),
}

/// Print a Secret with a new certificate, and the MutatingWebhookConfiguration that trusts it, for
/// kubectl apply -f -; again to renew
#[derive(Clone, Debug, clap::Args)]
pub struct ManifestsArgs {
    /// Namespace of the injector
    #[arg(short = 'n', long, value_parser = flags::namespace, default_value = "istio-system")]
    pub namespace: String,

    /// What happens to new pods while no injector answers: Fail refuses them, Ignore lets them start
    /// without a sidecar
    #[arg(long, value_name = "POLICY", value_enum, ignore_case = true, default_value = "Fail")]
    pub failure_policy: FailurePolicy,

    /// How long the certificate is valid, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub valid_days: u16,

    /// Trust the newest of these CAs (PEM; - for standard input) as well: those of the configuration that
    /// is in force, so that nothing fails until every replica has the new certificate
    #[arg(long, value_name = "FILE")]
    pub also_trust: Option<PathBuf>,
}

/// Of a webhook that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailurePolicy {
    #[value(name = "Fail")]
    Fail,
    #[value(name = "Ignore")]
    Ignore,
}

impl FailurePolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}

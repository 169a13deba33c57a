//! Arguments of `pilothouse doctor`; each has an environment twin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Diagnosis, Outcome, ProbeOrigin, ServiceName, Target, diagnose};
use crate::escape;
use crate::flags;
use crate::names;
use crate::output;
use crate::sidecar::credentials::TlsArgs;
use crate::sidecar::host_port::HostPort;

#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Where the control plane is; by default where Envoy's bootstrap says, else
    /// istio-pilot.istio-system.svc:15012 with TLS and istio-pilot.istio-system:15010 without
    #[arg(long, value_name = "HOST:PORT", env = "PILOTHOUSE_DISCOVERY_ADDRESS")]
    pub discovery_address: Option<HostPort>,

    /// Envoy's admin address
    #[arg(
        long,
        alias = "admin-address",
        value_name = "ADDRESS",
        value_parser = flags::peer_address,
        env = "PILOTHOUSE_ADMIN_ADDR"
    )]
    pub admin_addr: Option<SocketAddr>,

    /// There is no Envoy here: begin with the name servers
    #[arg(long, conflicts_with = "admin_addr", env = "PILOTHOUSE_NO_ENVOY")]
    pub no_envoy: bool,

    /// Look at a service's endpoints as well
    #[arg(long, value_name = "NAME[.NAMESPACE][:PORT]", env = "PILOTHOUSE_SERVICE")]
    pub service: Option<ServiceName>,

    /// A path that clients of the service ask for: which rule of its routes is for it?
    #[arg(
        long, value_name = "PATH", requires = "service", value_parser = path, env = "PILOTHOUSE_PATH"
    )]
    pub path: Option<String>,

    /// How long it may take in all, whatever hangs; 1ms to 1h
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = flags::deadline,
        env = "PILOTHOUSE_TIMEOUT"
    )]
    pub timeout: Duration,

    /// Print JSON for machines
    #[arg(long, env = "PILOTHOUSE_JSON")]
    pub json: bool,

    #[command(flatten)]
    pub tls: TlsArgs,

    /// Do not ask the Kubernetes API server
    #[arg(long, env = "PILOTHOUSE_NO_KUBERNETES", help_heading = "Kubernetes")]
    pub no_kubernetes: bool,

    /// Context of the kubeconfig, instead of its current one
    #[arg(long, env = "PILOTHOUSE_CONTEXT", help_heading = "Kubernetes")]
    pub context: Option<String>,

    /// DNS domain of the cluster
    #[arg(
        long, value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN,
        env = "PILOTHOUSE_DOMAIN", help_heading = "Kubernetes"
    )]
    pub domain: String,

    /// The node id to ask the control plane with; by default Envoy's own
    #[arg(long, env = "PILOTHOUSE_NODE_ID", help_heading = "Unusual places")]
    pub node_id: Option<String>,

    /// The control plane's monitoring port; by default 15014 beside the discovery address
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::peer_address,
        env = "PILOTHOUSE_MONITORING_ADDRESS",
        help_heading = "Unusual places"
    )]
    pub monitoring_address: Option<SocketAddr>,

    /// The control plane's debug port; by default 8080 beside the discovery address
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::peer_address,
        env = "PILOTHOUSE_DEBUG_ADDRESS",
        help_heading = "Unusual places"
    )]
    pub debug_address: Option<SocketAddr>,

    /// Whose name servers and search list to use
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/resolv.conf",
        env = "PILOTHOUSE_RESOLV_CONF",
        help_heading = "Unusual places"
    )]
    pub resolv_conf: PathBuf,

    /// What is looked into before any name server is asked, as Envoy does
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/hosts",
        env = "PILOTHOUSE_HOSTS_FILE",
        help_heading = "Unusual places"
    )]
    pub hosts_file: PathBuf,

    /// Port of the name servers
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..),
        default_value_t = 53,
        env = "PILOTHOUSE_DNS_PORT",
        help_heading = "Unusual places"
    )]
    pub dns_port: u16,
}

/// A path as it stands in a request.
fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.chars().all(|one| one.is_ascii_graphic());
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / as in /reviews/0".to_owned())
    }
}

impl DoctorArgs {
    pub fn target(&self) -> Target {
        let default = Target::default();
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Target {
            admin: self.admin_addr.or(default.admin).filter(|_| !self.no_envoy),
            // Outside of a pod Envoy is only expected where somebody says it is.
            envoy_expected: in_pod || self.admin_addr.is_some(),
            discovery: self.discovery_address.clone(),
            tls: self.tls.clone(),
            monitoring: self.monitoring_address,
            debug: self.debug_address,
            node_id: self.node_id.clone(),
            resolv_conf: self.resolv_conf.clone(),
            hosts: self.hosts_file.clone(),
            dns_port: self.dns_port,
            kubernetes: !self.no_kubernetes,
            context: self.context.clone(),
            domain: self.domain.clone(),
            capture: true,
            service: self.service.clone(),
            path: self.path.clone(),
            origin: ProbeOrigin::Doctor,
        }
    }

    /// Walks the path and prints what was found.
    pub async fn run(&self) -> ExitCode {
        let diagnosis = diagnose(&self.target(), self.timeout).await;
        match print(&diagnosis, self.json) {
            Ok(()) => ExitCode::from(diagnosis.outcome.exit_code()),
            // Whoever reads may have gone (`doctor | head`): the exit code still says it.
            Err(unread) if unread.is_unread() => ExitCode::from(diagnosis.outcome.exit_code()),
            Err(error) => {
                output::eprint_line(format_args!("error: {error}"));
                ExitCode::from(Outcome::Unknown.exit_code())
            }
        }
    }
}

fn print(diagnosis: &Diagnosis, json: bool) -> Result<(), output::Unwritten> {
    match json {
        true => {
            let text = serde_json::to_string_pretty(diagnosis).unwrap_or_default();
            // Line by line: those between the values are the JSON's own.
            text.lines().try_for_each(|line| output::print(&format!("{}\n", escape::json(line))))
        }
        false => output::print(&diagnosis.to_string()),
    }
}

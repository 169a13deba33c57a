//! The flags of `pilothouse inject`.

use std::path::PathBuf;

use crate::flags;
use crate::names;

/// Add the sidecar to workloads, as `istioctl kube-inject` does: manifests in, manifests out
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The manifests, YAML or JSON; - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(super) file: PathBuf,

    /// Write here instead of to standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    #[command(flatten)]
    pub(super) settings: Settings,
}

/// What the sidecar is to be like, unless the pod's annotations say otherwise.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Image of the agent and its Envoy
    #[arg(long, value_name = "IMAGE", default_value = concat!("pilothouse-proxy:", env!("CARGO_PKG_VERSION")))]
    pub image: String,

    /// Image of istio-init, which needs pilothouse and iptables; the proxy's image if not given
    #[arg(long, value_name = "IMAGE")]
    pub init_image: Option<String>,

    /// When the images are pulled; Kubernetes' default if not given
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,

    /// The control plane that Envoy asks
    #[arg(long, value_name = "HOST:PORT", default_value = "istio-pilot.istio-system:15010")]
    pub discovery_address: String,

    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN)]
    pub domain: String,

    /// Make the proxy an init container with restartPolicy Always: it serves before the application
    /// starts and ends after it, so that Jobs complete
    #[arg(long)]
    pub native_sidecar: bool,

    /// CPU that the proxy asks for
    #[arg(long, value_name = "QUANTITY")]
    pub cpu: Option<String>,

    /// Memory that the proxy asks for
    #[arg(long, value_name = "QUANTITY")]
    pub memory: Option<String>,

    /// CPU that the proxy may take; no limit if not given
    #[arg(long, value_name = "QUANTITY")]
    pub cpu_limit: Option<String>,

    /// Memory that the proxy may take
    #[arg(long, value_name = "QUANTITY")]
    pub memory_limit: Option<String>,
}

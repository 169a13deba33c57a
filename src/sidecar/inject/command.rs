//! The flags of `pilothouse inject`.

use std::path::PathBuf;

use super::settings::Settings;

/// Add the sidecar to workloads, as `istioctl kube-inject` does: manifests in, manifests out
#[derive(Clone, Debug, clap::Args)]
pub struct InjectArgs {
    /// The manifests, YAML or JSON; - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(super) file: PathBuf,

    /// Write here instead of to standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    #[command(flatten)]
    pub(super) settings: Settings,
}

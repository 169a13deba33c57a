//! Flags that all commands of an operator have: which replicas, and how it is printed. Names are kubectl's
//! and istioctl's where they have one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::flags;

/// Which replicas are asked.
#[derive(Clone, Debug, Args)]
pub struct ReplicaArgs {
    /// The debug port of a server to ask, instead of the pods of a cluster. Repeatable
    #[arg(
        long, value_name = "HOST:PORT", value_parser = flags::peer_address,
        help_heading = "Replicas"
    )]
    pub address: Vec<SocketAddr>,

    /// The kubeconfig [default: KUBECONFIG, else the cluster that this runs in, else ~/.kube/config]
    #[arg(long, value_name = "FILE", help_heading = "Replicas")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig, instead of its current one
    #[arg(long, help_heading = "Replicas")]
    pub context: Option<String>,

    /// Namespace of the control plane
    #[arg(
        short = 'i', long, visible_alias = "istioNamespace", value_name = "NAMESPACE",
        value_parser = flags::namespace, default_value = "istio-system", help_heading = "Replicas"
    )]
    pub istio_namespace: String,

    /// Labels of the control plane's pods
    #[arg(
        short = 'l',
        long,
        value_name = "SELECTOR",
        default_value = "istio=pilot",
        help_heading = "Replicas"
    )]
    pub selector: String,

    /// How long a replica, or the API server, may take for one answer, 1ms to 1h
    #[arg(
        long, value_name = "DURATION", value_parser = flags::deadline, default_value = "5s",
        help_heading = "Replicas"
    )]
    pub request_timeout: Duration,
}

/// In which form it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A table with more columns.
    Wide,
    Json,
    Yaml,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

/// How it is printed.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// A table if not given
    #[arg(short, long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub output: Option<OutputFormat>,

    /// Colours: on a terminal unless NO_COLOR is set, always, or never
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    pub color: Color,
}

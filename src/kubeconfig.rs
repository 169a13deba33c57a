//! Which cluster is meant: one choice for every command that asks an API server.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::causes::with_causes;

/// The configuration of a client for the cluster that the operator means: by `--context` or `KUBECONFIG`
/// if there is one of them, since that was said on purpose; else for the cluster that this runs in;
/// else by `~/.kube/config`. Nothing has been asked of the server yet.
///
/// # Errors
/// There is no such file, or it has no such context.
pub async fn choose(context: Option<&str>) -> Result<Config, KubeconfigError> {
    let from_file = context.is_some() || std::env::var_os("KUBECONFIG").is_some();
    let in_cluster = if from_file { None } else { Config::incluster().ok() };
    match in_cluster {
        Some(config) => Ok(config),
        None => {
            let context = context.map(str::to_owned);
            Config::from_kubeconfig(&KubeConfigOptions { context, ..Default::default() }).await
        }
    }
}

/// A client for that cluster. Neither a connection nor an answer is waited for longer than `patience`, and no
/// request is tried again, so that whoever asks sees what fails.
///
/// # Errors
/// There is no usable configuration; the sentence says which one was meant.
pub async fn client(context: Option<&str>, patience: Duration) -> Result<Client, String> {
    let problem =
        |error: &dyn std::error::Error| format!("{}: {}", describe(context), with_causes(error));
    let mut settings = choose(context).await.map_err(|error| problem(&error))?;
    settings.connect_timeout = Some(patience);
    settings.read_timeout = Some(patience);
    settings.default_retry = false;
    Client::try_from(settings).map_err(|error| problem(&error))
}

/// The same where a file may be named as well, which counts before everything else.
///
/// # Errors
/// There is no such file, or it has no such context.
pub async fn choose_from(
    file: Option<&Path>,
    context: Option<&str>,
) -> Result<Config, KubeconfigError> {
    let Some(file) = file else { return choose(context).await };
    let context = context.map(str::to_owned);
    let options = KubeConfigOptions { context, ..Default::default() };
    Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await
}

/// Where the configuration comes from, for messages.
pub fn describe(context: Option<&str>) -> String {
    let file = match std::env::var("KUBECONFIG") {
        Ok(path) => format!("KUBECONFIG={path}"),
        Err(_) => "in-cluster configuration or ~/.kube/config".to_owned(),
    };
    match context {
        Some(context) => format!("{file}, context {context}"),
        None => file,
    }
}

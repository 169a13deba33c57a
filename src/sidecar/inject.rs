//! `pilothouse inject`, which is what `istioctl kube-inject` does: manifests in, the same manifests
//! with Istio's init container and sidecar in every pod out.
//!
//! `documents` takes the text apart and together again, `workload` finds the pods in it, `pod` adds
//! the sidecar; what it adds stands in the YAML files beside it. Text in, text out. Nothing of the
//! control plane is used; of the agent only what it understands of the annotations that are for it.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use thiserror::Error;

mod annotations;
mod args;
mod command;
mod containers;
mod documents;
mod metadata;
mod node;
mod overlay;
mod owner;
mod pod;
mod probes;
mod prometheus;
mod resources;
mod settings;
mod volumes;
mod workload;
mod yaml_writer;

pub use command::InjectArgs;
pub use settings::{
    Capture, NativeSidecars, SeccompProfile, Settings, SettingsError, Tls, has_native_sidecars,
};

use crate::output;

/// Reads, adds, prints; says on standard error what was left alone and why.
///
/// # Errors
/// A file that cannot be read or written, a document that is no YAML or JSON, an annotation that
/// makes no sense. Nothing is printed then, so that nobody applies one half.
pub fn run(args: &InjectArgs) -> Result<()> {
    args.settings.check().map_err(|error| anyhow!(error))?;
    let (text, notes) =
        (|| manifests(&read(&args.file)?, &args.settings))().with_context(|| {
            match args.file == Path::new("-") {
                true => "standard input".to_owned(),
                false => args.file.display().to_string(),
            }
        })?;
    for note in notes {
        output::eprint_line(note);
    }
    match &args.output {
        Some(file) => std::fs::write(file, text)
            .with_context(|| format!("{} cannot be written", file.display())),
        None => {
            output::print(&text)?;
            Ok(())
        }
    }
}

/// The manifests with sidecars, and what there is to say about them.
///
/// # Errors
/// See [`run`].
pub fn manifests(text: &str, settings: &Settings) -> Result<(String, Vec<String>)> {
    let mut notes = Vec::new();
    let edit = |object: &mut node::Node| workload::inject(object, settings, &mut notes);
    let printed = documents::edit(text, edit).map_err(|error| anyhow!(error))?;
    Ok((printed, notes))
}

/// What became of one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Injected {
    /// The pod with its sidecar, and what will surprise somebody.
    Pod { pod: Value, warnings: Vec<String> },
    /// Nothing was done, because of this ("it has its sidecar already").
    LeftAlone(String),
}

/// Why a pod cannot have a sidecar as it is: a sentence for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refusal(String);

/// One pod as the API server hands it to a webhook: what [`manifests`] makes of the template that it
/// was made from. `namespace` is the one that it is made in, which the pod itself need not say. Whether
/// the namespace wants sidecars is not asked here; what the pod itself says of it is.
///
/// # Errors
/// See [`Refusal`].
pub fn inject_pod(pod: &Value, namespace: &str, settings: &Settings) -> Result<Injected, Refusal> {
    let read = |error: serde_json::Error| Refusal(format!("the pod cannot be read: {error}"));
    let mut pod: node::Node = serde_json::from_value(pod.clone()).map_err(read)?;
    let owner = owner::Owner::of_pod(&pod);
    match pod::inject(&mut pod, &owner, namespace, settings).map_err(Refusal)? {
        pod::InjectionResult::Injected { native, mut warnings } => {
            warnings.extend(owner.does_not_complete(native));
            Ok(Injected::Pod { pod: serde_json::to_value(pod).map_err(read)?, warnings })
        }
        pod::InjectionResult::Skipped(why) => Ok(Injected::LeftAlone(why)),
    }
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file)?;
    }
    Ok(text)
}

//! `pilothouse inject`, which is what `istioctl kube-inject` does: manifests in, the same manifests
//! with Istio's init container and sidecar in every pod out.
//!
//! `documents` takes the text apart and together again, `workload` finds the pods in it, `pod` adds
//! the sidecar; what it adds stands in the YAML files beside it. Text in, text out. Nothing of the
//! control plane is used; of the agent only what it understands of the annotations that are for it.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

mod annotations;
mod args;
mod containers;
mod documents;
mod node;
mod overlay;
mod pod;
mod probes;
mod resources;
mod workload;
mod yaml_writer;

pub use args::{InjectArgs, Settings};

use crate::output;

/// Reads, adds, prints; says on standard error what was left alone and why.
///
/// # Errors
/// A file that cannot be read or written, a document that is no YAML or JSON, an annotation that
/// makes no sense. Nothing is printed then, so that nobody applies one half.
pub fn run(args: &InjectArgs) -> Result<()> {
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

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file)?;
    }
    Ok(text)
}

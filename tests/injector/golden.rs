//! For every kind of workload of `tests/inject`: the pod that results from the webhook's patch is the pod
//! template that `pilothouse inject` makes.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::client::{Running, patched, review_of};

/// Where the pods of an object are.
fn template(object: &Value) -> Option<&Value> {
    // A kind of the same name in somebody else's group has no pods.
    let group = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    if group.is_some_and(|(group, _)| !["apps", "batch"].contains(&group)) {
        return None;
    }
    match object["kind"].as_str()? {
        "Pod" => Some(object),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => object.pointer("/spec/template"),
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The documents of a file, with the items of lists in their place.
fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = match text.starts_with('{') {
        // One after the other, as kubectl reads them.
        true => serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect(),
        // 0755 is octal, as for kubectl.
        false => {
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            serde_saphyr::from_multiple_with_options(text, options).unwrap()
        }
    };
    let mut found = Vec::new();
    for document in documents {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        match (kind.strip_suffix("List"), document["items"].as_array()) {
            (Some(of), Some(items)) => found.extend(items.iter().map(|item| {
                let mut item = item.clone();
                if item["kind"].is_null() {
                    item["kind"] = of.into();
                }
                item
            })),
            _ => found.push(document),
        }
    }
    found
}

/// The pod that a controller makes of a template, as the API server hands it over.
fn as_made(object: &Value, template: &Value) -> Value {
    let kind = object["kind"].as_str().unwrap();
    let name = |field: &str| object.pointer(field).and_then(Value::as_str);
    let generated = || name("/metadata/generateName").map(|name| name.trim_end_matches('-'));
    let name = name("/metadata/name").or_else(generated).unwrap_or_default();
    let mut pod = template.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    if kind == "Pod" {
        // The request has it.
        pod["metadata"].as_object_mut().unwrap().remove("namespace");
        return pod;
    }
    if pod["metadata"].is_null() {
        pod["metadata"] = Value::Object(Map::new());
    }
    let (owner_kind, owner) = match kind {
        "Deployment" => ("ReplicaSet", format!("{name}-7d9f6bb4c5")),
        "CronJob" => ("Job", format!("{name}-29012345")),
        other => (other, name.to_owned()),
    };
    let metadata = pod["metadata"].as_object_mut().unwrap();
    if kind == "Deployment" {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        labels["pod-template-hash"] = "7d9f6bb4c5".into();
    }
    metadata.insert("generateName".to_owned(), format!("{owner}-").into());
    let version = match kind {
        "Deployment" => &json!("apps/v1"),
        "CronJob" => &json!("batch/v1"),
        _ => &object["apiVersion"],
    };
    let reference = json!([{
        "apiVersion": version, "kind": owner_kind, "name": owner, "uid": "1", "controller": true,
    }]);
    metadata.insert("ownerReferences".to_owned(), reference);
    pod
}

/// Without what a controller has added.
fn as_written(mut pod: Value, template: &Value) -> Value {
    for field in ["apiVersion", "kind"] {
        match template.get(field) {
            Some(value) => pod[field] = value.clone(),
            None => _ = pod.as_object_mut().unwrap().remove(field),
        }
    }
    let metadata = pod["metadata"].as_object_mut().unwrap();
    for field in ["generateName", "ownerReferences", "namespace"] {
        match template["metadata"].get(field) {
            Some(value) => _ = metadata.insert(field.to_owned(), value.clone()),
            None => _ = metadata.remove(field),
        }
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
        if labels.is_empty() && template["metadata"]["labels"].is_null() {
            metadata.remove("labels");
        }
    }
    if metadata.is_empty() && template["metadata"].is_null() {
        pod.as_object_mut().unwrap().remove("metadata");
    }
    pod
}

/// What a flag of `inject` is called among the settings.
fn settings(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# flags: "));
    let mut settings = String::new();
    let mut native = "never";
    let mut pull_secrets = Vec::new();
    let mut words = lines.flat_map(str::split_whitespace).peekable();
    while let Some(flag) = words.next() {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, words.next_if(|next| !next.starts_with('-'))),
        };
        if name == "--native-sidecar" {
            native = value.unwrap_or("always");
            continue;
        }
        // A list, which the flag is given once for each item of.
        if name == "--image-pull-secret" {
            pull_secrets.extend(value);
            continue;
        }
        let mut parts = name.trim_start_matches('-').split('-');
        let mut camel = parts.next().unwrap().to_owned();
        for part in parts {
            camel.push_str(&part[..1].to_uppercase());
            camel.push_str(&part[1..]);
        }
        settings += &match value.unwrap_or("true") {
            truth @ ("true" | "false") => format!("{camel}: {truth}\n"),
            text => format!("{camel}: {text:?}\n"),
        };
    }
    format!("{settings}imagePullSecrets: {pull_secrets:?}\nnativeSidecars: {native}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_makes_of_every_kind_what_inject_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject/golden");
    let (mut pods, mut injected) = (0, 0);
    let mut differ = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains(".injected.") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
        command.args(["inject", "-f"]).arg(&path);
        let lines = text.lines().filter_map(|line| line.strip_prefix("# flags: "));
        command.args(lines.flat_map(str::split_whitespace));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made = objects(&String::from_utf8(output.stdout).unwrap());
        let running = Running::new(&settings(&text)).await;
        let written = objects(&text);
        assert_eq!(written.len(), made.len());
        for (object, made) in written.iter().zip(&made) {
            let (Some(template_of), Some(wanted)) = (template(object), template(made)) else {
                continue;
            };
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            let pod = as_made(object, template_of);
            let review = review_of(&pod, namespace.unwrap_or("default"));
            let response = running.review(&review).await;
            assert_eq!(response["allowed"], true, "{}: {response}", path.display());
            pods += 1;
            injected += usize::from(response.get("patch").is_some());
            let found = as_written(patched(&pod, &response), template_of);
            if found != *wanted {
                let diff = json_patch::diff(wanted, &found);
                differ.push(format!("{} {}: {diff}", path.display(), object["metadata"]["name"]));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(pods >= 11 && injected >= 9, "{injected} of {pods}");
}

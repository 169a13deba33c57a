//! Bytes as anybody may post them to the injector: as the whole body, and as the pod of a review that is
//! well-formed otherwise.
//!
//! Whatever comes, there is an answer: it is a sentence, or an AdmissionReview for the same uid whose patch, if
//! there is one, applies to the pod and gives it a sidecar, so that it is left alone from then on.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pilothouse::sidecar::injector::{InjectorSettings, Outcome, Reviewed, review};
use serde_json::{Value, json};

static SETTINGS: LazyLock<InjectorSettings> =
    LazyLock::new(|| InjectorSettings::parse(b"nativeSidecars: never").unwrap());

fuzz_target!(|data: &[u8]| {
    check(&review(data, &SETTINGS, None), None);
    // Annotations and labels by name, since a fuzzer would seldom hit upon them; or a whole object.
    let text = String::from_utf8_lossy(data);
    let object = serde_json::from_slice(data).unwrap_or_else(|_| annotated(&text));
    let asked = |object: &Value| {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "operation": "CREATE", "namespace": "shop",
                "resource": { "group": "", "version": "v1", "resource": "pods" }, "object": object,
            },
        });
        review(body.to_string().as_bytes(), &SETTINGS, None)
    };
    let reviewed = asked(&object);
    if let Some(patched) = check(&reviewed, Some(&object)) {
        assert_eq!(asked(&patched).outcome, Outcome::Skipped, "{patched}");
    }
});

/// A pod with the first line as the name of an annotation and the rest as its value.
fn annotated(text: &str) -> Value {
    let (name, value) = text.split_once('\n').unwrap_or((text, ""));
    json!({
        "metadata": { "name": "a", "annotations": { (name): value } },
        "spec": { "containers": [{ "name": "app", "image": "app:1", "ports": [] }] },
    })
}

/// Gives the pod after its patch.
fn check(reviewed: &Reviewed, object: Option<&Value>) -> Option<Value> {
    if reviewed.status != 200 {
        assert!(reviewed.body.ends_with('\n') && reviewed.body.len() > 1);
        return None;
    }
    let answer: Value = serde_json::from_str(&reviewed.body).unwrap();
    let response = &answer["response"];
    assert!(!response["uid"].as_str().unwrap().is_empty());
    assert!(response["allowed"].is_boolean());
    let patch = response.get("patch")?.as_str()?;
    assert_eq!(reviewed.outcome, Outcome::Injected);
    let bytes: k8s_openapi::ByteString = serde_json::from_value(patch.into()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&bytes.0).unwrap();
    let mut pod = object?.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    Some(pod)
}

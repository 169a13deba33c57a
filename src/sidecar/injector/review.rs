//! One review, from the bytes of the request to those of the answer. Pure; what is added to the pod is
//! `inject`'s.
//!
//! Who is asked about is chosen by the selectors of the MutatingWebhookConfiguration (`manifests`), as with
//! Istio. What is decided here is what the pod itself says, again as with Istio: its label over its annotation,
//! `hostNetwork`, the cluster's own namespaces, a sidecar that is there already.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::settings::{InjectorSettings, OnError};
use crate::sidecar::inject::{self, Injected};

/// Of both the review and its answer.
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// How much of a sentence goes back: the API server cuts all warnings together at 4096 bytes.
const MAX_SENTENCE: usize = 1024;

/// What came of a review.
#[derive(Clone, Debug, PartialEq)]
pub struct Reviewed {
    pub outcome: Outcome,
    /// Status of HTTP: 200 where the answer is an AdmissionReview, else the answer is a sentence.
    pub status: u16,
    pub body: String,
    /// Whose pod it is, for the log: namespace and name, as far as there is one.
    pub pod: String,
}

/// What became of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    Skipped,
    /// It says something wrong of its sidecar.
    Refused,
    /// Likewise, and it starts without one.
    PassedThrough,
    /// The review is none that can be answered.
    Bad,
    /// It cannot be decided, or not in time.
    Unavailable,
}

impl Outcome {
    /// Each with its name in metrics and log.
    pub(super) const ALL: [(Self, &'static str); 6] = [
        (Self::Injected, "injected"),
        (Self::Skipped, "skipped"),
        (Self::Refused, "refused"),
        (Self::PassedThrough, "passed_through"),
        (Self::Bad, "bad"),
        (Self::Unavailable, "unavailable"),
    ];

    pub(super) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    namespace: String,
    object: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    resource: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Answers one review. `native` says whether every kubelet has native sidecars, where that is known.
pub fn review(body: &[u8], settings: &InjectorSettings, native: Option<bool>) -> Reviewed {
    let request = match read(body) {
        Ok(request) => request,
        Err(sentence) => return bad(sentence),
    };
    let name = |field: &str| request.object.as_ref()?.pointer(field)?.as_str();
    let name = name("/metadata/name").or_else(|| name("/metadata/generateName"));
    let pod = format!("{}/{}", request.namespace, name.unwrap_or_default());
    let answer = |outcome, response: Response<'_>| answer(outcome, &response, &pod);
    let uid = request.uid.as_str();

    if let Some(what) = not_a_new_pod(&request) {
        // The pod, or whatever it is, has been let in before: nothing of this is ours to forbid.
        let warning = format!(
            "the injector was asked about {what}, and adds sidecars when pods are created: the rules of its \
             MutatingWebhookConfiguration should name CREATE of pods"
        );
        let response = Response { warnings: vec![sentence(&warning)], ..allowed(uid) };
        return answer(Outcome::Skipped, response);
    }
    let object = match &request.object {
        Some(object @ Value::Object(_)) => object,
        Some(_) => return answer(Outcome::Bad, refused(uid, "the review's object is no pod")),
        None => return answer(Outcome::Bad, refused(uid, "the review has no object")),
    };
    let Some(settings_of_pod) = settings.of(&request.namespace, native) else {
        return Reviewed {
            outcome: Outcome::Unavailable,
            status: 503,
            body: "the API server's version is not known yet, and nativeSidecars is auto\n"
                .to_owned(),
            pod,
        };
    };
    match inject::inject_pod(object, &request.namespace, &settings_of_pod) {
        Ok(Injected::LeftAlone(_)) => answer(Outcome::Skipped, allowed(uid)),
        Ok(Injected::Pod { pod: injected, warnings }) => {
            let patch = json_patch::diff(object, &injected);
            match serde_json::to_vec(&patch) {
                Ok(patch) => {
                    let warnings = warnings.iter().map(|one| sentence(one)).collect();
                    let (patch_type, patch) = (Some("JSONPatch"), Some(ByteString(patch)));
                    let response = Response { patch_type, patch, warnings, ..allowed(uid) };
                    answer(Outcome::Injected, response)
                }
                Err(error) => answer(Outcome::Bad, refused(uid, &error.to_string())),
            }
        }
        Err(refusal) => {
            let said = sentence(&format!("no sidecar can be added: {refusal}"));
            match settings.on_error {
                OnError::Refuse => answer(Outcome::Refused, refused(uid, &said)),
                OnError::PassThrough => {
                    let response = Response { warnings: vec![said], ..allowed(uid) };
                    answer(Outcome::PassedThrough, response)
                }
            }
        }
    }
}

/// The request of a review that can be answered.
fn read(body: &[u8]) -> Result<Request, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(format!("the body is empty; an {KIND} is expected"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let review: Review = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        format!("the body is no {KIND} in JSON: {place}{}", error.inner())
    })?;
    reader.end().map_err(|error| format!("something stands after the {KIND}: {error}"))?;
    if review.kind != KIND {
        return Err(format!("the body is of kind {:?}; {KIND} is expected", review.kind));
    }
    if review.api_version != API_VERSION {
        return Err(format!(
            "the {KIND} is of {:?}; {API_VERSION} is expected",
            review.api_version
        ));
    }
    let request = review.request.ok_or_else(|| format!("the {KIND} has no request"))?;
    if request.uid.is_empty() {
        return Err(format!("the request of the {KIND} has no uid, so it cannot be answered"));
    }
    Ok(request)
}

/// What it is about instead.
fn not_a_new_pod(request: &Request) -> Option<String> {
    let Resource { group, version, resource } = &request.resource;
    let is_pods = group.is_empty() && version == "v1" && resource == "pods";
    if is_pods && request.sub_resource.is_empty() && request.operation == "CREATE" {
        return None;
    }
    let mut what = format!("{} of ", request.operation);
    for part in [group, version, resource, &request.sub_resource] {
        if !part.is_empty() {
            what += if what.ends_with(' ') { "" } else { "/" };
            what += part;
        }
    }
    Some(what)
}

fn allowed(uid: &str) -> Response<'_> {
    Response {
        uid,
        allowed: true,
        status: None,
        patch_type: None,
        patch: None,
        warnings: Vec::new(),
    }
}

fn refused<'a>(uid: &'a str, message: &str) -> Response<'a> {
    let status = json!({
        "status": "Failure", "reason": "BadRequest", "code": 400, "message": sentence(message),
    });
    Response { allowed: false, status: Some(status), ..allowed(uid) }
}

fn answer(outcome: Outcome, response: &Response<'_>, pod: &str) -> Reviewed {
    let review = json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response });
    Reviewed { outcome, status: 200, body: review.to_string(), pod: pod.to_owned() }
}

fn bad(sentence: String) -> Reviewed {
    Reviewed { outcome: Outcome::Bad, status: 400, body: sentence + "\n", pod: String::new() }
}

/// One line: a warning travels in a header of HTTP, which Go refuses to write with anything else in it.
fn sentence(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut length = 0;
    let fits = |c: &char| {
        length += c.len_utf8();
        length <= MAX_SENTENCE
    };
    printable.take_while(fits).collect()
}

#[cfg(test)]
mod tests;

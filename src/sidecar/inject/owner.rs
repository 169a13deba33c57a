//! Which workload a pod belongs to. Of a manifest that is the object itself; of a pod that is being
//! admitted, what Istio's injector concludes from its controller: the ReplicaSet of a Deployment is the
//! Deployment, the Job of a CronJob the CronJob.

use super::node::Node;

/// What makes the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
}

impl Owner {
    /// Of a pod as the API server hands it to a webhook.
    pub(super) fn of_pod(pod: &Node) -> Self {
        let own = |name: &str| Self {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: name.to_owned(),
        };
        let (name, generated) =
            (pod.text(&["metadata", "name"]), pod.text(&["metadata", "generateName"]));
        let controls = |owner: &&Node| owner.at(&["controller"]) == Some(&Node::Bool(true));
        let owners = pod.at(&["metadata", "ownerReferences"]).and_then(Node::as_list);
        let Some(owner) = owners.into_iter().flatten().find(controls) else {
            return own(if name.is_empty() { generated.trim_end_matches('-') } else { name });
        };
        let text = |field: &str| owner.text(&[field]).to_owned();
        let found =
            Self { api_version: text("apiVersion"), kind: text("kind"), name: text("name") };
        match found.kind.as_str() {
            "ReplicaSet" => {
                let hash = pod.text(&["metadata", "labels", "pod-template-hash"]);
                let deployment = found.name.strip_suffix(hash).filter(|_| !hash.is_empty());
                match deployment.and_then(|rest| rest.strip_suffix('-')) {
                    Some(name) if !name.is_empty() => {
                        Self { kind: "Deployment".to_owned(), name: name.to_owned(), ..found }
                    }
                    _ => found,
                }
            }
            "Job" => match cron_job(&found.name) {
                Some(name) => Self {
                    api_version: "batch/v1".to_owned(),
                    kind: "CronJob".to_owned(),
                    name: name.to_owned(),
                },
                None => found,
            },
            _ => found,
        }
    }

    /// What to say of it where the proxy is not a native sidecar.
    pub(super) fn does_not_complete(&self, native: bool) -> Option<String> {
        let never = !native && matches!(self.kind.as_str(), "Job" | "CronJob");
        never.then(|| {
            format!(
                "its pods will not complete, since the proxy runs on; a native sidecar ends with them: \
                 --native-sidecar, or annotation {}: \"true\"",
                super::annotations::NATIVE
            )
        })
    }
}

/// A CronJob's Jobs are called by it and the minute for which they run.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = (8..=10).contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit());
    (is_minute && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(metadata: serde_json::Value) -> [String; 3] {
        let pod = serde_json::json!({ "metadata": metadata });
        let Owner { api_version, kind, name } =
            Owner::of_pod(&serde_json::from_value(pod).unwrap());
        [api_version, kind, name]
    }

    fn controlled(kind: &str, name: &str, hash: &str) -> serde_json::Value {
        serde_json::json!({
            "generateName": format!("{name}-"), "labels": { "pod-template-hash": hash },
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Other", "name": "aside" },
                { "apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true },
            ],
        })
    }

    #[test]
    fn a_pod_belongs_to_what_people_have_written() {
        for (metadata, found) in [
            (controlled("ReplicaSet", "web-v1-6d4b75cb6d", "6d4b75cb6d"), ["Deployment", "web-v1"]),
            (controlled("ReplicaSet", "web", ""), ["ReplicaSet", "web"]),
            (controlled("ReplicaSet", "web-6d4b", "other"), ["ReplicaSet", "web-6d4b"]),
            (controlled("StatefulSet", "db", ""), ["StatefulSet", "db"]),
            (controlled("Job", "nightly", ""), ["Job", "nightly"]),
            (serde_json::json!({ "name": "alone" }), ["Pod", "alone"]),
            (serde_json::json!({ "generateName": "some-" }), ["Pod", "some"]),
        ] {
            let [_, kind, name] = owner(metadata.clone());
            assert_eq!([kind.as_str(), name.as_str()], found, "{metadata}");
        }
        let cron = owner(controlled("Job", "nightly-29012345", ""));
        assert_eq!(cron, ["batch/v1", "CronJob", "nightly"].map(str::to_owned));
    }
}

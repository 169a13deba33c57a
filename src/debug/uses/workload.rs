//! Which workload a proxy is of: what its pods have in common. It is read off the labels that Kubernetes' own
//! controllers set and the pod's name, since the control plane knows no pods.

use crate::proxies::ProxyIdentity;

/// The name of the Deployment, StatefulSet, DaemonSet or Job, as far as it can be told; else the app that the proxy's
/// `node.cluster` names, else the proxy's own name.
pub(super) fn workload(identity: &ProxyIdentity) -> &str {
    let namespace = identity.view.namespace.as_deref().unwrap_or_default();
    let without_namespace = |name: &'_ str| -> usize {
        let own = name.strip_suffix(namespace).and_then(|rest| rest.strip_suffix('.'));
        own.filter(|_| !namespace.is_empty()).map_or(name.len(), str::len)
    };
    let pod = &identity.name[..without_namespace(&identity.name)];
    let label = |wanted: &str| {
        let found = identity.labels.iter().find(|(key, _)| **key == *wanted);
        found.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    };
    // NAME-HASH-SUFFIX, where a long name of a pod is cut.
    if let Some(hash) = label("pod-template-hash")
        && let Some((name, _)) = pod.rsplit_once('-').and_then(|(rest, _)| rest.rsplit_once(hash))
        && let Some(name) = name.strip_suffix('-').filter(|name| !name.is_empty())
    {
        return name;
    }
    if let Some(job) = label("batch.kubernetes.io/job-name").or(label("job-name")) {
        return job;
    }
    // Of a StatefulSet NAME-NUMBER, of a DaemonSet NAME-SUFFIX: both have this label.
    if label("controller-revision-hash").is_some()
        && let Some((name, _)) = pod.rsplit_once('-')
    {
        return name;
    }
    let app = &identity.cluster[..without_namespace(&identity.cluster)];
    if app.is_empty() { pod } else { app }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{ProxyKind, ViewKey};

    fn of(name: &str, cluster: &str, labels: &[(&str, &str)]) -> String {
        let namespace = name.rsplit_once('.').map(|(_, namespace)| namespace);
        let identity = ProxyIdentity {
            node_id: "x".into(),
            name: name.into(),
            cluster: cluster.into(),
            view: ViewKey::new(ProxyKind::Sidecar, namespace),
            user_agent: "".into(),
            locality: "".into(),
            probe: false,
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            principal: None,
            uses: None,
        };
        workload(&identity).to_owned()
    }

    #[test]
    fn pods_of_one_workload_have_one_name() {
        let hash = ("pod-template-hash", "7d9f8c");
        let revision = ("controller-revision-hash", "web-5d");
        for (name, cluster, labels, expected) in [
            ("reviews-v1-7d9f8c-x2k4z.shop", "reviews.shop", vec![hash], "reviews-v1"),
            ("db-0.shop", "db.shop", vec![revision], "db"),
            ("agent-x8x7q.kube-system", "", vec![revision], "agent"),
            ("report-28-abcde.shop", "", vec![("job-name", "report-28")], "report-28"),
            ("details-0.shop", "details.shop", vec![], "details"),
            ("lonely.shop", "", vec![], "lonely"),
            ("no-namespace", "app", vec![("app", "x")], "app"),
            // What a proxy says of itself fits or not.
            ("7d9f8c.shop", "", vec![hash], "7d9f8c"),
            ("-7d9f8c-x.shop", "", vec![hash], "-7d9f8c-x"),
            (".shop", "", vec![revision], ""),
        ] {
            assert_eq!(of(name, cluster, &labels), expected, "{name}");
        }
    }
}

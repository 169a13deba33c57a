//! Who the proxy is: the `node` of its bootstrap, by Istio's rules (`type~ip~pod.ns~domain`, metadata
//! from `ISTIO_META_*`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::args::ProxyType;

const META: &str = "ISTIO_META_";
const META_JSON: &str = "ISTIO_METAJSON_";
/// As Istio's agent has it: a variable without prefix.
const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const SUBZONE_LABEL: &str = "topology.istio.io/subzone";

/// What is wrong with what describes the pod.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(
        "{from} is {found:?}: a part of the node id, which is TYPE~IP~POD.NAMESPACE~DOMAIN, so it may \
         hold letters, digits, '-', '.' and '_' only"
    )]
    Part { from: &'static str, found: String },
    #[error("{name} is no JSON object: {error}")]
    Json { name: String, error: serde_json::Error },
    #[error(
        "--labels-file {file}, line {line}: {text:?} is not KEY=\"VALUE\", as the downward API \
         writes metadata.labels"
    )]
    Labels { file: String, line: usize, text: String },
    #[error("--labels-file {file} cannot be read: {error}")]
    LabelsFile { file: String, error: std::io::Error },
}

/// What flags say of the proxy.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    pub(super) proxy_type: ProxyType,
    pub(super) name: String,
    pub(super) namespace: &'a str,
    /// The cluster's, or as Istio's `--domain` has it `NAMESPACE.svc.` and the cluster's.
    pub(super) domain: &'a str,
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) labels_file: &'a Path,
    pub(super) zone: Option<&'a str>,
    pub(super) region: Option<&'a str>,
    /// Whether it may not bind ports below 1024.
    pub(super) unprivileged: bool,
}

/// The node as Envoy presents it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub proxy_type: ProxyType,
    pub id: String,
    pub cluster: String,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub metadata: Map<String, Value>,
    pub addresses: Vec<IpAddr>,
}

impl Node {
    pub(super) fn new(
        identity: Identity<'_>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, NodeError> {
        let Identity { proxy_type, name, namespace, addresses, .. } = identity;
        for (from, part) in [
            ("--pod-name (POD_NAME, or the host's name)", name.as_str()),
            ("--pod-namespace (POD_NAMESPACE)", namespace),
            ("--domain", identity.domain),
        ] {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if !part.chars().all(fits) {
                return Err(NodeError::Part { from, found: part.to_owned() });
            }
        }
        let mut metadata = Map::new();
        let mut labels = Map::new();
        for (variable, text) in environment {
            if let Some(key) = variable.strip_prefix(META_JSON) {
                let object: Map<String, Value> = serde_json::from_str(text)
                    .map_err(|error| NodeError::Json { name: variable.clone(), error })?;
                match key {
                    "LABELS" => labels.extend(object),
                    _ => metadata.extend(object),
                }
            } else if let Some(key) = variable.strip_prefix(META) {
                metadata.insert(key.to_owned(), text.as_str().into());
            }
        }
        labels.extend(read_labels(identity.labels_file)?);

        let label = |key: &str| labels.get(key).and_then(Value::as_str).map(str::to_owned);
        let place = |flag: Option<&str>, key: &str| {
            flag.map(str::to_owned).or_else(|| label(key)).unwrap_or_default()
        };
        let app = label("app").or_else(|| label("app.kubernetes.io/name"));
        let suffix = format!("{namespace}.svc");
        let domain = match identity.domain.strip_prefix(&suffix) {
            Some(rest) if rest.is_empty() || rest.starts_with('.') => identity.domain.to_owned(),
            _ => format!("{suffix}.{}", identity.domain),
        };
        let ips: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let first = ips.first().map(String::as_str).unwrap_or_default();
        let node = Self {
            proxy_type,
            id: format!("{}~{first}~{name}.{namespace}~{domain}", proxy_type.as_str()),
            cluster: format!("{}.{namespace}", app.as_deref().unwrap_or(&name)),
            region: place(identity.region, REGION_LABEL),
            zone: place(identity.zone, ZONE_LABEL),
            sub_zone: place(None, SUBZONE_LABEL),
            metadata: Map::new(),
            addresses,
        };
        // What the pod knows of itself stands above what was written into its environment.
        metadata.insert("NAME".to_owned(), name.into());
        metadata.insert("NAMESPACE".to_owned(), namespace.into());
        metadata.insert("INSTANCE_IPS".to_owned(), ips.join(",").into());
        if let Some(account) = environment.get(SERVICE_ACCOUNT).filter(|name| !name.is_empty()) {
            metadata.insert(SERVICE_ACCOUNT.to_owned(), account.as_str().into());
        }
        if !labels.is_empty() {
            metadata.insert("LABELS".to_owned(), labels.into());
        }
        if proxy_type == ProxyType::Sidecar {
            let mode = metadata.entry("INTERCEPTION_MODE").or_insert_with(|| json!("REDIRECT"));
            // Captured traffic comes by ports that are free to everybody.
            if *mode == "NONE" && identity.unprivileged {
                metadata.entry("UNPRIVILEGED_POD").or_insert_with(|| json!("true"));
            }
        }
        Ok(Self { metadata, ..node })
    }
}

impl Node {
    /// DNS domain of the cluster, as the id has it.
    pub(super) fn cluster_domain(&self) -> &str {
        let domain = self.id.rsplit('~').next().unwrap_or_default();
        domain.split_once(".svc.").map_or(domain, |(_, domain)| domain)
    }

    /// Whether the pod's traffic is led to the proxy, rather than listened for on every Service's port.
    pub fn is_captured(&self) -> bool {
        self.proxy_type == ProxyType::Sidecar
            && self.metadata.get("INTERCEPTION_MODE").is_none_or(|mode| mode != "NONE")
    }
}

/// A file that is not there means that nobody mounted it.
fn read_labels(file: &Path) -> Result<Map<String, Value>, NodeError> {
    let shown = || file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(text) => parse_labels(&text).map_err(|(line, text)| NodeError::Labels {
            file: shown(),
            line,
            text: text.to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(NodeError::LabelsFile { file: shown(), error }),
    }
}

/// `key="value"` a line; the value is quoted as in Go, which for label values is as in JSON.
fn parse_labels(text: &str) -> Result<Map<String, Value>, (usize, &str)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let (key, quoted) = line.trim().split_once('=').ok_or((at + 1, line))?;
            let value: String = serde_json::from_str(quoted).map_err(|_| (at + 1, line))?;
            Ok((key.to_owned(), value.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(domain: &str, labels: &Path, environment: &[(&str, &str)]) -> Result<Node, NodeError> {
        let identity = Identity {
            proxy_type: ProxyType::Sidecar,
            name: "details-0".to_owned(),
            namespace: "shop",
            domain,
            addresses: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
            labels_file: labels,
            zone: None,
            region: Some("north"),
            unprivileged: true,
        };
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Node::new(identity, &environment.iter().map(own).collect())
    }

    #[test]
    fn it_is_known_by_what_the_environment_says() {
        let environment = [
            ("ISTIO_META_CLUSTER_ID", "east"),
            ("ISTIO_META_INTERCEPTION_MODE", "NONE"),
            ("ISTIO_META_NAMESPACE", "not this"),
            ("ISTIO_METAJSON_LABELS", r#"{"app": "details"}"#),
            ("ISTIO_METAJSON_ANNOTATIONS", r#"{"one": "two"}"#),
            ("HOME", "/"),
        ];
        let node = node("cluster.local", Path::new("/none"), &environment).unwrap();
        assert_eq!(node.id, "sidecar~10.1.2.3~details-0.shop~shop.svc.cluster.local");
        assert_eq!(node.cluster, "details.shop");
        let wanted = json!({
            "CLUSTER_ID": "east", "INTERCEPTION_MODE": "NONE", "NAMESPACE": "shop",
            "UNPRIVILEGED_POD": "true",
            "NAME": "details-0", "INSTANCE_IPS": "10.1.2.3,fd00::3",
            "LABELS": { "app": "details" }, "one": "two",
        });
        assert_eq!(Value::Object(node.metadata), wanted);
    }

    #[test]
    fn privileged_ports_matter_where_listeners_are_bound() {
        let said = |environment: &[(&str, &str)]| {
            let node = node("cluster.local", Path::new("/none"), environment).unwrap();
            node.metadata.get("UNPRIVILEGED_POD").cloned()
        };
        let bound = ("ISTIO_META_INTERCEPTION_MODE", "NONE");
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[bound]), Some(json!("true")));
        assert_eq!(said(&[bound, ("ISTIO_META_UNPRIVILEGED_POD", "false")]), Some(json!("false")));
    }

    #[test]
    fn istios_spelling_of_the_domain_will_do() {
        let id = |domain| node(domain, Path::new("/none"), &[]).unwrap().id;
        assert!(id("shop.svc.example.org").ends_with("~shop.svc.example.org"));
        assert!(id("example.org").ends_with("~shop.svc.example.org"));
    }

    #[test]
    fn the_downward_api_gives_labels_and_the_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let labels = "app.kubernetes.io/name=\"cart\"\ntopology.kubernetes.io/zone=\"z1\"\n\
                      topology.kubernetes.io/region=\"r1\"\n";
        std::fs::write(file.path(), labels).unwrap();
        let node = node("cluster.local", file.path(), &[]).unwrap();
        assert_eq!((&*node.region, &*node.zone, &*node.cluster), ("north", "z1", "cart.shop"));
        assert_eq!(node.metadata["LABELS"]["topology.kubernetes.io/region"], "r1");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let said = |environment: &[(&str, &str)], file: &Path| {
            node("cluster.local", file, environment).unwrap_err().to_string()
        };
        let error = said(&[("ISTIO_METAJSON_LABELS", "app=x")], Path::new("/none"));
        assert!(error.starts_with("ISTIO_METAJSON_LABELS is no JSON object"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "app=\"x\"\nversion=v1\n").unwrap();
        let error = said(&[], file.path());
        assert!(error.contains("line 2") && error.contains("version=v1"), "{error}");
    }
}

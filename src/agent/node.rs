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
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const SUBZONE_LABEL: &str = "topology.istio.io/subzone";

/// What is wrong with what describes the pod.
#[derive(Debug, Error)]
pub enum NodeError {
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
        if !labels.is_empty() {
            metadata.insert("LABELS".to_owned(), labels.into());
        }
        if proxy_type == ProxyType::Sidecar {
            metadata.entry("INTERCEPTION_MODE").or_insert_with(|| json!("REDIRECT"));
        }
        Ok(Self { metadata, ..node })
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

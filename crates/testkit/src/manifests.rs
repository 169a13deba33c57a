//! A folder of manifests that a test writes while it is being served.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backends::{Backend, target_port};

/// One Service and its EndpointSlice.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    namespace: String,
    cluster_ip: Option<String>,
    /// Name and number; a port named `tcp` leads to workloads of that sort.
    ports: Vec<(String, u16)>,
    endpoints: Vec<(IpAddr, bool)>,
    annotations: BTreeMap<String, String>,
}

impl Service {
    /// In namespace `default`, with one port.
    pub fn new(name: &str, port_name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            cluster_ip: None,
            ports: vec![(port_name.to_owned(), port)],
            endpoints: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// An IP address or `None`, which makes it headless.
    pub fn with_cluster_ip(mut self, address: &str) -> Self {
        self.cluster_ip = Some(address.to_owned());
        self
    }

    /// The same with other endpoints, all ready.
    pub fn with<'a>(mut self, backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        self.endpoints = backends.into_iter().map(|backend| (backend.address, true)).collect();
        self
    }

    /// The same with this endpoint not ready.
    pub fn with_unready(mut self, backend: &Backend) -> Self {
        let mut own = self.endpoints.iter_mut().filter(|(address, _)| *address == backend.address);
        own.next().expect("it is an endpoint of the service").1 = false;
        self
    }

    pub fn with_annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same with another name for its only port, hence maybe another protocol.
    pub fn with_port_name(mut self, name: &str) -> Self {
        self.ports[0].0 = name.to_owned();
        self
    }

    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// The name of its first port's cluster.
    pub fn cluster(&self) -> String {
        format!("outbound|{}||{}", self.ports[0].1, self.host())
    }

    fn manifest(&self) -> Value {
        let Self { name, namespace, cluster_ip, ports, endpoints, annotations } = self;
        let targets: Vec<Value> = ports
            .iter()
            .map(|(name, _)| json!({ "name": name, "port": target_port(), "protocol": "TCP" }))
            .collect();
        let ports: Vec<Value> =
            ports.iter().map(|(name, port)| json!({ "name": name, "port": port })).collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, ready)| {
                json!({ "addresses": [address], "conditions": { "ready": ready } })
            })
            .collect();
        let mut spec = json!({ "ports": ports });
        if let Some(address) = cluster_ip {
            spec["clusterIP"] = address.as_str().into();
        }
        json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata":
                    { "name": name, "namespace": namespace, "annotations": annotations },
                "spec": spec,
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-1"),
                    "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": "IPv4",
                "ports": targets,
                "endpoints": endpoints,
            },
        ]})
    }
}

/// The folder, one file a service.
#[derive(Debug)]
pub struct Manifests {
    folder: TempDir,
}

impl Manifests {
    pub fn new(services: &[Service]) -> Self {
        let manifests = Self { folder: TempDir::new().expect("a temporary folder") };
        for service in services {
            manifests.apply(service);
        }
        manifests
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a service's file as careful tools do: beside it, then renamed over it.
    pub fn apply(&self, service: &Service) {
        let file = self.file(service);
        let beside = file.with_extension("new");
        std::fs::write(&beside, service.manifest().to_string()).expect("the folder is writable");
        std::fs::rename(&beside, &file).expect("the folder is writable");
    }

    pub fn delete(&self, service: &Service) {
        std::fs::remove_file(self.file(service)).expect("the service was put there");
    }

    /// Any other manifest.
    pub fn put_raw(&self, file: &str, text: &str) {
        write(self.path(), file, text);
    }

    fn file(&self, service: &Service) -> PathBuf {
        self.folder.path().join(format!("{}.{}.json", service.name, service.namespace))
    }
}

/// The manifest of a service `NAME.default`: port 80, HTTP, and one slice of ready endpoints that listen on
/// `target`.
pub fn http_service<A: Display>(
    name: &str,
    target: u16,
    addresses: impl IntoIterator<Item = A>,
) -> String {
    let addresses = addresses.into_iter();
    let endpoints: String =
        addresses.map(|address| format!("  - addresses: [\"{address}\"]\n")).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports:
    - {{name: http, port: 80}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
  - {{name: http, port: {target}}}
endpoints:
{endpoints}"
    )
}

/// Writes a file of a folder that is being served: beside it, then renamed over it, so that no half file is read.
pub fn write(folder: &Path, file: &str, text: &str) {
    let draft = folder.join(format!(".{file}"));
    std::fs::write(&draft, text).expect("the folder is writable");
    std::fs::rename(draft, folder.join(file)).expect("the folder is writable");
}

//! The program over a mesh in a file, seen by its pages.

use std::fmt::Write as _;
use std::net::SocketAddr;

use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::manifests;
use pilothouse_testkit::{Process, get, until};
use tempfile::TempDir;

/// Services with one HTTP port each, which is one of four, spread over namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) namespaces: usize,
}

pub(crate) const PORTS: [u16; 4] = [80, 7070, 8080, 9090];

impl Mesh {
    pub(crate) fn clusters(&self) -> impl Iterator<Item = String> {
        let namespaces = self.namespaces;
        (0..self.services).map(move |number| {
            let (name, namespace) = names(number, namespaces);
            format!("outbound|{}||{name}.{namespace}.svc.cluster.local", port(number))
        })
    }

    fn manifests(&self) -> String {
        let mut text = String::new();
        for number in 0..self.services {
            let ((name, namespace), port) = (names(number, self.namespaces), port(number));
            write!(
                text,
                "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports: [{{name: http, port: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
"
            )
            .unwrap();
            for endpoint in 0..self.endpoints {
                let (high, low) = (number / 250, number % 250);
                writeln!(text, "  - addresses: [\"10.{endpoint}.{high}.{low}\"]").unwrap();
            }
        }
        text
    }
}

/// The service's, and its namespace's. Neighbours in number differ in both namespace and port.
fn names(number: usize, namespaces: usize) -> (String, String) {
    (format!("service-{number}"), namespace(number / PORTS.len() % namespaces))
}

pub(crate) fn namespace(number: usize) -> String {
    format!("namespace-{number}")
}

fn port(number: usize) -> u16 {
    PORTS[number % PORTS.len()]
}

pub(crate) struct Pilot {
    pub(crate) grpc: u16,
    monitoring: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Pilot {
    /// Once it is ready.
    pub(crate) async fn start(mesh: &Mesh, flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        std::fs::write(manifests.join("mesh.yaml"), mesh.manifests()).unwrap();
        let serve = ["serve", "--manifests", manifests.to_str().unwrap()];
        let command = pilothouse(&[&serve, flags].concat());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ControlPlane { grpc, monitoring, process, .. } =
            ControlPlane::start_command(command, any).await;
        let pilot = Self { grpc: grpc.port(), monitoring, process, folder };
        until("the program to be ready", async || match pilot.page("/ready").await? {
            (200, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        })
        .await;
        pilot
    }

    /// Waits until a sample has this value.
    pub(crate) async fn reaches(&self, sample: &str, value: f64) {
        until(&format!("{sample} to be {value}"), async || {
            let now = self.metric(sample).await?;
            if now == value { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
    }

    pub(crate) async fn metric(&self, sample: &str) -> Result<f64, String> {
        let (_, page) = self.page("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {sample}: {page}"))
    }

    async fn page(&self, path: &str) -> Result<(u16, String), String> {
        let answer = get(&format!("http://{}{path}", self.monitoring)).await;
        answer.map_err(|error| format!("{error}; its log: {}", self.process.log()))
    }

    /// Resident memory, KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.process.memory("VmRSS") as u64 >> 10
    }

    /// Puts one more service into the mesh.
    pub(crate) fn add_service(&self, name: &str) {
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports: [{{name: http, port: 80}}]
"
        );
        manifests::write(&self.folder.path().join("manifests"), &format!("{name}.yaml"), &text);
    }
}

//! A proxy that subscribes as Envoys do and ACKs everything, but looks at no resource, so that many
//! of them cost little.

use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use pilothouse::names::ResourceType;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::pilot::{Mesh, PORTS, namespace};
use crate::http2::{self, Reader, Response};
use pilothouse_testkit::LONG_DEADLINE as DEADLINE;

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Who it says it is.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    id: String,
    from: Ipv4Addr,
    zone: String,
    metadata: Vec<(&'static str, String)>,
    /// Tables that it asks for.
    tables: Vec<String>,
}

impl Role {
    pub(crate) fn sidecar(number: usize, of_namespace: usize) -> Self {
        let (high, low, namespace) = (number / 250, number % 250, namespace(of_namespace));
        let id = format!(
            "sidecar~172.16.{high}.{low}~pod-{number}.{namespace}~{namespace}.svc.cluster.local"
        );
        let tables = PORTS.map(|port| port.to_string()).into();
        Self { id, from: Ipv4Addr::LOCALHOST, zone: String::new(), metadata: Vec::new(), tables }
    }

    pub(crate) fn standalone(id: &str, metadata: Vec<(&'static str, String)>) -> Self {
        let (zone, tables) = (String::new(), vec!["http".to_owned()]);
        Self { id: id.to_owned(), from: Ipv4Addr::LOCALHOST, zone, metadata, tables }
    }

    /// Connects from this address.
    pub(crate) fn from(self, from: Ipv4Addr) -> Self {
        Self { from, ..self }
    }

    pub(crate) fn in_zone(self, zone: &str) -> Self {
        Self { zone: zone.to_owned(), ..self }
    }

    fn node(&self) -> Node {
        let text = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
        let fields =
            self.metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
        Node {
            id: self.id.clone(),
            metadata: Some(Struct { fields }),
            locality: Some(Locality { zone: self.zone.clone(), ..Default::default() }),
            ..Default::default()
        }
    }
}

/// What has come so far.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Responses by type.
    responses: [usize; ResourceType::COUNT],
    /// Of the last response of each type.
    versions: [String; ResourceType::COUNT],
    /// How its stream ended.
    end: Option<String>,
    /// How often it has connected again.
    again: usize,
}

/// Connected until dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) fn start(port: u16, role: Role, mesh: &Mesh) -> Self {
        let clusters: Vec<String> = mesh.clusters().collect();
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            if let Err(problem) = run(port, &role, &clusters, &sender).await {
                sender.send_modify(|seen| seen.end = Some(format!("{problem:#}")));
            }
        });
        Self { seen, task }
    }

    /// One that connects again whenever its stream ends, as Envoy does.
    pub(crate) fn start_steady(port: u16, role: Role, mesh: &Mesh) -> Self {
        let clusters: Vec<String> = mesh.clusters().collect();
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            loop {
                let ended = run(port, &role, &clusters, &sender).await;
                let why = ended.err().map(|problem| format!("{problem:#}"));
                let again = sender.borrow().again + 1;
                sender.send_replace(Seen { again, ..Seen::default() });
                let why = why.unwrap_or_default();
                assert!(why.contains("--max-connection-age") || why.contains("GOAWAY"), "{why}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        Self { seen, task }
    }

    /// Waits until what it has of a type is this version.
    pub(crate) async fn comes_to(&self, of: ResourceType, version: &str) {
        let mut seen = self.seen.clone();
        let there = |seen: &Seen| seen.versions[of.index()] == version;
        let waited = tokio::time::timeout(DEADLINE, seen.wait_for(there)).await.is_ok();
        assert!(waited, "waited {DEADLINE:?} for {version}: {:?}", self.seen.borrow());
        assert!(!self.task.is_finished(), "it was ended for another reason");
    }

    pub(crate) fn version(&self, of: ResourceType) -> String {
        self.seen.borrow().versions[of.index()].clone()
    }

    /// How often it has connected again.
    pub(crate) fn reconnects(&self) -> usize {
        self.seen.borrow().again
    }

    /// Waits until it was sent something of every type.
    pub(crate) async fn in_sync(&self) {
        self.has([1; ResourceType::COUNT]).await;
    }

    /// Waits until so many responses of each type have come.
    pub(crate) async fn has(&self, responses: [usize; ResourceType::COUNT]) {
        let enough = |seen: &Seen| {
            seen.end.is_some() || seen.responses.iter().zip(responses).all(|(got, all)| *got >= all)
        };
        let mut seen = self.seen.clone();
        let waited = tokio::time::timeout(DEADLINE, seen.wait_for(enough)).await;
        let seen = waited.map(|seen| seen.unwrap().clone());
        let seen = seen.unwrap_or_else(|_| panic!("waited {DEADLINE:?}: {:?}", self.seen.borrow()));
        assert_eq!(seen.end, None);
    }

    /// Waits until it is in sync (`None`), or its stream was ended, and how.
    pub(crate) async fn outcome(&self) -> Option<String> {
        let over = |seen: &Seen| seen.end.is_some() || seen.responses.iter().all(|got| *got > 0);
        let mut seen = self.seen.clone();
        let waited = tokio::time::timeout(DEADLINE, seen.wait_for(over)).await;
        waited.expect("it is served or refused in time").unwrap().end.clone()
    }

    pub(crate) fn responses(&self) -> [usize; ResourceType::COUNT] {
        self.seen.borrow().responses
    }
}

async fn run(
    port: u16,
    role: &Role,
    clusters: &[String],
    seen: &watch::Sender<Seen>,
) -> anyhow::Result<()> {
    use ResourceType::{Cluster, Endpoint, Listener, Route};
    let socket = TcpSocket::new_v4()?;
    socket.bind((role.from, 0).into())?;
    let mut socket = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    let request = |of: ResourceType, names: &[String], nonce: &str| {
        let (type_url, response_nonce) = (of.type_url().to_owned(), nonce.to_owned());
        let resource_names = names.to_vec();
        DiscoveryRequest { type_url, response_nonce, resource_names, ..Default::default() }
    };
    let names = |of: ResourceType| match of {
        Endpoint => clusters,
        Route => &role.tables,
        Cluster | Listener => &[],
    };
    let mut out = http2::opening(SOTW);
    let first = DiscoveryRequest { node: Some(role.node()), ..request(Cluster, &[], "") };
    http2::message(&mut out, &[&first.encode_to_vec()]);
    let (mut reader, mut buffer) = (Reader::default(), vec![0; 64 << 10]);
    loop {
        socket.write_all(&out).await?;
        out.clear();
        let read = socket.read(&mut buffer).await?;
        anyhow::ensure!(read > 0, "cut by the server");
        reader.receive(&buffer[..read], &mut out, |response: Response, out| {
            let of = response.of.ok_or_else(|| anyhow::anyhow!("a response without a type"))?;
            let is_first = seen.borrow().responses[of.index()] == 0;
            seen.send_modify(|seen| {
                seen.responses[of.index()] += 1;
                seen.versions[of.index()].clone_from(&response.version);
            });
            let ack = request(of, names(of), &response.nonce);
            http2::message(out, &[&ack.encode_to_vec()]);
            let next: &[ResourceType] = match of {
                Cluster if is_first => &[Endpoint, Listener],
                Listener if is_first => &[Route],
                _ => &[],
            };
            for of in next {
                http2::message(out, &[&request(*of, names(*of), "").encode_to_vec()]);
            }
            Ok(())
        })?;
    }
}

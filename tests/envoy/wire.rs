//! Bad input over a real connection: each gets the status that says what was wrong, and nobody
//! else notices.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// One aggregated stream by tonic's own client.
pub(crate) struct Client {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    last: DiscoveryResponse,
}

impl Client {
    pub(crate) async fn open(server: SocketAddr) -> Self {
        let client = AggregatedDiscoveryServiceClient::connect(format!("http://{server}")).await;
        let (requests, outgoing) = mpsc::channel(8);
        let outgoing = ReceiverStream::new(outgoing);
        let opened = client.expect("it listens").stream_aggregated_resources(outgoing).await;
        let responses = opened.expect("the stream opens").into_inner();
        Self { requests, responses, last: DiscoveryResponse::default() }
    }

    /// A subscription by a standalone node.
    pub(crate) async fn subscribe(&self, type_url: &str) {
        let node = Node { id: "client".to_owned(), ..Default::default() };
        self.send(DiscoveryRequest { node: Some(node), ..request(type_url) }).await;
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.expect("the stream is open");
    }

    pub(crate) async fn response(&mut self) -> Result<DiscoveryResponse, Status> {
        let response = tokio::time::timeout(DEADLINE, self.responses.message()).await;
        let response = response.expect("something happens")?.expect("the stream goes on");
        self.last = response.clone();
        Ok(response)
    }

    /// ACKs the last response; before that, nothing newer comes.
    async fn accept(&self) {
        let DiscoveryResponse { version_info, type_url, nonce, .. } = self.last.clone();
        let accepted =
            DiscoveryRequest { version_info, response_nonce: nonce, ..request(&type_url) };
        self.send(accepted).await;
    }

    /// How the server ended the stream.
    pub(crate) async fn end(&mut self) -> Status {
        self.response().await.expect_err("an end")
    }
}

fn request(type_url: &str) -> DiscoveryRequest {
    DiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() }
}

fn with_node(id: &str, type_url: &str) -> DiscoveryRequest {
    let node = Node { id: id.to_owned(), ..Default::default() };
    DiscoveryRequest { node: Some(node), ..request(type_url) }
}

/// One service, and a client that is served before and after.
async fn served() -> (ControlPlane, Manifests, Client) {
    let manifests = Manifests::new(&[Service::new("any", "http", 80)]);
    let control = ControlPlane::start(manifests.path()).await;
    let mut client = Client::open(control.grpc).await;
    client.subscribe(CLUSTER).await;
    assert_eq!(client.response().await.unwrap().resources.len(), 4);
    (control, manifests, client)
}

/// A second service reaches the client that was there all along, and a new client too.
async fn assert_unharmed(control: &ControlPlane, manifests: &Manifests, before: &mut Client) {
    manifests.apply(&Service::new("second", "http", 80));
    before.accept().await;
    assert_eq!(before.response().await.unwrap().resources.len(), 5);
    let mut after = Client::open(control.grpc).await;
    after.subscribe(CLUSTER).await;
    assert_eq!(after.response().await.unwrap().resources.len(), 5);
}

#[tokio::test]
async fn a_bad_first_request_is_answered_with_what_is_wrong() {
    let (control, manifests, mut good) = served().await;
    let shape = "type~ip~name.namespace~domain";
    let bad = [
        (request(CLUSTER), "missing node information"),
        (with_node("", CLUSTER), "missing node information"),
        (with_node("sidecar~10.0.0.1~web.shop", CLUSTER), shape),
        (with_node("sidecar~10.0.0.1~web.shop~x~y", CLUSTER), shape),
        (with_node("sidecar~localhost~web.shop~shop.svc.cluster.local", CLUSTER), shape),
        (with_node("sidecar~10.0.0.1~~shop.svc.cluster.local", CLUSTER), shape),
        (with_node("waypoint~10.0.0.1~web.shop~shop.svc.cluster.local", CLUSTER), shape),
        (with_node("edge", ""), "type_url is empty"),
        (with_node("edge", "clusters"), "type_url \"clusters\" is no resource type"),
    ];
    for (request, word) in bad {
        let mut client = Client::open(control.grpc).await;
        client.send(request.clone()).await;
        let status = client.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status:?}");
        assert!(status.message().contains(word), "no {word:?} in {status:?}");
    }
    assert_unharmed(&control, &manifests, &mut good).await;
}

#[tokio::test]
async fn an_unknown_type_costs_nothing() {
    let (control, manifests, mut good) = served().await;
    let mut client = Client::open(control.grpc).await;
    client.subscribe(SECRET).await;
    client.send(request(LISTENER)).await;
    client.send(request(CLUSTER)).await;
    let mut served = Vec::new();
    while served.len() < 3 {
        let response = client.response().await.unwrap();
        served.push((response.type_url, response.resources.len()));
    }
    served.sort();
    let counts = [(CLUSTER, 4), (LISTENER, 1), (SECRET, 0)];
    assert_eq!(served, counts.map(|(of, count)| (of.to_owned(), count)));
    drop(client);
    assert_unharmed(&control, &manifests, &mut good).await;
}

#[tokio::test]
async fn a_huge_request_is_refused_with_the_limit() {
    let (control, manifests, mut good) = served().await;
    let mut client = Client::open(control.grpc).await;
    let names = vec!["x".repeat(1024); 10 * 1024];
    client.send(DiscoveryRequest { resource_names: names, ..with_node("edge", CLUSTER) }).await;
    let status = client.end().await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains(&(4 << 20).to_string()), "{status:?}");
    assert_unharmed(&control, &manifests, &mut good).await;
}

#[tokio::test]
async fn too_much_of_anything_is_refused_by_the_name_of_its_flag() {
    let manifests = Manifests::new(&[]);
    let folder = manifests.path().to_str().unwrap();
    let limits = ["--max-names", "2", "--max-types", "5", "--first-request-timeout", "300ms"];
    let source: Vec<&str> = ["--manifests", folder].into_iter().chain(limits).collect();
    let control = ControlPlane::start_with(&source, &[]).await;
    control.becomes_ready().await;

    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    let mut client = Client::open(control.grpc).await;
    client.send(DiscoveryRequest { resource_names: names, ..with_node("edge", CLUSTER) }).await;
    let status = client.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("--max-names"), "{status:?}");

    let mut client = Client::open(control.grpc).await;
    client.subscribe(SECRET).await;
    client.response().await.expect("that there is none");
    client.send(request(&format!("{SECRET}2"))).await;
    let status = client.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("--max-types"), "{status:?}");

    let mut silent = Client::open(control.grpc).await;
    let status = silent.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("--first-request-timeout"), "{status:?}");
    eventually(Duration::from_secs(5), "all streams to be forgotten", async || {
        let page = control.debug("connections").await?;
        if page["totalClients"] == 0 { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
}

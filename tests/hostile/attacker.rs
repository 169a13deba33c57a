//! Peers that no gRPC library would be: bytes of one's own choice on HTTP/2 streams that are never
//! answered, never read, never ended.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::victim::{Victim, in_time};

pub(crate) const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

pub(crate) const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A connection; everything on it ends when it is dropped.
pub(crate) struct Connection {
    client: SendRequest<Bytes>,
    grpc: SocketAddr,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// A stream of it.
pub(crate) struct Stream {
    send: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// It takes whatever it is sent, and reads nothing of it.
    pub(crate) async fn open(victim: &Victim, from: Ipv4Addr) -> Self {
        Self::with_window(victim, from, 256 << 20).await
    }

    /// It takes so many bytes on a stream and no more.
    pub(crate) async fn with_window(victim: &Victim, from: Ipv4Addr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let socket = socket.connect(victim.grpc).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(bytes).initial_connection_window_size(1 << 30);
        let (client, connection) = builder.handshake(socket).await.unwrap();
        let task = tokio::spawn(connection);
        Self { client, grpc: victim.grpc, task }
    }

    pub(crate) async fn stream(&mut self) -> Stream {
        self.try_stream().await.expect("the connection lives")
    }

    /// A stream, unless the connection has ended.
    pub(crate) async fn try_stream(&mut self) -> Option<Stream> {
        let request = Request::post(format!("http://{}{DELTA}", self.grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let client = in_time("room for a stream", self.client.clone().ready()).await;
        self.client = client.ok()?;
        let (head, send) = self.client.send_request(request, false).ok()?;
        Some(Stream { send, head: Some(head), body: None })
    }

    /// Waits until the other side has ended it.
    pub(crate) async fn is_ended(&mut self) {
        in_time("the end of the connection", async {
            while !self.task.is_finished() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

impl Stream {
    /// Sends bytes as fast as flow control lets it; whether the stream still takes them.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            let room = std::future::poll_fn(|context| self.send.poll_capacity(context));
            let Some(Ok(room)) = in_time("room to send", room).await else { return false };
            let part = bytes.split_to(room.min(bytes.len()));
            if self.send.send_data(part, false).is_err() {
                return false;
            }
        }
        true
    }

    pub(crate) async fn send_request(&mut self, request: &DeltaDiscoveryRequest) -> bool {
        self.send(message(&request.encode_to_vec())).await
    }

    /// Waits for the first bytes of a response, and takes no more.
    pub(crate) async fn stalls(&mut self) {
        let first = async {
            let head = self.head.take().expect("asked once").await.expect("headers");
            let body = self.body.insert(head.into_body());
            body.data().await.expect("data").expect("the stream lives");
        };
        in_time("the first bytes of a response", first).await;
    }

    /// The first response on it.
    pub(crate) async fn response(&mut self) -> DeltaDiscoveryResponse {
        let response = async {
            let head = self.head.take().expect("asked once").await.expect("headers");
            let body = self.body.insert(head.into_body());
            let mut bytes = Vec::new();
            loop {
                let data = body.data().await.expect("data").expect("the stream lives");
                body.flow_control().release_capacity(data.len()).unwrap();
                bytes.extend_from_slice(&data);
                if let Some([_, len @ ..]) = bytes.first_chunk::<5>()
                    && bytes.len() >= 5 + u32::from_be_bytes(*len) as usize
                {
                    return DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
                }
            }
        };
        in_time("a response", response).await
    }

    /// How it was refused: gRPC's code and text, as sent.
    pub(crate) async fn refusal(&mut self) -> (String, String) {
        let ended = async {
            let head = self.head.take().expect("asked once").await.expect("headers");
            let mut trailers = head.headers().clone();
            let mut body = head.into_body();
            if !trailers.contains_key("grpc-status") {
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                trailers = body.trailers().await.expect("an end").expect("trailers");
            }
            self.body = Some(body);
            let text = |name: &str| {
                let value = trailers.get(name).map(|value| value.to_str().unwrap().to_owned());
                value.unwrap_or_default()
            };
            (text("grpc-status"), text("grpc-message"))
        };
        in_time("a refusal", ended).await
    }
}

/// A gRPC message.
pub(crate) fn message(body: &[u8]) -> Bytes {
    [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat().into()
}

pub(crate) fn node() -> Node {
    Node { id: "hostile".to_owned(), ..Default::default() }
}

/// The first request of a stream.
pub(crate) fn first(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: type_url.to_owned(),
        ..Default::default()
    }
}

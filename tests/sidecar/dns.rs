//! The control plane is found by its name, and found again soon after the name server was repaired.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::{DEADLINE, eventually, places};

/// Hears every question; answers all of them with one address once it is told which.
struct NameServer {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    answer: Option<IpAddr>,
    /// Where each question came from.
    from: Vec<u16>,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind((places::address(), 0)).await.unwrap();
        let (address, seen) = (socket.local_addr().unwrap(), Arc::<Mutex<Seen>>::default());
        let state = seen.clone();
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut question).await {
                let answer = {
                    let mut seen = state.lock().unwrap();
                    seen.from.push(peer.port());
                    seen.answer
                };
                if let Some(IpAddr::V4(address)) = answer {
                    let message = answered(&question[..length], address.octets());
                    socket.send_to(&message, peer).await.unwrap();
                }
            }
        });
        Self { address, seen, task }
    }

    async fn was_asked(&self, times: usize) {
        eventually(DEADLINE, &format!("{times} questions"), async || {
            let asked = self.seen.lock().unwrap().from.len();
            if asked >= times { Ok(()) } else { Err(format!("{asked}")) }
        })
        .await;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The question with one A record (RFC 1035, section 4.1), without what came after it.
fn answered(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).expect("the name ends");
    let mut message = question[..12 + name + 5].to_vec();
    // A response, recursion available; one question, one answer.
    message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // The name above, type A, class IN, for 1 s, four bytes.
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
    message.extend(address);
    message
}

#[tokio::test]
async fn a_name_server_that_was_silent_is_heard_soon_after() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let server = NameServer::start().await;
    let folder = TempDir::new().unwrap();
    let template = folder.path().join("resolver.yaml");
    // What resolv.conf says on other machines.
    let resolver = format!(
        "static_resources: {{ clusters: [{{ name: xds-grpc, cluster_type: {{ typed_config: {{ \
         typed_dns_resolver_config: {{ typed_config: {{ \
         dns_resolver_options: {{ no_default_search_domain: true }}, \
         resolvers: [{{ socket_address: {{ address: {}, port_value: {} }} }}] }} }} }} }} }}] }}",
        server.address.ip(),
        server.address.port()
    );
    std::fs::write(&template, resolver).unwrap();
    let flags = [
        format!("--discovery-address=istio-pilot.istio-system:{}", control.grpc.port()),
        format!("--template={}", template.display()),
    ];
    let agent = Agent::start(control.grpc, &flags.each_ref().map(String::as_str));
    agent.answers(503, "config not received from Pilot (is Pilot running?)").await;
    server.was_asked(4).await;

    server.seen.lock().unwrap().answer = Some(control.grpc.ip());
    agent.becomes_ready().await;
    // Each from a port of its own: conntrack would lead a known one to where the server was.
    let from = server.seen.lock().unwrap().from.clone();
    assert_eq!(from.iter().collect::<BTreeSet<_>>().len(), from.len(), "{from:?}");
}

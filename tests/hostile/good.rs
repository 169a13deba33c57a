//! Those who are served beside the hostile ones: a gRPC client that asks on a fresh stream, another that
//! follows changes, probes, and a real Envoy under load.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::response::Json;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::victim::{Probes, Victim};
use pilothouse_testkit::envoy::Wire;
use pilothouse_testkit::loaded_envoy::LoadedEnvoy;
use pilothouse_testkit::xds_client::{self, CDS, EDS, ack, delta};

/// Nobody waits longer for a first response, whoever else is there; a debug build on a busy machine
/// has as long again to work.
const FIRST_RESPONSE: Duration = Duration::from_secs(10);

/// Where the good ones are, and where the hostile ones: another address, unless a test says so.
pub(crate) const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const FOLLOWED: &str = "outbound|80||followed.default.svc.cluster.local";

/// A stream that follows the endpoints of `followed`.
struct Follower {
    stream: Stream,
    changes: u8,
}

type Stream = xds_client::Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

async fn open(victim: &Victim, from: Ipv4Addr) -> Stream {
    xds_client::open_delta(xds_client::connect_from(from.into(), victim.grpc).await).await
}

/// Asks for all clusters on a fresh connection, and gets them in time.
pub(crate) async fn is_served(victim: &Victim, from: Ipv4Addr) {
    let served = async {
        let mut stream = open(victim, from).await;
        stream.send.send(delta(CDS, &[])).await.unwrap();
        let response = stream.responses.message().await.expect("served").expect("a response");
        assert!(response.resources.iter().any(|one| one.name == FOLLOWED), "not all clusters");
        stream.send.send(ack(&response)).await.unwrap();
    };
    tokio::time::timeout(FIRST_RESPONSE, served)
        .await
        .unwrap_or_else(|_| panic!("no first response within {FIRST_RESPONSE:?}"));
}

impl Follower {
    async fn start(victim: &Victim) -> Self {
        let stream = open(victim, GOOD).await;
        stream.say(delta(EDS, &[FOLLOWED])).await;
        let mut follower = Self { stream, changes: 0 };
        follower.next().await;
        follower
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = tokio::time::timeout(FIRST_RESPONSE, self.stream.responses.message());
        let next = next.await.expect("no push in time");
        let response = next.expect("the stream goes on").expect("a response");
        self.stream.send.send(ack(&response)).await.unwrap();
        response
    }

    /// A change of the mesh reaches it in time.
    async fn follows_a_change(&mut self, victim: &Victim) {
        self.changes += 1;
        let address = format!("10.200.0.{}", 100 + self.changes);
        victim.write("followed", &address, 80);
        loop {
            let response = self.next().await;
            let text: Vec<u8> = response
                .resources
                .iter()
                .flat_map(|one| one.resource.clone())
                .flat_map(|any| any.value)
                .collect();
            if String::from_utf8_lossy(&text).contains(&address) {
                return;
            }
        }
    }
}

/// All of them.
pub(crate) struct Bystanders {
    follower: Follower,
    probes: Probes,
    envoy: LoadedEnvoy,
    _backend: JoinSet<()>,
}

impl Bystanders {
    pub(crate) async fn start(victim: &Victim) -> Self {
        let backend = backend(victim).await;
        let envoy = envoy(victim).await;
        let (follower, probes) = (Follower::start(victim).await, victim.probes());
        Self { follower, probes, envoy, _backend: backend }
    }

    /// Whoever comes, whoever is there, and traffic: all in time.
    pub(crate) async fn are_served(&mut self, victim: &Victim) {
        is_served(victim, GOOD).await;
        self.follower.follows_a_change(victim).await;
        self.envoy.carries(20).await;
    }

    /// They still are, and nothing failed in between.
    pub(crate) async fn were_always_served(mut self, victim: &Victim) {
        self.are_served(victim).await;
        self.envoy.met_no_failure();
        self.probes.never_failed();
    }
}

/// A server behind `web`, which says its address as a pod says its name.
async fn backend(victim: &Victim) -> JoinSet<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let answer = json!({ "pod": address.to_string() });
    let app = Router::new().fallback(async || Json(answer));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
    victim.write("web", &address.ip().to_string(), address.port());
    serving
}

/// One that starts now, gets everything before it gives up on it, and carries traffic.
pub(crate) async fn envoy(victim: &Victim) -> LoadedEnvoy {
    let url = "web.default.svc.cluster.local/";
    let envoy = LoadedEnvoy::start(victim.grpc, Wire::Delta, "good", url).await;
    for (subsystem, types) in [("cluster_manager", "cds"), ("listener_manager", "lds")] {
        let timeouts = format!("{subsystem}.{types}.init_fetch_timeout");
        assert_eq!(envoy.counter(&timeouts).await, 0, "{timeouts}");
    }
    envoy
}

//! Streams that ask and never answer, and those who start beside them.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::response::Json;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::attacker::{CDS, Connection, HOSTILE, Stream, first};
use crate::common::load::{LoadedEnvoy, Wire};
use crate::good::{Follower, GOOD, is_served};
use crate::victim::{SERVICES, Victim};

const CONNECTIONS: usize = 25;
const STREAMS: usize = 100;

/// They ask for clusters and never ACK.
async fn crowd(victim: &Victim, from: Ipv4Addr) -> Vec<(Connection, Vec<Stream>)> {
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(victim, from).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = connection.stream().await;
            stream.ask(&first(CDS)).await;
            streams.push(stream);
        }
        crowd.push((connection, streams));
    }
    crowd
}

/// A backend for `web`, which says its address as a pod says its name.
async fn backend() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = json!({ "pod": address.to_string() });
    let app = Router::new().fallback(async || Json(answer));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, serving)
}

/// D2: a good Envoy's first CDS came after 50 s, and it went LIVE without listeners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_starts_beside_2500_streams_that_never_answer_is_served() {
    let victim = Victim::start(SERVICES, &[]).await;
    let (address, _serving) = backend().await;
    let mut follower = Follower::start(&victim).await;
    victim.write_web(&address.ip().to_string(), address.port());
    let before = victim.resident();
    let probes = victim.probes();
    let crowd = crowd(&victim, HOSTILE).await;
    assert!(victim.metric("pilothouse_waiting_streams").await > 100.0, "nobody waits");
    is_served(&victim, GOOD).await;
    // From the same address too, as behind a NAT or on one node.
    is_served(&victim, HOSTILE).await;
    let envoy =
        LoadedEnvoy::start(victim.grpc, Wire::Delta, "good", "web.default.svc.cluster.local/")
            .await;
    assert_eq!(envoy.counter("listener_manager.lds.init_fetch_timeout").await, 0);
    assert_eq!(envoy.counter("cluster_manager.cds.init_fetch_timeout").await, 0);
    envoy.carries(50).await;
    envoy.met_no_failure();
    follower.follows_a_change(&victim).await;
    is_served(&victim, GOOD).await;
    drop(crowd);
    victim.is_idle().await;
    probes.never_failed();
    victim.gives_back(before, 60 << 20).await;
}

//! Streams that ask and never answer, and those who start beside them.

use std::net::Ipv4Addr;

use crate::attacker::{CDS, Connection, HOSTILE, Stream, first};
use crate::good::{Bystanders, envoy, is_served};
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
            stream.send_request(&first(CDS)).await;
            streams.push(stream);
        }
        crowd.push((connection, streams));
    }
    crowd
}

/// D2: a good Envoy's first CDS came after 50 s, and it went LIVE without listeners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_starts_beside_2500_streams_that_never_answer_is_served() {
    let victim = Victim::start(SERVICES, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let crowd = crowd(&victim, HOSTILE).await;
    assert!(victim.metric("pilothouse_waiting_streams").await > 100.0, "nobody waits");
    good.are_served(&victim).await;
    // From the same address too, as behind a NAT or on one node.
    is_served(&victim, HOSTILE).await;
    let starting = envoy(&victim).await;
    starting.carries(50).await;
    starting.met_no_failure();
    good.are_served(&victim).await;
    drop((crowd, starting));
    victim.is_idle().await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, 60 << 20).await;
}

//! What a peer makes the server hold.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use prost::Message;

use crate::attacker::{CDS, Connection, EDS, HOSTILE, Stream, first, message, node};
use crate::good::Bystanders;
use crate::victim::Victim;
use pilothouse_testkit::until;

/// What the allocator keeps of a peak, and what a debug build needs besides.
const KEPT: usize = 64 << 20;

/// D4: they were decoded at 27 times their size and kept while a view was waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_requests_with_metadata_of_megabytes_are_refused_for_their_size() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let values = vec![Value { kind: None }; 2_000_000];
    let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
    let metadata = Struct { fields: [("LABELS".to_owned(), list)].into() };
    let node = Node { metadata: Some(metadata), ..node() };
    let request =
        message(&DeltaDiscoveryRequest { node: Some(node), ..first(CDS) }.encode_to_vec());
    assert!(request.len() > 3_900_000, "{}", request.len());
    let mut connection = Connection::open(&victim, HOSTILE).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(connection.stream().await);
    }
    // Several at a time; not so many that the connection is ended for them all.
    let sent = streams.chunks_mut(5).map(async |some| {
        for stream in some {
            stream.send(request.clone()).await;
            let (code, text) = stream.refusal().await;
            assert_eq!(code, "3", "{text}");
            assert!(text.contains("262144"), "{text}");
        }
    });
    futures::future::join_all(sent).await;
    good.are_served(&victim).await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, KEPT).await;
}

/// D4: the same of the versions that a client brings along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_versions_that_say_nothing_are_refused_for_their_number() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let mut connection = Connection::open(&victim, HOSTILE).await;
    for _ in 0..8 {
        let mut stream = connection.stream().await;
        let mut body = first(CDS).encode_to_vec();
        body.extend(b"\x2a\0".repeat(1_900_000));
        stream.send(message(&body)).await;
        let (code, text) = stream.refusal().await;
        assert_eq!(code, "8", "{text}");
        assert!(text.contains("--max-names"), "{text}");
    }
    good.are_served(&victim).await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, KEPT).await;
}

/// D6: 1 MiB of them took ten times as much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_messages_on_fifty_connections_cost_what_was_sent() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    // 1 MB, which the window of a stream has room for.
    let tiny = Bytes::from(b"\0\0\0\0\x02\x72\0".repeat(149_000));
    let mut connections = Vec::new();
    for _ in 0..50 {
        // It does not take its first response, so nothing that it says after that is read.
        let mut connection = Connection::with_window(&victim, HOSTILE, 10).await;
        let mut stream = connection.stream().await;
        stream.send_request(&first(CDS)).await;
        stream.stalls().await;
        stream.send(tiny.clone()).await;
        connections.push((connection, stream));
    }
    // 50 MB, all of it unread.
    victim.is_idle().await;
    let now = victim.resident();
    assert!(now > before + (45 << 20), "{} MiB, {} before: it was read", now >> 20, before >> 20);
    assert!(now < before + (160 << 20), "{} MiB, {} before", now >> 20, before >> 20);
    until("what is unread to be charged", async || {
        let held = victim.metric("pilothouse_peer_memory_bytes").await;
        if held > f64::from(50 << 20) { Ok(()) } else { Err(format!("{held} bytes")) }
    })
    .await;
    good.are_served(&victim).await;
    drop(connections);
    good.are_served(&victim).await;
    victim.is_idle().await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, KEPT).await;
}

/// The beginning of a message of 4 MiB, all but its last byte.
async fn begin_message(stream: &mut Stream) {
    let mut bytes = vec![0, 0, 0x40, 0, 0];
    bytes.resize(4 << 20, 0x72);
    stream.send(bytes.into()).await;
}

/// D7: 400 MiB, held for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_messages_that_never_end_end_their_connection() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let mut connection = Connection::open(&victim, HOSTILE).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = connection.stream().await;
        stream.send_request(&first(EDS)).await;
        streams.push(stream);
    }
    futures::future::join_all(streams.iter_mut().map(begin_message)).await;
    connection.is_ended().await;
    let log = victim.log();
    assert!(log.contains("--max-connection-memory"), "{log}");
    assert_eq!(victim.metric("pilothouse_connections_evicted_total").await, 1.0);
    good.are_served(&victim).await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, KEPT).await;
}

/// D7, the whole kind: each connection stays below its own limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_that_hold_what_one_may_are_ended_the_worst_first() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let mut attackers = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::open(&victim, HOSTILE).await;
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = connection.stream().await;
            stream.send_request(&first(EDS)).await;
            streams.push(stream);
        }
        futures::future::join_all(streams.iter_mut().map(begin_message)).await;
        attackers.push((connection, streams));
    }
    // 20 times 20 MiB, of which 128 may be held.
    assert!(victim.metric("pilothouse_connections_evicted_total").await >= 10.0);
    assert!(victim.metric("pilothouse_peer_memory_bytes").await <= f64::from(128 << 20));
    let log = victim.log();
    assert!(log.contains("--max-peer-memory"), "{log}");
    good.are_served(&victim).await;
    drop(attackers);
    good.were_always_served(&victim).await;
    victim.gives_back(before, KEPT).await;
}

/// The same by subscriptions: names that nobody has, of types that are served and others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_to_names_that_nobody_has_are_charged_to_who_made_them_up() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let (before, mut evicted) = (victim.resident(), 0.0);
    for round in 0..12 {
        let mut connection = Connection::open(&victim, HOSTILE).await;
        let mut streams = Vec::new();
        for stream in 0..4 {
            let Some(mut stream_of) = connection.try_stream().await else { break };
            let mut node = Some(node());
            for of in 0..4 {
                let type_url = match of {
                    0 => EDS.to_owned(),
                    of => format!("type.googleapis.com/none.such.v{of}"),
                };
                let names = (0..60_000)
                    .map(|name| format!("{round}-{stream}-{of}-name-of-forty-bytes-{name}"));
                let request = DeltaDiscoveryRequest {
                    node: node.take(),
                    type_url,
                    resource_names_subscribe: names.collect(),
                    ..Default::default()
                };
                if !stream_of.send_request(&request).await {
                    break;
                }
            }
            streams.push(stream_of);
        }
        connection.is_ended().await;
        let now = victim.metric("pilothouse_connections_evicted_total").await;
        assert!(now > evicted, "round {round}: {}", victim.log());
        evicted = now;
    }
    good.are_served(&victim).await;
    good.were_always_served(&victim).await;
    // Twelve times 32 MiB do not add up. What the allocator keeps of millions of small pieces is up to
    // that much for each of its arenas: 70 MiB in all, the same after 40 rounds as after 20.
    victim.gives_back(before, 3 * (32 << 20)).await;
}

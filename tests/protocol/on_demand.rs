//! Sidecars on demand (rule 21): their wildcard of clusters covers what is not outbound, and the rest goes to who
//! names it.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tonic::Code;

use crate::harness::{CDS, EDS, Server, Stream, ack, cluster, delta, eventually, sotw};

type Delta = Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

fn node(uses: &str) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields =
        [("DISCOVERY".to_owned(), text("on-demand")), ("USES".to_owned(), text(uses))].into();
    Node {
        id: "sidecar~10.9.0.1~caller.default~default.svc.cluster.local".to_owned(),
        metadata: Some(Struct { fields }),
        ..Default::default()
    }
}

fn first(uses: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: Some(node(uses)), ..delta(CDS, &[]) }
}

/// The outbound clusters of a response.
fn outbound(response: &DeltaDiscoveryResponse) -> BTreeSet<&str> {
    let names = response.resources.iter().map(|one| &*one.name);
    names.filter(|name| name.starts_with("outbound|")).collect()
}

async fn receive(stream: &mut Delta) -> DeltaDiscoveryResponse {
    let response = stream.response().await;
    stream.say(ack(&response)).await;
    response
}

#[tokio::test]
async fn rule_21_on_demand_needs_delta() {
    let server = Server::start().await;
    let mut stream = server.sotw().await;
    let mut request = sotw(CDS, &[]);
    request.node = Some(node(""));
    stream.say(request).await;
    let (code, text) = stream.refusal().await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("DELTA_GRPC") && text.contains("DISCOVERY"), "{text}");
}

#[tokio::test]
async fn rule_21_a_sidecar_on_demand_has_what_it_uses_and_no_more() {
    let server = Server::start().await;
    server.write("other", &["10.0.0.2"]);
    let mut everything = server.delta().await;
    everything.say(delta(CDS, &[])).await;
    let mut known = BTreeSet::new();
    while !known.contains(&cluster("other")) {
        let response = receive(&mut everything).await;
        known.extend(response.resources.into_iter().map(|one| one.name));
    }

    let mut stream = server.delta().await;
    stream.say(first("web, nowhere")).await;
    let start = receive(&mut stream).await;
    let used = outbound(&start);
    assert_eq!(used.len(), 1, "{used:?}");
    assert!(start.resources.len() > used.len(), "what is not outbound comes by the wildcard");
    let used = used.first().unwrap().to_string();
    stream.say(delta(EDS, &[&used])).await;
    assert_eq!(receive(&mut stream).await.resources[0].name, used);

    // It sleeps through what it does not use, and knows it as soon as it asks.
    for round in 0..20 {
        let name = format!("new-{round}");
        server.write(&name, &["10.0.1.1"]);
        while !known.contains(&cluster(&name)) {
            let response = receive(&mut everything).await;
            known.extend(response.resources.into_iter().map(|one| one.name));
        }
        if round % 5 == 4 {
            stream.say(delta(CDS, &[&cluster(&name)])).await;
            let response = receive(&mut stream).await;
            assert_eq!(outbound(&response), BTreeSet::from([&*cluster(&name)]));
            assert!(response.removed_resources.is_empty(), "{:?}", response.removed_resources);
        }
    }
    // And what it uses comes by itself.
    server.write("web", &["10.0.0.7"]);
    let response = receive(&mut stream).await;
    assert_eq!(response.resources.iter().map(|one| &*one.name).collect::<Vec<_>>(), [&*used]);
}

#[tokio::test]
async fn rule_21_a_scanner_gets_a_hundred_fallbacks_and_harms_nobody() {
    let server = Server::start().await;
    let mut stream = server.delta().await;
    stream.say(first("")).await;
    assert!(outbound(&receive(&mut stream).await).is_empty());
    let names: Vec<String> =
        (0..1000).map(|at| format!("outbound|80||10.77.{}.{}", at / 250, at % 250)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    stream.say(delta(CDS, &names)).await;
    let response = receive(&mut stream).await;
    let counts = (outbound(&response).len(), response.removed_resources.len());
    assert_eq!(counts, (100, 900));
    // Another name that nobody has, and one that there is.
    stream.say(delta(CDS, &["outbound|80||none.default.svc.cluster.local", &cluster("web")])).await;
    let response = receive(&mut stream).await;
    assert_eq!(outbound(&response), BTreeSet::from([&*cluster("web")]));
    assert_eq!(response.removed_resources.len(), 1);
}

#[tokio::test]
async fn rule_21_a_peer_that_names_too_many_clusters_is_refused() {
    let server = Server::start().await;
    let mut stream = server.delta().await;
    stream.say(first("")).await;
    receive(&mut stream).await;
    let names: Vec<String> = (0..100_001).map(|at| format!("outbound|80||x{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    stream.say(delta(CDS, &names[..100_000])).await;
    let response = receive(&mut stream).await;
    assert_eq!(response.removed_resources.len(), 100_000);
    stream.say(delta(CDS, &names[100_000..])).await;
    let (code, text) = stream.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("--max-names"), "{text}");
}

/// Names of proxies, with the generation that each has acknowledged.
async fn acknowledged(server: &Server) -> BTreeMap<String, u64> {
    let url = format!("http://{}/debug/proxies", server.running.http);
    let rows = pilothouse_testkit::json(&url).await.unwrap();
    let rows = rows["proxies"].as_array().unwrap().iter();
    let rows = rows.map(|row| {
        let name = row["name"].as_str().unwrap().to_owned();
        (name, row["generation_acknowledged"].as_u64().unwrap_or_default())
    });
    rows.filter(|(name, _)| name.starts_with("caller-")).collect()
}

/// Streams sleep in groups, and each has to leave its group with what it has itself.
#[tokio::test]
async fn rule_21_streams_that_sleep_are_brought_to_snapshots_and_the_woken_by_their_own_acks() {
    let server = Server::start().await;
    server.write("other", &["10.0.0.2"]);
    let mut everything = server.delta().await;
    everything.say(delta(CDS, &[])).await;
    while !receive(&mut everything).await.resources.iter().any(|one| one.name == cluster("other")) {
    }
    drop(everything);
    let mut streams = Vec::new();
    for at in 0..9 {
        let mut stream = server.delta().await;
        // Every third one uses what will change.
        let mut node = node(if at % 3 == 0 { "web" } else { "other" });
        node.id = format!("sidecar~10.9.1.{at}~caller-{at}.default~default.svc.cluster.local");
        stream.say(DeltaDiscoveryRequest { node: Some(node), ..delta(CDS, &[]) }).await;
        let start = receive(&mut stream).await;
        let used = outbound(&start).into_iter().collect::<Vec<_>>();
        assert_eq!(used.len(), 1, "{used:?}");
        stream.say(delta(EDS, &used)).await;
        receive(&mut stream).await;
        streams.push(stream);
    }
    let is_user = |name: &str| ["-0.", "-3.", "-6."].iter().any(|at| name.contains(at));
    let before = in_step(&server, "in sync at the start", 0, |_| true).await;

    server.write("web", &["10.0.0.7"]);
    let mut unacknowledged = Vec::new();
    for at in [0, 3, 6] {
        unacknowledged.push((at, streams[at].response().await));
    }
    let now = in_step(&server, "those that sleep", before, |name| !is_user(name)).await;
    let those = acknowledged(&server).await;
    let behind = those.iter().filter(|(_, at)| **at < now).map(|(name, _)| &**name);
    assert!(behind.clone().all(is_user) && behind.count() == 3, "{those:?}");
    for (at, response) in &unacknowledged {
        streams[*at].say(ack(response)).await;
    }
    in_step(&server, "those that were woken", before, |_| true).await;

    // One asks for more, some end, and the others are where they were.
    streams[1].say(delta(CDS, &[&cluster("web")])).await;
    assert_eq!(outbound(&receive(&mut streams[1]).await), BTreeSet::from([&*cluster("web")]));
    streams.truncate(4);
    server.write("web", &["10.0.0.8"]);
    for at in [0, 3] {
        assert_eq!(receive(&mut streams[at]).await.type_url, EDS.type_url());
    }
    let after = in_step(&server, "those that are left", now, |_| true).await;
    assert!(after > now);
}

/// Waits until all proxies of these names have acknowledged one generation, a newer one than `before`.
async fn in_step(server: &Server, what: &str, before: u64, which: impl Fn(&str) -> bool) -> u64 {
    let mut at = 0;
    eventually(what, async || {
        let rows = acknowledged(server).await;
        let those: BTreeSet<u64> =
            rows.iter().filter(|(name, _)| which(name)).map(|(_, at)| *at).collect();
        at = those.first().copied().unwrap_or_default();
        match those.len() == 1 && at > before {
            true => Ok(()),
            false => Err(format!("{rows:?}, before {before}")),
        }
    })
    .await;
    at
}

//! Two replicas that came to the same state in different ways.

use std::collections::HashMap;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use pilothouse::names::ResourceType;

use crate::harness::{CDS, EDS, LDS, RDS, Server, Stream, ack, cluster, delta, sotw};

const SERVICES: [&str; 3] = ["web", "shop", "cart"];

/// Everything at once, and bit by bit in another order with detours.
async fn replicas() -> [Server; 2] {
    let one = Server::start().await;
    for name in SERVICES {
        one.write(name, &["10.0.0.1", "10.0.0.2"]);
    }
    let other = Server::start().await;
    let names = [cluster("cart"), cluster("web"), cluster("shop")];
    let mut stream = other.delta().await;
    stream.say(delta(EDS, &[&names[0], &names[1], &names[2]])).await;
    let mut has = HashMap::new();
    for (name, address) in [("cart", "10.0.0.7"), ("shop", "10.0.0.8"), ("web", "10.0.0.9")] {
        other.write(name, &[address]);
        take_until(&mut stream, &mut has, &cluster(name), true).await;
    }
    for name in ["cart", "web", "shop"] {
        other.write(name, &["10.0.0.2", "10.0.0.1"]);
        take_until(&mut stream, &mut has, &cluster(name), true).await;
    }
    // The first one has them all as well by now.
    let mut stream = one.delta().await;
    stream.say(delta(EDS, &[&names[0], &names[1], &names[2]])).await;
    let wanted = has;
    let mut has = HashMap::new();
    while has != wanted {
        receive_and_ack(&mut stream, &mut has).await;
    }
    [one, other]
}

type Delta = Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

/// Takes a response in and accepts it.
async fn receive_and_ack(
    stream: &mut Delta,
    has: &mut HashMap<String, String>,
) -> DeltaDiscoveryResponse {
    let response = stream.response().await;
    stream.say(ack(&response)).await;
    for name in &response.removed_resources {
        has.remove(name);
    }
    for one in &response.resources {
        has.insert(one.name.clone(), one.version.clone());
    }
    response
}

async fn take_until(
    stream: &mut Delta,
    has: &mut HashMap<String, String>,
    name: &str,
    changed: bool,
) {
    let before = has.get(name).cloned();
    while changed && has.get(name) == before.as_ref() {
        receive_and_ack(stream, has).await;
    }
}

fn names_of(of: ResourceType) -> Vec<String> {
    match of {
        ResourceType::Endpoint => SERVICES.iter().map(|name| cluster(name)).collect(),
        ResourceType::Route => vec!["http".to_owned()],
        ResourceType::Cluster | ResourceType::Listener => Vec::new(),
    }
}

#[tokio::test]
async fn rule_13_a_delta_client_that_moves_is_sent_nothing_but_what_differs() {
    let [one, other] = replicas().await;
    let mut has: HashMap<ResourceType, HashMap<String, String>> = HashMap::new();
    let mut stream = one.delta().await;
    for of in [CDS, EDS, LDS, RDS] {
        let names = names_of(of);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        stream.say(delta(of, &names)).await;
        receive_and_ack(&mut stream, has.entry(of).or_default()).await;
    }
    assert_eq!(has[&EDS].len(), SERVICES.len());

    let mut moved = other.delta().await;
    for of in [CDS, EDS, LDS, RDS] {
        let names = names_of(of);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let initial_resource_versions = has[&of].clone();
        moved.say(DeltaDiscoveryRequest { initial_resource_versions, ..delta(of, &names) }).await;
    }
    // Whatever those requests are answered with comes before this.
    moved.say(delta(RDS, &["none.such"])).await;
    let first = moved.response().await;
    assert_eq!(first.removed_resources, ["none.such"], "{first:?}");
    assert!(first.resources.is_empty(), "{first:?}");
    moved.say(ack(&first)).await;

    // With one difference, just that.
    drop(moved);
    let mut moved = other.delta().await;
    let initial_resource_versions = has[&CDS].clone();
    moved.say(DeltaDiscoveryRequest { initial_resource_versions, ..delta(CDS, &[]) }).await;
    let mut initial = has[&EDS].clone();
    initial.insert(cluster("shop"), "something else".to_owned());
    let names = names_of(EDS);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let request = delta(EDS, &names);
    moved.say(DeltaDiscoveryRequest { initial_resource_versions: initial, ..request }).await;
    let response = moved.response().await;
    assert_eq!(response.resources.len(), 1, "{response:?}");
    assert_eq!(response.resources[0].name, cluster("shop"));
}

#[tokio::test]
async fn rule_22_a_sotw_client_that_moves_with_its_version_is_not_answered() {
    let [one, other] = replicas().await;
    let mut versions = HashMap::new();
    let mut stream = one.sotw().await;
    for of in [CDS, LDS] {
        stream.say(sotw(of, &[])).await;
        versions.insert(of, stream.response().await.version_info);
    }
    let mut moved = other.sotw().await;
    for of in [CDS, LDS] {
        let version_info = versions[&of].clone();
        moved.say(DiscoveryRequest { version_info, ..sotw(of, &[]) }).await;
    }
    // By name there is always an answer, and it is the first.
    moved.say(sotw(RDS, &["http"])).await;
    assert_eq!(moved.response().await.type_url, RDS.type_url());
}

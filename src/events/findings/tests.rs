use std::net::SocketAddr;

use super::*;
use crate::model::{
    Change, Endpoint, EndpointSlice, EndpointState, Flaw, Service, ServiceKind, Subset,
};
use crate::proxies::{ProxyIdentity, Registration};
use crate::snapshot::{Conflict, ConflictKind};
use crate::view::{ProxyKind, ViewKey};

/// A mesh with the pod `shop/web-1` at 10.0.0.1.
fn mesh() -> Model {
    let mut endpoint = Endpoint::new([10, 0, 0, 1].into(), EndpointState::Ready);
    endpoint.pod_name = Some("web-1".into());
    let subset = Subset { ports: Vec::new(), endpoints: vec![endpoint] };
    let mut model = Model::default();
    let slice = EndpointSlice {
        name: "web-x".into(),
        service: ServiceKey::new("shop", "web"),
        subsets: vec![subset],
    };
    model.apply(Change::Slice(slice), &mut Default::default());
    model
}

fn connect(proxies: &Arc<Proxies>, node: &str, peer: &str) -> Registration {
    let peer: SocketAddr = peer.parse().unwrap();
    let stream = proxies.register(Some(peer), true, 0).unwrap();
    stream.stream.update(|status| {
        status.identity = Some(ProxyIdentity {
            node_id: node.into(),
            name: node.into(),
            cluster: "".into(),
            view: ViewKey::new(ProxyKind::Sidecar, None),
            user_agent: "".into(),
            locality: "".into(),
            probe: false,
            labels: Default::default(),
            principal: None,
            uses: None,
        });
    });
    stream
}

fn reject(stream: &Registration, words: &str) {
    stream.stream.update(|status| {
        let of = &mut status.types[ResourceType::Listener.index()];
        of.nacks += 1;
        of.last_error = Some(words.into());
    });
}

const NODE: &str = "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local";

#[test]
fn each_nack_is_found_once() {
    let proxies = Arc::new(Proxies::new(ResourceType::TABLE));
    let mut rejections = Rejections::default();
    let stream = connect(&proxies, NODE, "10.0.0.1:4000");
    assert!(rejections.new_ones(&proxies).is_empty());
    reject(&stream, "one\nline");
    let (findings, strangers) = verified(&mesh(), rejections.new_ones(&proxies));
    assert_eq!(strangers, 0);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    let wanted = Object { kind: Kind::Pod, namespace: "shop".into(), name: "web-1".into() };
    assert_eq!(finding.object, wanted);
    assert_eq!(finding.note, "Envoy rejected LDS and goes on with what it had: one\\nline");
    assert!(rejections.new_ones(&proxies).is_empty(), "it was told");
    reject(&stream, "two");
    assert_eq!(rejections.new_ones(&proxies).len(), 1);
    drop(stream);
    assert!(rejections.new_ones(&proxies).is_empty());
    assert!(rejections.seen.is_empty(), "streams that are gone are forgotten");
}

#[test]
fn a_peer_is_the_pod_only_where_an_endpoint_says_so() {
    let proxies = Arc::new(Proxies::new(ResourceType::TABLE));
    let strangers = [
        // Another address, the address in the id, another namespace, another pod, no pod at all.
        (NODE, "10.0.0.2:4000"),
        ("sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local", "10.9.9.9:1"),
        ("sidecar~10.0.0.1~web-1.other~other.svc.cluster.local", "10.0.0.1:4001"),
        ("sidecar~10.0.0.1~web-2.shop~shop.svc.cluster.local", "10.0.0.1:4002"),
        ("router~10.0.0.1~coredns.kube-system~kube-system.svc.cluster.local", "10.0.0.1:4003"),
    ];
    let streams: Vec<_> =
        strangers.iter().map(|(node, peer)| connect(&proxies, node, peer)).collect();
    streams.iter().for_each(|stream| reject(stream, "x"));
    // A standalone Envoy claims to be no pod.
    let alone = connect(&proxies, "web-1.shop", "10.0.0.1:4004");
    reject(&alone, "x");
    let own = connect(&proxies, NODE, "[::ffff:10.0.0.1]:4005");
    reject(&own, "x");
    let (findings, unverified) = verified(&mesh(), Rejections::default().new_ones(&proxies));
    assert_eq!((findings.len(), unverified), (1, strangers.len()));
}

#[test]
fn ports_are_told_while_they_are_not_served_and_again_each_half_hour() {
    let mut model = Model::default();
    let mut service =
        Service::new(ServiceKey::new("shop", "web"), ServiceKind::Headless, Vec::new());
    service.flaws = vec![
        Flaw::new("spec.ports[port=15001]", "is a port of every sidecar"),
        Flaw::new("metadata.annotations[pilothouse.io/retries]", "is no port"),
    ];
    model.apply(Change::Service(service), &mut Default::default());
    let mut conflicts = Conflicts::default();
    let conflict = Conflict {
        kind: ConflictKind::TcpOverTcp,
        place: "0.0.0.0_3306".into(),
        loser: "shop/db".into(),
    };
    conflicts.insert(conflict, "shop/db gets no listener".into());

    let (mut unserved, now) = (Unserved::default(), Instant::now());
    let told_at = |unserved: &mut Unserved, now| {
        let mut told = Vec::new();
        while let Some(finding) = unserved.due(now) {
            unserved.told(&finding, now);
            told.push((finding.object.name.to_string(), finding.reason));
        }
        told
    };
    let both = [("db".to_owned(), "PortConflict"), ("web".to_owned(), "PortNotServed")];
    unserved.look(&model, "cluster.local", &conflicts);
    assert_eq!(told_at(&mut unserved, now), both);
    unserved.look(&model, "cluster.local", &conflicts);
    assert!(told_at(&mut unserved, now + TELL_AGAIN / 2).is_empty());
    unserved.look(&model, "cluster.local", &Conflicts::default());
    assert_eq!(told_at(&mut unserved, now + TELL_AGAIN), both[1..]);
    assert_eq!(unserved.all.len(), 1, "what is over is forgotten");
}

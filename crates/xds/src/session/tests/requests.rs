//! Nonces, types, names: what a request means in both variants.

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use prost::Message;

use super::harness::{Peer, SILENCE};
use crate::session::tests::types::{ResourceType, TABLE};
use crate::session::{RequestError, RequestKind, Session, SessionLimits};

const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
const SECRETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

#[test]
fn rule_01_a_nonce_is_unique_per_response() {
    for mut peer in [Peer::sotw("cds a=1 lds l=1"), Peer::delta("cds a=1 lds l=1")] {
        let mut nonces = std::collections::BTreeSet::new();
        peer.open("cds");
        nonces.insert(peer.last("cds").nonce.clone());
        peer.open("lds");
        nonces.insert(peer.last("lds").nonce.clone());
        peer.ack("cds");
        peer.publish("cds a=2");
        nonces.insert(peer.last("cds").nonce.clone());
        assert_eq!(nonces.len(), 3);
    }
}

#[test]
fn rule_01_state_is_per_type() {
    let mut peer = Peer::sotw("cds a=1 lds l=1");
    peer.subscribe_sotw("cds");
    peer.subscribe_sotw("lds");
    let cds = peer.last("cds").nonce.clone();
    // The nonce of another type's response is foreign, and its ACK is no ACK of this one.
    peer.send_sotw(ResourceType::Listener, &cds, None);
    assert_eq!(peer.kind, Some(RequestKind::Stale));
    assert!(peer.session.unacked_nonce(ResourceType::Cluster).is_some());
    assert!(peer.session.unacked_nonce(ResourceType::Listener).is_some());
}

#[test]
fn rule_01_a_foreign_nonce_on_the_first_request_of_a_type_is_initial() {
    let mut peer = Peer::sotw("cds a=1 eds a=1");
    assert_eq!(peer.subscribe_sotw("cds"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=1"]);
    peer.ack("eds");
    peer.publish("cds a=2 eds a=2");
    // The client still carries the nonces of the stream that broke.
    peer.reconnect();
    assert_eq!(peer.subscribe_sotw("cds"), ["cds a=2"]);
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=2"]);

    let mut peer = Peer::delta("eds a=1");
    let request = DeltaDiscoveryRequest {
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        response_nonce: "whatever".to_owned(),
        resource_names_subscribe: vec!["a".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_delta(request), ["eds a=1"]);
}

#[test]
fn rule_02_error_detail_alone_makes_a_nack() {
    for (code, message) in [(13, "Envoy's"), (3, "gRPC's"), (0, "")] {
        let error = rpc::Status { code, message: message.to_owned(), details: vec![] };
        let mut peer = Peer::sotw("cds a=1");
        peer.subscribe_sotw("cds");
        let got = peer.last("cds").clone();
        let mut answer = DiscoveryRequest {
            // Even with the version that it rejects.
            version_info: got.version,
            type_url: got.type_url,
            response_nonce: got.nonce,
            error_detail: Some(error.clone()),
            ..Default::default()
        };
        assert_eq!(peer.raw_sotw(answer.clone()), SILENCE);
        let Some(RequestKind::Nack { error: text, .. }) = &peer.kind else {
            panic!("{:?} is a NACK", peer.kind)
        };
        assert_eq!(text, message);
        // Not a second time for the same response.
        answer.error_detail = Some(error);
        peer.raw_sotw(answer);
        assert!(!matches!(peer.kind, Some(RequestKind::Nack { .. })));
    }
}

#[test]
fn rule_02_an_old_version_without_error_detail_is_not_answered() {
    // Envoy so answers resources of a type that it has stopped watching.
    let mut peer = Peer::sotw("eds a=1 b=1");
    peer.subscribe_sotw("eds a");
    peer.ack("eds");
    assert_eq!(peer.publish("eds a=2"), ["eds a=2"]);
    let nonce = peer.last("eds").nonce.clone();
    let unwatched = DiscoveryRequest {
        version_info: "an old one".to_owned(),
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        response_nonce: nonce,
        ..Default::default()
    };
    assert_eq!(peer.raw_sotw(unwatched.clone()), SILENCE);
    assert!(matches!(peer.kind, Some(RequestKind::Ack { .. })));
    assert_eq!(peer.raw_sotw(unwatched), SILENCE, "and again");
    assert_eq!(peer.publish("eds a=3 b=3"), SILENCE, "nothing is wanted");
}

#[test]
fn rule_04_a_stale_request_still_changes_the_subscription() {
    let mut peer = Peer::sotw("eds a=1 b=1");
    peer.subscribe_sotw("eds a");
    let first = peer.last("eds").nonce.clone();
    peer.ack("eds");
    peer.publish("eds a=2");
    // On its way while the response went out.
    let crossing = DiscoveryRequest {
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        response_nonce: first,
        resource_names: vec!["a".to_owned(), "b".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_sotw(crossing), SILENCE, "one unanswered response a type");
    assert_eq!(peer.kind, Some(RequestKind::Stale));
    peer.names_are("eds a b");
    assert_eq!(peer.ack("eds"), ["eds b=1"]);

    let mut peer = Peer::delta("eds a=1 b=1");
    peer.subscribe("eds a");
    let stale = DeltaDiscoveryRequest {
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        response_nonce: "0".to_owned(),
        resource_names_subscribe: vec!["b".to_owned()],
        resource_names_unsubscribe: vec!["a".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_delta(stale), SILENCE);
    assert_eq!(peer.kind, Some(RequestKind::Stale));
    assert_eq!(peer.ack("eds"), ["eds b=1"]);
    peer.ack("eds");
    assert_eq!(peer.publish("eds a=2 b=2"), ["eds b=2"]);
}

#[test]
fn rule_16_an_aggregated_stream_wants_a_type() {
    let mut peer = Peer::sotw("");
    assert_eq!(
        peer.handle_request(DiscoveryRequest::default().encode_to_vec()),
        Err(RequestError::NoType)
    );
    let nonsense = DiscoveryRequest { type_url: "Cluster".to_owned(), ..Default::default() };
    let refusal = peer.handle_request(nonsense.encode_to_vec()).unwrap_err();
    assert!(refusal.to_string().contains("\"Cluster\" is no resource type"), "{refusal}");
}

#[test]
fn rule_16_a_single_type_stream_implies_its_type_and_refuses_others() {
    let mut peer = Peer::sotw("eds a=1");
    peer.only(ResourceType::Endpoint);
    let mut request =
        DiscoveryRequest { resource_names: vec!["a".to_owned()], ..Default::default() };
    assert_eq!(peer.raw_sotw(request.clone()), ["eds a=1"]);
    request.type_url = ResourceType::Cluster.type_url().to_owned();
    let refusal = peer.handle_request(request.encode_to_vec()).unwrap_err();
    assert!(matches!(&refusal, RequestError::WrongType { .. }), "{refusal}");
}

#[test]
fn rule_16_types_that_are_not_served_cost_nothing_else() {
    let mut peer = Peer::sotw("cds a=1");
    let request = DiscoveryRequest {
        type_url: SECRETS.to_owned(),
        resource_names: vec!["cert".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_sotw(request.clone()), SILENCE);
    assert_eq!(peer.raw_sotw(request), SILENCE);
    assert_eq!(peer.subscribe_sotw("cds"), ["cds a=1"]);

    // In delta there is a way to say that it does not exist.
    let mut peer = Peer::delta("cds a=1");
    let request = DeltaDiscoveryRequest {
        type_url: SECRETS.to_owned(),
        resource_names_subscribe: vec!["cert".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_delta(request), [format!("{SECRETS} -cert")]);
    let request = DeltaDiscoveryRequest {
        type_url: RUNTIME.to_owned(),
        resource_names_subscribe: vec!["cert".to_owned()],
        ..Default::default()
    };
    assert_eq!(peer.raw_delta(request), [format!("{RUNTIME} -cert")], "each under its own name");
    // Envoy drops an answer of a type that it does not know and never ACKs: nothing waits for it.
    assert_eq!(peer.subscribe("cds"), ["cds a=1"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.publish("cds a=2"), ["cds a=2"]);
}

#[test]
fn rule_14_the_first_wildcard_request_of_a_type_that_is_not_served_is_answered() {
    for mut peer in [Peer::sotw("cds a=1"), Peer::delta("cds a=1")] {
        let mut ask = |type_url: &str, names: &[&str]| {
            let type_url = type_url.to_owned();
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            match peer.is_delta() {
                true => peer.raw_delta(DeltaDiscoveryRequest {
                    type_url,
                    resource_names_subscribe: names,
                    ..Default::default()
                }),
                false => peer.raw_sotw(DiscoveryRequest {
                    type_url,
                    resource_names: names,
                    ..Default::default()
                }),
            }
        };
        assert_eq!(ask(SECRETS, &[]), [SECRETS], "there is none");
        assert_eq!(ask(SECRETS, &[]), SILENCE, "once");
        assert_eq!(peer.publish("cds a=2"), SILENCE);
    }
}

#[test]
fn rule_16_the_number_of_types_is_limited() {
    let mut peer = Peer::sotw("cds a=1");
    let ask = |number: usize| {
        let type_url = format!("type.googleapis.com/none.such.v{number}");
        DiscoveryRequest { type_url, ..Default::default() }.encode_to_vec()
    };
    let served = ResourceType::COUNT;
    let limit = SessionLimits::default().types;
    for number in served..limit {
        assert_eq!(peer.handle_request(ask(number)), Ok(()));
    }
    assert_eq!(peer.handle_request(ask(served)), Ok(()), "a type that was asked for before");
    assert_eq!(peer.handle_request(ask(limit)), Err(RequestError::TooManyTypes { limit }));
}

#[test]
fn the_number_of_names_is_limited() {
    let limit = 3;
    let mut peer = Peer::delta("");
    let interner = std::sync::Arc::default();
    let frames = std::sync::Arc::new(crate::frame::FrameBuilder::new("x"));
    let limits = SessionLimits { names: limit, ..SessionLimits::default() };
    let fresh = || {
        Session::new(
            true,
            &TABLE,
            None,
            limits,
            std::sync::Arc::clone(&interner),
            std::sync::Arc::clone(&frames),
            1,
        )
    };
    peer.session = fresh();
    let ask = |subscribe: &[&str], unsubscribe: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        DeltaDiscoveryRequest {
            type_url: ResourceType::Cluster.type_url().to_owned(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        }
        .encode_to_vec()
    };
    assert_eq!(peer.handle_request(ask(&["a", "b"], &[])), Ok(()));
    assert_eq!(peer.handle_request(ask(&["c"], &[])), Ok(()));
    assert_eq!(
        peer.handle_request(ask(&["d"], &[])),
        Err(RequestError::TooManyNames { got: 4, limit })
    );

    // Nor can names be piled up that are only to be answered, by a client that never ACKs.
    peer.session = fresh();
    assert_eq!(peer.handle_request(ask(&[], &[])), Ok(()));
    peer.drain();
    assert_eq!(peer.handle_request(ask(&[], &["a", "b", "c"])), Ok(()));
    assert!(matches!(
        peer.handle_request(ask(&[], &["d"])),
        Err(RequestError::TooManyNames { .. })
    ));
}

#[test]
fn rule_17_no_name_twice_in_a_response() {
    let mut peer = Peer::sotw("eds a=1 cds a=1");
    assert_eq!(peer.subscribe_sotw("eds a a a"), ["eds a=1"]);
    assert_eq!(peer.subscribe_sotw("cds a * a"), ["cds a=1"]);
    let mut peer = Peer::delta("eds a=1 cds a=1");
    assert_eq!(peer.subscribe("eds a a x x"), ["eds a=1 -x"]);
    assert_eq!(peer.subscribe("cds a * a"), ["cds a=1"]);
}

#[test]
fn rule_20_no_ttl_and_no_heartbeats() {
    // `decode` asserts on the TTL. Nothing is ever sent without a reason.
    let mut peer = Peer::delta("cds a=1");
    peer.subscribe("cds");
    peer.ack("cds");
    assert_eq!(peer.drain(), SILENCE);
}

#[test]
fn rule_22_types_are_independent() {
    let mut peer = Peer::sotw("cds a=1 eds a=1 lds l=1 rds r=1");
    peer.subscribe_sotw("cds");
    // CDS is not answered; nothing else waits for it.
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=1"]);
    assert_eq!(peer.subscribe_sotw("lds"), ["lds l=1"]);
    assert_eq!(peer.subscribe_sotw("rds r"), ["rds r=1"]);
    peer.nack("lds");
    assert_eq!(peer.ack("rds"), SILENCE);
    assert_eq!(peer.publish("rds r=2"), ["rds r=2"]);
}

#[test]
fn rule_23_the_control_plane_says_who_it_is() {
    let mut peer = Peer::sotw("cds a=1");
    peer.subscribe_sotw("cds");
    assert_eq!(peer.last("cds").control_plane, "pilothouse test");
    let mut peer = Peer::delta("cds a=1");
    peer.subscribe("cds");
    assert_eq!(peer.last("cds").control_plane, "pilothouse test");
}

#[test]
fn rule_24_xdstp_names_are_opaque() {
    let name = "xdstp://authority/envoy.config.cluster.v3.Cluster/a?x=1&y=2";
    let glob = "xdstp://authority/envoy.config.cluster.v3.Cluster/*";
    let mut peer = Peer::delta("cds a=1");
    peer.set(ResourceType::Cluster, name, Some("1"));
    assert_eq!(peer.subscribe(&format!("cds {name}")), [format!("cds {name}=1")]);
    peer.ack("cds");
    assert_eq!(peer.subscribe(&format!("cds {glob}")), [format!("cds -{glob}")]);
}

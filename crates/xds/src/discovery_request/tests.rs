use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use prost::Message as _;

use super::DiscoveryRequest as Request;
use super::*;

fn text(names: &Names) -> Vec<&str> {
    names.iter().collect()
}

#[test]
fn decodes_what_prost_encodes() {
    let node = Node { id: "me".to_owned(), ..Default::default() };
    let sent = DiscoveryRequest {
        version_info: "7".to_owned(),
        node: Some(node.clone()),
        resource_names: vec!["b".to_owned(), "a".to_owned()],
        type_url: "t".to_owned(),
        response_nonce: "n".to_owned(),
        error_detail: Some(Status { code: 13, message: "no".to_owned(), details: vec![] }),
        ..Default::default()
    };
    let Ok(Request::Sotw(got)) = Request::decode(sent.encode_to_vec().into(), false) else {
        panic!("did not decode")
    };
    assert_eq!((got.version_info.as_str(), text(&got.names)), ("7", vec!["b", "a"]));
    assert_eq!((got.common.type_url.as_str(), got.common.response_nonce.as_str()), ("t", "n"));
    assert_eq!(got.common.error.as_deref(), Some("no"));
    assert_eq!(got.common.node.as_deref(), Some(&*node.encode_to_vec()));

    let sent = DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: "t".to_owned(),
        resource_names_subscribe: vec!["a".to_owned()],
        resource_names_unsubscribe: vec!["b".to_owned()],
        initial_resource_versions: [("c".to_owned(), "1".to_owned())].into(),
        response_nonce: "n".to_owned(),
        error_detail: Some(Status::default()),
        ..Default::default()
    };
    let Ok(Request::Delta(got)) = Request::decode(sent.encode_to_vec().into(), true) else {
        panic!("did not decode")
    };
    assert_eq!((text(&got.subscribe), text(&got.unsubscribe)), (vec!["a"], vec!["b"]));
    assert_eq!(got.initial_versions.iter().collect::<Vec<_>>(), [("c", "1")]);
    assert_eq!(got.initial_versions.len(), 1);
    // An empty status is a NACK all the same.
    assert_eq!(got.common.error.as_deref(), Some(""));
}

#[test]
fn names_need_not_stand_in_a_row() {
    // b, a type, an unknown number, a
    let message = b"\x1a\x01b\x22\x01t\x78\x07\x1a\x02\xc3\xa4\x78\x07";
    let Ok(Request::Sotw(got)) = Request::decode(Bytes::from_static(message), false) else {
        panic!("did not decode")
    };
    assert_eq!((text(&got.names), got.names.len()), (vec!["b", "ä"], 2));
    assert_eq!(got.common.type_url, "t");
    let same: Names = ["b", "a"].into_iter().collect();
    assert_eq!((text(&same), same.len()), (vec!["b", "a"], 2));
}

/// Lists that are known are taken in one go, and mean the same.
#[test]
fn a_list_that_is_known_is_read_as_any_other() {
    let interner = crate::subscription::Interner::default();
    let subscribe = |names: &[&'static str]| {
        let sent: Names = names.iter().copied().collect();
        let list = || names.iter().map(|name| Arc::from(*name)).collect();
        interner.intern_as_sent(sent.as_sent(), sent.len(), list)
    };
    let (ab, a) = (subscribe(&["a", "b"]), subscribe(&["a"]));
    let known = |names: &[&str], known: &[&Arc<Subscription>]| {
        let request = DiscoveryRequest {
            version_info: "7".to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: "t".to_owned(),
            ..Default::default()
        };
        let bytes = Bytes::from(request.encode_to_vec());
        let known = known.iter().map(|one| &***one);
        let Ok(Request::Sotw(got)) = Request::decode_with_known_names(bytes, false, known) else {
            panic!("did not decode")
        };
        assert_eq!((text(&got.names), got.names.len()), (names.to_vec(), names.len()));
        assert_eq!((&*got.version_info, &*got.common.type_url), ("7", "t"));
        got.names.known()
    };
    assert_eq!(known(&["a", "b"], &[&ab]), Some(ab.id()));
    assert_eq!(known(&["a"], &[&ab, &a]), Some(a.id()));
    assert_eq!(known(&["a", "b"], &[&a]), None, "more than that");
    assert_eq!(known(&["a", "b", "c"], &[&a, &ab]), None);
    assert_eq!(known(&["b", "a"], &[&ab]), None, "another order");
    assert_eq!(known(&["ab"], &[&a]), None);
    assert_eq!(known(&[], &[&a]), None);
}

/// D4, D5: what a peer says costs its own size, and what is kept of it has a bound.
#[test]
fn what_is_kept_of_a_request_is_bounded() {
    let decode = |request: &DeltaDiscoveryRequest| {
        Request::decode(request.encode_to_vec().into(), true).map(|request| match request {
            Request::Delta(request) => request,
            Request::Sotw(_) => panic!("the other variant"),
        })
    };
    let long = "ä".repeat(1 << 20);
    let got = decode(&DeltaDiscoveryRequest {
        response_nonce: long.clone(),
        error_detail: Some(Status { message: long.clone(), ..Default::default() }),
        ..Default::default()
    });
    let got = got.unwrap().common;
    let error = got.error.unwrap();
    assert!(error.len() <= MAX_NACK_TEXT && error.ends_with("(2097152 bytes)"), "{error}");
    assert!(got.response_nonce.len() <= MAX_TOKEN);
    let type_url = format!("type.googleapis.com/{long}");
    let refused = decode(&DeltaDiscoveryRequest { type_url, ..Default::default() });
    assert!(refused.unwrap_err().to_string().contains("the limit is 256"));

    // A million names that say nothing, none beside another, and as many versions.
    let message = b"\x1a\0\x2a\0".repeat(1 << 20);
    let Ok(Request::Delta(got)) = Request::decode(message.into(), true) else {
        panic!("did not decode")
    };
    assert_eq!((got.subscribe.len(), got.subscribe.as_sent().len()), (1 << 20, 2 << 20));
    assert_eq!((got.initial_versions.len(), got.initial_versions.fields.len()), (1 << 20, 2 << 20));
}

#[test]
fn refuses_what_is_no_request() {
    for bytes in [&b"\x1a\xff"[..], b"\x1a\x02\xff\xfe", b"\x0a\x05abc", b"\xff\xff\xff"] {
        assert!(Request::decode(Bytes::copy_from_slice(bytes), false).is_err(), "{bytes:?}");
    }
}

//! A table of types is the user's own.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use prost::Message as _;

use crate::resource_type::{ServedType, TypeIndex};
use crate::session::{RequestKind, Session, SessionLimits};
use crate::{FrameBuilder, Resource, TypeSet, View};

static TABLE: [ServedType; 1] = [ServedType::SECRET];

#[test]
fn a_server_of_secrets_serves_no_other_type() {
    let secret = Resource::from_encoded(TABLE[0].type_url, "cert".into(), b"1");
    let set = Arc::new(TypeSet::default()).with([("cert".into(), Some(secret))]);
    let view = View::new([set]);
    let frames = Arc::new(FrameBuilder::new("test"));
    let limits = SessionLimits::default();
    let mut session = Session::new(false, &TABLE, None, limits, Arc::default(), frames, 0);
    let mut ask = |type_url: &str, names: &[&str]| {
        let request = DiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let request = session.decode(request.encode_to_vec().into()).expect("a request");
        let (index, kind) = session.handle_request(&request, &view).expect("not refused");
        assert_eq!(kind, RequestKind::Subscribe);
        let response = session.next_response(&view).expect("a response");
        assert!(session.next_response(&view).is_none());
        (index, response.resource_type, response.frame.resources)
    };
    let served = Some(TypeIndex(0));
    assert_eq!(ask(TABLE[0].type_url, &["cert", "none"]), (served, served, 1));
    assert_eq!(ask(ServedType::CLUSTER.type_url, &[]), (None, None, 0));
}

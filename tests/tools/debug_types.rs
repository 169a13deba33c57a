//! The debug types on an xDS stream, by a client that does what istioctl does and what it does not.

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use tonic::Code;

use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::namespace;
use pilothouse_testkit::xds_client::{
    CDS, connect, connect_from, delta, node, open_delta, open_sotw, sotw,
};

pub(crate) const SYNCZ: &str = "istio.io/debug/syncz";

/// As istioctl says it first: with a nonce that nobody has sent.
pub(crate) fn request(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("sidecar~127.0.0.1~test-1.default~default.svc.cluster.local")),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: "2026-11-26T12:00:00Z".to_owned(),
        ..Default::default()
    }
}

async fn control_plane() -> (ControlPlane, Manifests) {
    let manifests = Manifests::new(&[Service::new("web", "http", 80)]);
    (ControlPlane::start(manifests.path()).await, manifests)
}

#[tokio::test]
async fn each_request_is_answered_also_when_there_is_nothing_and_an_ack_is_not() {
    let (control, _manifests) = control_plane().await;
    let mut stream = open_sotw(connect(control.grpc).await).await;
    stream.say(request(SYNCZ, &[])).await;
    let empty = stream.response().await;
    assert_eq!((&*empty.type_url, empty.resources.len()), (SYNCZ, 0));
    let identifier = empty.control_plane.unwrap().identifier;
    assert!(identifier.contains(r#""Component":"pilothouse""#), "{identifier}");

    let mut proxy = open_sotw(connect(control.grpc).await).await;
    proxy.say(sotw(CDS, &[])).await;
    proxy.response().await;
    // An ACK of the first answer, then another request: the response to it is the second one.
    stream.say(DiscoveryRequest { response_nonce: empty.nonce, ..request(SYNCZ, &[]) }).await;
    stream.say(request(SYNCZ, &[])).await;
    let second = stream.response().await;
    assert_eq!(second.resources.len(), 1, "the proxy, and not the stream that asks");
    assert_eq!(second.nonce, format!("{:016x}", 2));
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_said() {
    let (control, _manifests) = control_plane().await;
    let names = ["x"; 17];
    let long = "x".repeat(5000);
    for (asked, code, said) in [
        (request("istio.io/debug/other", &[]), Code::InvalidArgument, "there is no type"),
        (request("istio.io/debugger", &[]), Code::InvalidArgument, "is no resource type"),
        (request("istio.io/debug", &[]), Code::InvalidArgument, "0 resource names, give one"),
        (request("istio.io/debug", &names), Code::InvalidArgument, "the limit is 16"),
        (request("istio.io/debug", &[&long]), Code::InvalidArgument, "5000 bytes"),
        (
            request("istio.io/debug/config_dump", &["nobody.default"]),
            Code::NotFound,
            "Proxy not connected to this Pilot instance.",
        ),
    ] {
        let mut stream = open_sotw(connect(control.grpc).await).await;
        stream.say(asked).await;
        let (got, text) = stream.refusal().await;
        assert!(got == code && text.contains(said), "{got:?}: {text}");
    }
    // Once on a stream of debug types, there are no resources on it; and none of these by delta.
    let mut stream = open_sotw(connect(control.grpc).await).await;
    stream.say(request(SYNCZ, &[])).await;
    stream.response().await;
    stream.say(sotw(CDS, &[])).await;
    let (code, text) = stream.refusal().await;
    assert!(code == Code::InvalidArgument && text.contains("open another stream"), "{text}");
    let mut stream = open_delta(connect(control.grpc).await).await;
    let mut asked = delta(CDS, &[]);
    asked.type_url = SYNCZ.to_owned();
    stream.say(asked).await;
    assert_eq!(stream.refusal().await.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_page_that_does_not_exist_is_said_in_the_words_that_istioctl_looks_for() {
    let (control, _manifests) = control_plane().await;
    let mut stream = open_sotw(connect(control.grpc).await).await;
    for (name, said) in [
        ("nosuch", "404 page not found"),
        ("events", "404 page not found"),
        ("edsz", "You must provide a proxyID in the query string"),
        ("syncz?nosuch=1", "is no parameter of this page"),
        ("a b", "is no page"),
        ("syncz", "[]"),
    ] {
        stream.say(request("istio.io/debug", &[name])).await;
        let response = stream.response().await;
        let text = String::from_utf8_lossy(&response.resources[0].value).into_owned();
        assert!(text.contains(said), "{name}: {text}");
    }
}

/// As it is in a cluster: 15010 is open to all, the debug pages to this machine.
#[tokio::test]
async fn a_peer_from_elsewhere_is_told_no_more_than_the_debug_port_tells_it() {
    let test = "debug_types::a_peer_from_elsewhere_is_told_no_more_than_the_debug_port_tells_it";
    if !namespace::entered(test) {
        return;
    }
    let elsewhere: SocketAddr = "10.9.9.9:0".parse().unwrap();
    let added =
        std::process::Command::new("ip").args(["addr", "add", "10.9.9.9/32", "dev", "lo"]).status();
    assert!(added.unwrap().success());
    let (control, _manifests) = control_plane().await;
    for asked in [
        request(SYNCZ, &[]),
        request("istio.io/debug", &["syncz"]),
        request("istio.io/debug/config_dump", &["web-0.default"]),
    ] {
        let mut stream = open_sotw(connect_from(elsewhere.ip(), control.grpc).await).await;
        stream.say(asked).await;
        let (code, text) = stream.refusal().await;
        assert!(
            code == Code::PermissionDenied && text.contains("port-forward"),
            "{code:?}: {text}"
        );
    }
    // It is a proxy like any other.
    let mut stream = open_sotw(connect_from(elsewhere.ip(), control.grpc).await).await;
    stream.say(sotw(CDS, &[])).await;
    stream.response().await;
}

//! A proxy on demand is shown with what it has named of what there is.

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use serde_json::json;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::in_time;
use pilothouse_testkit::xds_client::{CDS, ack, connect, delta, node, open_delta};

#[tokio::test]
async fn subscribed_is_told_from_available() {
    let mesh = Mesh::start().await;
    let said = [("DISCOVERY", "on-demand"), ("USES", "reviews,nobody.shop")];
    let fields = said.map(|(name, text)| {
        let kind = Some(Kind::StringValue(text.to_owned()));
        (name.to_owned(), Value { kind })
    });
    let mut proxy = node("sidecar~10.0.0.9~web-0.default~default.svc.cluster.local");
    proxy.metadata = Some(Struct { fields: fields.into() });
    let mut stream = open_delta(connect(mesh.grpc).await).await;
    let names = ["*", "outbound|9080||10.96.1.2", "nonsense"];
    stream.say(DeltaDiscoveryRequest { node: Some(proxy), ..delta(CDS, &names) }).await;
    let response = in_time("clusters", stream.response()).await;
    stream.say(ack(&response)).await;

    let browser = Browser::open(&mesh.url()).await;
    browser.show("#/proxies/1").await;
    let facts =
        "on-demand, 3 of 4 clusters named, 1 unknown, said to be used and unknown: nobody.shop";
    browser.shows("main", &["web-0.default", facts]).await;
    browser.has_no_errors().await;
    browser.close().await;

    let page = mesh.control.debug("uses").await.unwrap();
    assert_eq!(page["proxies"][0]["services"], json!(["ratings.default", "reviews.default"]));
    drop(stream);
}

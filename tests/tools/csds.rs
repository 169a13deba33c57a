//! CSDS on the debug port, by the client that tonic generates.

use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, RegexMatcher, StringMatcher};
use tonic::Code;

use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::xds_client::{CDS, connect, node, open_sotw, sotw};

fn by_id(pattern: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    let node_matchers = vec![NodeMatcher { node_id, ..NodeMatcher::default() }];
    ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
}

#[tokio::test]
async fn who_matches_is_shown_with_what_it_was_sent() {
    let manifests = Manifests::new(&[Service::new("web", "http", 80)]);
    let control = ControlPlane::start(manifests.path()).await;
    let mut proxies = Vec::new();
    for id in ["one", "another"] {
        let mut proxy = open_sotw(connect(control.grpc).await).await;
        let mut first = sotw(CDS, &[]);
        first.node = Some(node(id));
        proxy.say(first).await;
        proxy.response().await;
        proxies.push(proxy);
    }
    let mut client = ClientStatusDiscoveryServiceClient::new(connect(control.http).await);
    let asked = by_id(MatchPattern::Exact("one".to_owned()));
    let answer = client.fetch_client_status(asked.clone()).await.unwrap().into_inner();
    let [config] = &answer.config[..] else { panic!("{answer:?}") };
    assert_eq!(config.node.as_ref().unwrap().id, "one");
    let clusters = &config.generic_xds_configs;
    let web = clusters.iter().find(|one| one.name.contains("web.default")).unwrap();
    assert_eq!(web.config_status(), ConfigStatus::Stale, "not acknowledged");
    let content = web.xds_config.as_ref().unwrap();
    assert!(content.type_url == CDS.type_url() && !content.value.is_empty());

    // On a stream each request has its answer.
    let without = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    let requests = tokio_stream::iter([asked, without]);
    let mut answers = client.stream_client_status(requests).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), answer);
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!(second.config.len(), 2);
    let mut entries = second.config.iter().flat_map(|one| &one.generic_xds_configs);
    assert!(entries.all(|one| one.xds_config.is_none() && !one.name.is_empty()));
    assert_eq!(answers.message().await.unwrap(), None);

    let regex = RegexMatcher { regex: ".*".to_owned(), ..RegexMatcher::default() };
    let refused = client.fetch_client_status(by_id(MatchPattern::SafeRegex(regex))).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

//! An Envoy that wants types which are not served: it must not wait for them.

use std::net::SocketAddr;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{on_both_wires, places};

on_both_wires!(rule_14_scoped_routes_that_are_not_served_hold_nothing_up);

/// A listener with scoped routes: Envoy asks for all scopes that there are, and waits for them.
fn listener(at: SocketAddr) -> String {
    format!(
        r#"static_resources:
  listeners:
    - name: scoped
      address: {{ socket_address: {{ address: {}, port_value: {} }} }}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: scoped
                scoped_routes:
                  name: scopes
                  scope_key_builder:
                    fragments:
                      - header_value_extractor: {{ name: x-scope, element_separator: ",", index: 0 }}
                  rds_config_source: {{ resource_api_version: V3, ads: {{}} }}
                  scoped_rds:
                    scoped_rds_config_source: {{ resource_api_version: V3, ads: {{}} }}
                http_filters:
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: xds-grpc"#,
        at.ip(),
        at.port(),
    )
}

async fn rule_14_scoped_routes_that_are_not_served_hold_nothing_up(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = Service::new("any", "http", 80).with([&backend]);
    let manifests = Manifests::new(&[service]);
    let control = ControlPlane::start(manifests.path()).await;
    let listener = listener(SocketAddr::new(places::address(), places::port()));
    let pieces = [("static_resources:\n  clusters:\n    - name: xds-grpc", &*listener)];
    // It is live before the 15 s are over for which it would wait.
    let envoy = Envoy::start_with(Sample::Standalone, wire, control.grpc, &pieces).await;
    let lab = Lab { envoy, control, manifests };
    lab.answered_by("any", &["one"]).await;
    let stats = lab.envoy.stats("scoped_rds.scopes.(update_success|update_rejected)$").await;
    let asked: Vec<u64> = stats.unwrap().into_values().collect();
    assert_eq!(asked, [0, 1], "it took the answer that there is none");
    lab.assert_untroubled().await;
}

//! Clusters that Envoy asks for when a request needs them (ODCDS), which it does in delta only.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::captured::{asked, connect, service};
use crate::meaning::{put_objects, slice};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{VISIBLE, eventually, http, places, same};

mod called;
mod churned;
mod mixed;
mod outage;
mod replicas;
mod scanner;

/// Far longer than a test: whoever has to wait for it has not been answered.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A listener that sends a request to the cluster that its header names.
fn listener(at: SocketAddr) -> String {
    format!(
        r#"static_resources:
  listeners:
    - name: on-demand
      address: {{ socket_address: {{ address: {}, port_value: {} }} }}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: on_demand
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{ match: {{ prefix: / }}, route: {{ cluster_header: x-cluster }} }}]
                http_filters:
                  - name: on-demand
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand
                      odcds:
                        source: {{ resource_api_version: V3, ads: {{}} }}
                        timeout: {}s
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: xds-grpc"#,
        at.ip(),
        at.port(),
        TIMEOUT.as_secs()
    )
}

/// Puts a Service of one port with a cluster IP of its own, or anew at the one that it has; gives where it is.
fn put(lab: &Lab, name: &str, speaks: &str, at: SocketAddr, to: &[&Backend]) -> SocketAddr {
    put_in(&lab.manifests, name, speaks, at, to);
    at
}

/// The same in a folder.
fn put_in(manifests: &Manifests, name: &str, speaks: &str, at: SocketAddr, to: &[&Backend]) {
    let one = service(name, &at.ip().to_string(), speaks, at.port(), &Value::Null);
    let endpoints: Vec<_> = to.iter().map(|to| json!({ "addresses": [to.address] })).collect();
    put_objects(manifests, name, &[one, slice(name, "IPv4", &endpoints)]);
}

/// A cluster IP that no other service has, with this port.
fn cluster_ip(port: u16) -> SocketAddr {
    SocketAddr::new(places::address(), port)
}

/// Waits until a captured request that is sent there is answered by this workload.
async fn answers(client: IpAddr, at: SocketAddr, wanted: &str) {
    eventually(VISIBLE, &format!("{wanted} at {at}"), async || {
        same(asked(client, at, "any.host", "HTTP/1.1").await?.as_str(), wanted)
    })
    .await;
}

/// What a workload says over a captured TCP connection until it is closed.
async fn heard(client: IpAddr, at: SocketAddr) -> Result<String, String> {
    let mut text = String::new();
    let mut connection = connect(client, at).await?;
    connection.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    Ok(text)
}

/// Waits until a captured TCP connection is answered by this workload.
async fn says(client: IpAddr, at: SocketAddr, wanted: &str) {
    eventually(VISIBLE, &format!("{wanted} over TCP at {at}"), async || {
        same(heard(client, at).await?.as_str(), wanted)
    })
    .await;
}

async fn get(at: SocketAddr, cluster: &str) -> Result<http::Answer, String> {
    http::get_with(&format!("http://{at}/"), Some(("x-cluster", cluster))).await
}

/// With `beside`, Envoy has the wildcard too.
async fn on_demand(beside: bool) {
    let backend = Backend::http("one").await;
    let [known, late] =
        ["known", "late"].map(|name| Service::new(name, "http", 80).with([&backend]));
    let manifests = Manifests::new(std::slice::from_ref(&known));
    let control = ControlPlane::start(manifests.path()).await;
    let at = SocketAddr::new(places::address(), places::port());
    let listener = listener(at);
    let mut pieces = vec![("static_resources:\n  clusters:\n    - name: xds-grpc", &*listener)];
    if !beside {
        pieces.push(("  cds_config: { resource_api_version: V3, ads: {} }\n", ""));
    }
    let envoy = Envoy::start_with(Sample::Standalone, Wire::Delta, control.grpc, &pieces).await;

    let answer = get(at, &known.cluster()).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "one HTTP/1.1"));
    // That there is none is said at once (rule 9), and when there is one, it comes.
    assert_eq!(get(at, &late.cluster()).await.unwrap().status, 503);
    manifests.apply(&late);
    eventually(VISIBLE, "the cluster that is there now", async || {
        same(get(at, &late.cluster()).await?.status, 200)
    })
    .await;
    if !beside {
        let clusters = envoy.clusters().await.unwrap();
        assert_eq!(clusters.into_keys().collect::<Vec<_>>(), [known.cluster(), late.cluster()]);
    }
}

#[tokio::test]
async fn rule_21_clusters_on_demand_alone() {
    on_demand(false).await;
}

#[tokio::test]
async fn rule_21_clusters_on_demand_beside_the_wildcard() {
    on_demand(true).await;
}

//! The pages as a client gets them, over hand-made state.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use http_body_util::BodyExt;
use pilothouse_xds::Interner;
use pilothouse_xds::{Resource, TypeSet, View};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::metrics::Metrics;
use crate::metrics::scrape::Scrape;
use crate::model::{
    About, Change, Endpoint, EndpointSlice, EndpointState, Protocol, Service, ServiceKey,
    ServiceKind, ServicePort, SlicePort, Subset, TargetPort,
};
use crate::names::ResourceType;
use crate::proxies::{ProxyIdentity, Registration, XdsStream};
use crate::version::VERSION;
use crate::view::{ProxyKind, ViewKey};

mod changes;
mod mesh;
mod page_json;
mod proxies;
mod requests;
mod routes;
mod uses;

/// A debug port, a monitoring port and everything behind them.
pub(super) struct Fixture {
    pub(super) state: DebugState,
    debug: Router,
    monitoring: Router,
    metrics: Arc<Metrics>,
    model: watch::Sender<Model>,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    routes: watch::Sender<RouteReport>,
    streams: Vec<Registration>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let (proxies, health) =
            (Arc::new(Proxies::new(ResourceType::TABLE)), Arc::new(Health::default()));
        let (model, model_seen) = watch::channel(Model::default());
        let (snapshot, snapshot_seen) = watch::channel(None);
        let (routes, routes_seen) = watch::channel(RouteReport::default());
        let readiness = Conditions::default();
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        registry.register_collector(Box::new(Scrape {
            proxies: proxies.clone(),
            health: health.clone(),
            model: model_seen.clone(),
            snapshot: snapshot_seen.clone(),
            frames: Arc::new(pilothouse_xds::FrameBuilder::new("test")),
            domain: "cluster.local".into(),
            started,
            listeners: Vec::new(),
            memory_limit: 1 << 30,
        }));
        let state = DebugState {
            tokens: None,
            proxies,
            health,
            model: model_seen,
            snapshot: snapshot_seen,
            changes: Arc::default(),
            routes: routes_seen,
            route_status: None,
            readiness: readiness.clone(),
            domain: "cluster.local".into(),
            certificates: None,
        };
        let debug = router(state.clone()).unwrap();
        let monitoring = crate::monitoring::router(crate::monitoring::MonitoringState {
            readiness,
            registry: Arc::new(registry),
            started,
        });
        let streams = Vec::new();
        Self { state, debug, monitoring, metrics, model, snapshot, routes, streams }
    }

    fn connect(&mut self, name: &str, delta: bool) -> &XdsStream {
        let peer: SocketAddr = "10.1.2.3:4567".parse().unwrap();
        let registration = self.state.proxies.register(Some(peer), delta, 1000).unwrap();
        let identity = ProxyIdentity {
            node_id: format!("sidecar~10.1.2.3~{name}~default.svc.cluster.local").into(),
            name: name.into(),
            cluster: "reviews".into(),
            view: ViewKey::new(
                ProxyKind::Sidecar,
                name.rsplit_once('.').map(|(_, namespace)| namespace),
            ),
            user_agent: "envoy/1.40.0".into(),
            probe: false,
            locality: "region-1/zone-a".into(),
            labels: [("app", "reviews"), ("version", "v1")]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
            principal: None,
            uses: None,
        };
        registration.stream.update(|status| status.identity = Some(identity));
        self.streams.push(registration);
        &self.streams.last().unwrap().stream
    }

    /// reviews with a ready, a draining and a not ready endpoint; empty without any; an alias; a
    /// headless one whose slice has the port under another name; a slice of no service.
    fn fill_model(&self) {
        let mut model = Model::default();
        let mut apply = |change| model.apply(change, &mut Default::default());
        let ip = || ServiceKind::ClusterIp(vec!["10.0.0.1".parse().unwrap()]);
        apply(Change::Service(service("reviews", ip(), "http", Protocol::Http)));
        apply(Change::Service(service("empty", ip(), "", Protocol::Tcp)));
        let alias = ServiceKind::ExternalName("example.com".into());
        apply(Change::Service(service("alias", alias, "https", Protocol::Tls)));
        apply(Change::Service(service("bare", ServiceKind::Headless, "grpc", Protocol::Grpc)));
        apply(Change::Slice(slice("reviews", "http", "127.0.0.")));
        apply(Change::Slice(slice("bare", "other", "127.0.1.")));
        apply(Change::Slice(slice("nobody", "http", "127.0.2.")));
        self.model.send_replace(model);
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        get_from(&self.debug, path, "localhost:8080").await
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

async fn get_from(router: &Router, path: &str, host: &str) -> (StatusCode, String) {
    let request = Request::get(path).header(header::HOST, host).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn service(name: &str, kind: ServiceKind, port: &str, protocol: Protocol) -> Service {
    let ports = vec![ServicePort { name: port.into(), port: 9080, protocol }];
    let pair = |key: &str, value: &str| (key.into(), value.into());
    let about = About {
        labels: [pair("team", "books")].into(),
        selector: [pair("app", name)].into(),
        target_ports: [(9080, TargetPort::Name("web".into()))].into(),
    };
    Service {
        about: Box::new(about),
        created: "2026-01-02T03:04:05Z".into(),
        resource_version: "7".into(),
        ..Service::new(ServiceKey::new("default", name), kind, ports)
    }
}

fn slice(service: &str, port: &str, prefix: &str) -> EndpointSlice {
    let states = [EndpointState::NotReady, EndpointState::Ready, EndpointState::Draining];
    let endpoints = states.into_iter().enumerate().map(|(at, state)| Endpoint {
        // Backwards, so that sorting shows.
        zone: Some("zone-a".into()),
        for_zones: ["zone-a".into(), "zone-b".into()].into(),
        node: Some("node-1".into()),
        pod_name: Some(format!("{service}-{at}").into()),
        ..Endpoint::new(format!("{prefix}{}", 9 - at).parse().unwrap(), state)
    });
    EndpointSlice {
        name: format!("{service}-abc").into(),
        service: ServiceKey::new("default", service),
        subsets: vec![Subset {
            ports: vec![SlicePort { name: port.into(), port: 80 }],
            endpoints: endpoints.collect(),
        }],
    }
}

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Four sets with `one` and `two` in each.
fn sets() -> [Arc<TypeSet>; ResourceType::COUNT] {
    ResourceType::IN_ORDER.map(|of| {
        let resource = |name: &str| {
            let own = name.to_owned();
            let made = match of {
                ResourceType::Cluster => {
                    let message = Cluster { name: own, ..Default::default() };
                    Resource::new(of, name.into(), &message)
                }
                ResourceType::Endpoint => {
                    let message = ClusterLoadAssignment { cluster_name: own, ..Default::default() };
                    Resource::new(of, name.into(), &message)
                }
                ResourceType::Listener => {
                    let message = Listener { name: own, ..Default::default() };
                    Resource::new(of, name.into(), &message)
                }
                ResourceType::Route => {
                    let message = RouteConfiguration { name: own, ..Default::default() };
                    Resource::new(of, name.into(), &message)
                }
            };
            (Arc::from(name), Some(made))
        };
        Arc::new(TypeSet::default()).with([resource("one"), resource("two")])
    })
}

/// Sent everything: clusters acknowledged, endpoints of `two` only and not answered, listeners
/// rejected; no routes asked for.
fn send(connection: &XdsStream) {
    let interner = Interner::default();
    connection.update(|status| {
        for (of, set) in ResourceType::IN_ORDER.into_iter().zip(sets()) {
            let status = &mut status.types[of.index()];
            let names = if of == ResourceType::Endpoint { vec!["two".into()] } else { vec![] };
            status.subscription = Some(interner.intern(names.is_empty(), names));
            status.sent = 2;
            status.acks = 1;
            status.nonce_acked = 0xab;
            status.nonce_sent = if of == ResourceType::Cluster { 0xab } else { 0xac };
            status.last_sent = Some(moment(1_700_000_100));
            status.last_acked = Some(moment(1_700_000_101));
            status.version = Some(set.version());
            status.set = Some(set);
            if of == ResourceType::Listener {
                status.nacks = 1;
                status.last_error = Some("cannot bind '0.0.0.0:80'".into());
                status.last_nack = Some(moment(1_700_000_102));
            }
        }
        status.types[ResourceType::Route.index()] = Default::default();
    });
}

#[tokio::test]
async fn probes_are_told_what_is_waited_for_and_what_is_lost() {
    let fixture = Fixture::new();
    let page = |path: &'static str| get_from(&fixture.monitoring, path, "10.0.0.7:15014");
    let ready = || async {
        let both = page("/ready").await;
        assert_eq!(both, fixture.get("/ready").await);
        both
    };
    let unready =
        |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"));
    let condition = fixture.state.readiness.condition("source listed", "services");
    assert_eq!(ready().await, unready("services"));
    assert_eq!(page("/live").await, (StatusCode::OK, "live\n".to_owned()));
    condition.meet();
    assert_eq!(ready().await, (StatusCode::OK, "ready\n".to_owned()));
    condition.lose("the publisher panicked");
    assert_eq!(ready().await, unready("the publisher panicked"));
    let not_live = "not live: the publisher panicked\n".to_owned();
    assert_eq!(page("/live").await, (StatusCode::SERVICE_UNAVAILABLE, not_live));
}

#[tokio::test]
async fn the_monitoring_port_tells_version_and_life() {
    let fixture = Fixture::new();
    let get = |path: &'static str| get_from(&fixture.monitoring, path, "10.0.0.7:15014");
    assert_eq!(get("/live").await, (StatusCode::OK, "live\n".to_owned()));
    let version: Value = serde_json::from_str(&get("/version").await.1).unwrap();
    assert_eq!(version["version"], VERSION);
    assert_eq!(version["started"], "2023-11-14T22:13:20Z");
    assert!(version["revision"].is_string() && version["uptimeSeconds"].is_u64());
    // As istioctl asks, and what it reads.
    let asked: Value = serde_json::from_str(&get("//version").await.1).unwrap();
    let info = json!({
        "version": VERSION, "revision": version["revision"], "golang_version": "none (Rust)",
        "status": "unknown", "tag": VERSION,
    });
    assert_eq!(asked["clientVersion"], info);
    assert_eq!(get("/debug/syncz").await.0, StatusCode::NOT_FOUND, "not on the open port");
}

#[tokio::test]
async fn metrics_are_those_of_the_state_shown() {
    let mut fixture = Fixture::new();
    fixture.fill_model();
    fixture.state.health.synced("Service");
    fixture.metrics.server.push_sent(ResourceType::Cluster, 1234);
    send(fixture.connect("reviews.default", false));
    let (status, page) = get_from(&fixture.monitoring, "/metrics", "10.0.0.7:15014").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "pilot_xds{version=\"envoy/1.40.0\"} 1",
        "pilothouse_proxies{kind=\"sidecar\"} 1",
        "pilothouse_unacked_streams{type=\"eds\"} 1",
        "pilothouse_rejecting_streams{type=\"lds\"} 1",
        "pilot_services 4",
        "pilot_eds_no_instances 2",
        "pilothouse_watch_synced{watch=\"Service\"} 1.0",
        "pilot_xds_pushes{type=\"cds\"} 1",
    ] {
        assert!(page.lines().any(|own| own == line), "no {line} in\n{page}");
    }
    assert!(!page.contains("# EOF"), "it is OpenMetrics, which nobody asked for");
}

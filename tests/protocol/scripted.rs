//! The real ADS server over resources that a test makes up: what gRPC clients need is not what the
//! translation makes for Envoys.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Locality, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action, route_action,
    route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use pilothouse::ads::uses::UsesResolver;
use pilothouse::ads::{AdsServer, IstioMesh, ServerContext, ServerLimits};
use pilothouse::door::{ConnectionLimits, LimitedListener, ServedListener};
use pilothouse::identity::{ActFor, Authenticator};
use pilothouse::metrics::Metrics;
use pilothouse::names::ResourceType;
use pilothouse::proxies::{Proxies, TypeStatus};
use pilothouse::snapshot::Snapshot;
use pilothouse::view::{ProxyKind, ViewKey, ViewRegistry};
use pilothouse_xds::{FrameBuilder, Interner, Resource, TypeSet, View};
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::{CDS, EDS, LDS, RDS, in_time};

type Sets = [Arc<TypeSet>; ResourceType::COUNT];

pub(crate) struct Scripted {
    pub(crate) grpc: SocketAddr,
    pub(crate) proxies: Arc<Proxies>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    sets: Mutex<Sets>,
    _stop: DropGuard,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::over(listener)
    }

    /// Ends, and starts where it was with nothing to serve.
    pub(crate) async fn restart(self) -> Self {
        let address = self.grpc;
        drop(self);
        let free = async {
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        Self::over(in_time("the server to let go of its address", free).await)
    }

    fn over(listener: TcpListener) -> Self {
        let (snapshots, following) = watch::channel(None);
        let proxies = Arc::new(Proxies::new(ResourceType::TABLE));
        let stop = CancellationToken::new();
        let view_registry = Arc::<ViewRegistry>::default();
        tokio::spawn(
            stop.clone().run_until_cancelled_owned(give_everybody_a_view(view_registry.clone())),
        );
        let metrics = Metrics::new(&mut Default::default());
        let shared = ServerContext {
            mesh: IstioMesh {
                metrics: metrics.clone(),
                authenticator: Authenticator::new("cluster.local", "cluster.local"),
                act_for: ActFor::default(),
                uses: UsesResolver::default(),
            },
            snapshots: following,
            view_registry: view_registry.clone(),
            interner: Arc::<Interner>::default(),
            frames: Arc::new(FrameBuilder::new("scripted")),
            proxies: proxies.clone(),
            metrics: metrics.server.clone(),
            limits: ServerLimits::default(),
            answered: None,
            shutdown: stop.clone(),
        };
        let descriptors = pilothouse::descriptors::encoded();
        let keepalive = Duration::from_secs(30);
        let server = AdsServer::new(Arc::new(shared), keepalive);
        let server = server.with_reflection(descriptors).unwrap();
        let grpc = listener.local_addr().unwrap();
        let room = ConnectionLimits { total: 1000, per_address: 1000 };
        let listener = LimitedListener::new("gRPC", listener, room);
        let listener = ServedListener::plaintext(listener);
        tokio::spawn(server.run(vec![listener], stop.clone()));
        let sets = Mutex::new(std::array::from_fn(|_| Arc::default()));
        let _stop = stop.drop_guard();
        Self { grpc, proxies, snapshots, sets, _stop }
    }

    /// Puts some resources and takes others away in one snapshot.
    pub(crate) fn publish(&self, changes: impl IntoIterator<Item = Change>) {
        let mut sets = self.sets.lock().unwrap();
        for Change { of, name, message } in changes {
            let resource =
                message.map(|encoded| Resource::from_encoded(of, name.as_str().into(), &encoded));
            let set = &mut sets[of.index()];
            *set = set.with([(name.as_str().into(), resource)]);
        }
        let view = Arc::new(View::new(sets.clone()));
        let key = ViewKey::new(ProxyKind::DEFAULT_STANDALONE, None);
        let views = HashMap::from([(key, view)]);
        self.snapshots.send_replace(Some(Arc::new(Snapshot { views, ..Default::default() })));
    }

    /// The status of a type on the only stream.
    pub(crate) fn status(&self, of: ResourceType) -> Result<TypeStatus, String> {
        match &*self.proxies.all() {
            [one] => Ok(one.status().types[of.index()].clone()),
            other => Err(format!("{} streams", other.len())),
        }
    }
}

/// The view that each says it needs, as there is no mesh for more to follow from.
async fn give_everybody_a_view(view_registry: Arc<ViewRegistry>) {
    loop {
        view_registry.wait_for_changes().await;
        for (need, _) in view_registry.take_changes() {
            view_registry.assign(&need, &Arc::new(need.view.clone()));
        }
    }
}

/// One resource, or that it is gone.
pub(crate) struct Change {
    of: ResourceType,
    name: String,
    message: Option<Vec<u8>>,
}

impl Change {
    fn insert(of: ResourceType, name: &str, message: &impl Message) -> Self {
        Self { of, name: name.to_owned(), message: Some(message.encode_to_vec()) }
    }

    pub(crate) fn gone(of: ResourceType, name: &str) -> Self {
        Self { of, name: name.to_owned(), message: None }
    }

    pub(crate) fn is(&self, of: ResourceType) -> bool {
        self.of == of
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn over_ads() -> Option<ConfigSource> {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    Some(ConfigSource { config_source_specifier: Some(ads), ..Default::default() })
}

/// What `xds:///NAME` asks for; it leads to the route table of the same name.
pub(crate) fn listener(name: &str) -> Change {
    let rds = Rds { config_source: over_ads(), route_config_name: name.to_owned() };
    let router = HttpFilter {
        name: "router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: vec![router],
        ..Default::default()
    };
    let api_listener = Some(ApiListener { api_listener: Some(any(&manager)) });
    let listener = Listener { name: name.to_owned(), api_listener, ..Default::default() };
    Change::insert(LDS, name, &listener)
}

/// A table that leads the methods of service `CLUSTER` to the cluster of that name.
pub(crate) fn routes(name: &str, clusters: &[&str]) -> Change {
    let route = |cluster: &&str| {
        let to = route_action::ClusterSpecifier::Cluster((*cluster).to_owned());
        let prefix = route_match::PathSpecifier::Prefix(format!("/{cluster}/"));
        Route {
            r#match: Some(RouteMatch { path_specifier: Some(prefix), ..Default::default() }),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(to),
                ..Default::default()
            })),
            ..Default::default()
        }
    };
    let host = VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: clusters.iter().map(route).collect(),
        ..Default::default()
    };
    let virtual_hosts = vec![host];
    let table = RouteConfiguration { name: name.to_owned(), virtual_hosts, ..Default::default() };
    Change::insert(RDS, name, &table)
}

pub(crate) fn cluster(name: &str) -> Change {
    clusters(name, over_ads())
}

/// Without a source for its endpoints, which gRPC rejects.
pub(crate) fn bad_cluster(name: &str) -> Change {
    clusters(name, None)
}

fn clusters(name: &str, eds_config: Option<ConfigSource>) -> Change {
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config, ..Default::default() }),
        ..Default::default()
    };
    Change::insert(CDS, name, &cluster)
}

/// One endpoint on 127.0.0.1.
pub(crate) fn endpoints(cluster_name: &str, port: u16) -> Change {
    let address = SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(address)) });
    let endpoint = HostIdentifier::Endpoint(Endpoint { address, ..Default::default() });
    let weight = Some(UInt32Value { value: 1 });
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { zone: "here".to_owned(), ..Default::default() }),
        load_balancing_weight: weight,
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(endpoint),
            load_balancing_weight: weight,
            ..Default::default()
        }],
        ..Default::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: cluster_name.to_owned(),
        endpoints: vec![locality],
        ..Default::default()
    };
    Change::insert(EDS, cluster_name, &assignment)
}

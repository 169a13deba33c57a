//! Envoy's bootstrap: who it is, where the control plane is, and its own listeners for probes and
//! Prometheus. A pure function of the configuration.
//!
//! Shapes are those of Istio's `envoy_bootstrap.json`, except that ADS goes straight to the control
//! plane. How soon a repaired network is noticed, and how 10,000 sidecars are kept from coming back in
//! the same second, is decided by the constants here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use envoy_types::pb::envoy::config::bootstrap::v3::{Admin, Bootstrap, bootstrap};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType,
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, BackoffStrategy, ConfigSource,
    GrpcService, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, KeepaliveSettings,
    Locality, Node, RetryPolicy, SocketAddress, TcpKeepalive, TypedExtensionConfig, address,
    api_config_source, config_source, grpc_service, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::metrics::v3::{StatsConfig, TagSpecifier, tag_specifier};
use envoy_types::pb::envoy::config::overload::v3::{
    OverloadManager, ResourceMonitor, resource_monitor,
};
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value, UInt64Value};
use prost::{Message, Name};

use super::args::Xds;
use super::config::AgentConfig;
use crate::sidecar::host_port::HostPort;
use crate::sidecar::proto_value::to_struct;

mod pages;
mod tls;

use pages::listener_for_page;
pub use tls::secret_files;

/// The cluster of the control plane; Istio's name.
pub const CONTROL_PLANE_CLUSTER: &str = "xds-grpc";
const AGENT_CLUSTER: &str = "agent";
const ADMIN_CLUSTER: &str = "prometheus_stats";

const MS: i64 = 1_000;
/// To the control plane: it is in the same cluster, and a packet that is dropped costs one of these.
const CONNECT_TIMEOUT_MS: i64 = MS;
/// Between two attempts to open the stream: Envoy waits a random time up to an interval that doubles
/// from the first to the second of these. With the second, proxies that lost their control plane are
/// spread over 5 s when it is back, and none is later than that.
const STREAM_RETRY_MS: (i64, i64) = (500, 5 * MS);
/// The same after a DNS failure. With the time that a silent server costs (below), one that was
/// repaired is noticed within 10 s.
const DNS_RETRY_MS: (i64, i64) = (500, 4 * MS);
/// How often the name is looked up while that succeeds, and what is added at random. Not by the
/// answer's TTL: kube-dns may give 5 s, and every sidecar asks for two names of its search list each
/// time, which in a mesh of thousands is most of what kube-dns has to do. 30 s is kubeadm's TTL.
const DNS_REFRESH_MS: i64 = 30 * MS;
const DNS_JITTER_MS: i64 = 3 * MS;
/// c-ares' own patience (5 s, doubled, four times) would be most of a minute for a silent name server.
const DNS_TIMEOUT_S: u64 = 1;
const DNS_TRIES: u32 = 2;
/// A control plane that vanished without a word is noticed within 40 s.
const KEEPALIVE_MS: (i64, i64) = (30 * MS, 10 * MS);

/// The message for this configuration.
pub fn bootstrap(config: &AgentConfig) -> Bootstrap {
    Bootstrap {
        node: Some(node(config)),
        admin: Some(Admin { address: Some(tcp_address(config.admin)), ..Default::default() }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            ads_config: Some(ads_source(config.xds)),
            cds_config: Some(ads_config_source()),
            lds_config: Some(ads_config_source()),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::StaticResources {
            clusters: vec![
                control_plane_cluster(config),
                local_cluster(AGENT_CLUSTER, config.status),
                local_cluster(ADMIN_CLUSTER, config.admin),
            ],
            listeners: vec![
                listener_for_page(
                    "prometheus",
                    config.prometheus,
                    "/stats/prometheus",
                    ADMIN_CLUSTER,
                ),
                listener_for_page("health", config.health, "/healthz/ready", AGENT_CLUSTER),
            ],
            ..Default::default()
        }),
        stats_config: Some(stats_config()),
        overload_manager: Some(overload_manager()),
        // A mesh has thousands of clusters, a proxy talks to a few of them.
        deferred_stat_options: Some(bootstrap::DeferredStatOptions {
            enable_deferred_creation_stats: true,
        }),
        ..Default::default()
    }
}

fn node(config: &AgentConfig) -> Node {
    let node = &config.node;
    let mut metadata = node.metadata.clone();
    config.clusters.add_to(&mut metadata);
    let locality = Locality {
        region: node.region.clone(),
        zone: node.zone.clone(),
        sub_zone: node.sub_zone.clone(),
    };
    Node {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        locality: Some(locality).filter(|locality| *locality != Locality::default()),
        metadata: Some(to_struct(&metadata)),
        ..Default::default()
    }
}

/// One stream for everything, so that clusters, endpoints, listeners and routes come in order.
fn ads_source(xds: Xds) -> ApiConfigSource {
    let api = match xds {
        Xds::Delta => api_config_source::ApiType::DeltaGrpc,
        Xds::Sotw => api_config_source::ApiType::Grpc,
    };
    let (base, most) = STREAM_RETRY_MS;
    let back_off = BackoffStrategy {
        base_interval: Some(milliseconds(base)),
        max_interval: Some(milliseconds(most)),
    };
    let to = grpc_service::EnvoyGrpc {
        cluster_name: CONTROL_PLANE_CLUSTER.to_owned(),
        retry_policy: Some(RetryPolicy { retry_back_off: Some(back_off), ..Default::default() }),
        ..Default::default()
    };
    ApiConfigSource {
        api_type: api.into(),
        transport_api_version: ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(to)),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Without a limit: Envoy would go on with nothing after it, and call that ready.
fn ads_config_source() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(milliseconds(0)),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn control_plane_cluster(config: &AgentConfig) -> Cluster {
    let HostPort { host, port } = &config.discovery;
    let found_by = match config.discovery.address() {
        Some(_) => ClusterDiscoveryType::Type(DiscoveryType::Static.into()),
        None => ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.cluster.dns".to_owned(),
            typed_config: Some(any(&dns_cluster_of(&config.node.addresses))),
        }),
    };
    let (interval, timeout) = KEEPALIVE_MS;
    let keepalive = KeepaliveSettings {
        interval: Some(milliseconds(interval)),
        timeout: Some(milliseconds(timeout)),
        ..Default::default()
    };
    let (credentials, config_dir) = (config.credentials.as_ref(), &config.config_dir);
    let filters = credentials.map(|credentials| tls::http_filters(credentials, config_dir));
    let http2 = HttpProtocolOptions {
        http_filters: filters.unwrap_or_default(),
        // Envoy has one stream here, so this costs nothing; and a stream that was refused is opened
        // again on a new connection, which a Service may lead to another replica. On the old one it
        // would go on to ask the replica that refuses.
        common_http_protocol_options: Some(CommonOptions {
            max_requests_per_connection: Some(uint32(1)),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
                    connection_keepalive: Some(keepalive),
                    ..Default::default()
                })),
            },
        )),
        ..Default::default()
    };
    Cluster {
        connect_timeout: Some(milliseconds(CONNECT_TIMEOUT_MS)),
        cluster_discovery_type: Some(found_by),
        transport_socket: credentials
            .map(|credentials| tls::transport_socket(credentials, config_dir)),
        typed_extension_protocol_options: HashMap::from([(
            HttpProtocolOptions::full_name(),
            any(&http2),
        )]),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_time: Some(UInt32Value { value: 300 }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..static_cluster(CONTROL_PLANE_CLUSTER, host, *port)
    }
}

fn dns_cluster_of(own: &[IpAddr]) -> DnsCluster {
    // Half the questions where the pod could not use half of the answers.
    let family = match (own.iter().any(IpAddr::is_ipv4), own.iter().any(IpAddr::is_ipv6)) {
        (true, false) => DnsLookupFamily::V4Only,
        (false, true) => DnsLookupFamily::V6Only,
        _ => DnsLookupFamily::All,
    };
    let (base, most) = DNS_RETRY_MS;
    let resolver = CaresDnsResolverConfig {
        query_timeout_seconds: Some(UInt64Value { value: DNS_TIMEOUT_S }),
        query_tries: Some(uint32(DNS_TRIES)),
        // A fresh source port for each question: conntrack remembers for every flow where it led, so
        // a socket that is asked from again and again would keep leading to a kube-dns that is gone.
        udp_max_queries: Some(uint32(1)),
        ..Default::default()
    };
    DnsCluster {
        dns_refresh_rate: Some(milliseconds(DNS_REFRESH_MS)),
        dns_jitter: Some(milliseconds(DNS_JITTER_MS)),
        dns_failure_refresh_rate: Some(dns_cluster::RefreshRate {
            base_interval: Some(milliseconds(base)),
            max_interval: Some(milliseconds(most)),
        }),
        dns_lookup_family: family.into(),
        typed_dns_resolver_config: Some(TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(any(&resolver)),
        }),
        ..Default::default()
    }
}

/// Something of this pod itself.
fn local_cluster(name: &str, address: SocketAddr) -> Cluster {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    Cluster {
        connect_timeout: Some(milliseconds(MS)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        ..static_cluster(name, &ip.to_string(), address.port())
    }
}

fn static_cluster(name: &str, host: &str, port: u16) -> Cluster {
    let endpoint = Endpoint { address: Some(socket_address(host, port)), ..Default::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    Cluster {
        name: name.to_owned(),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Connections are the workload's business. Said aloud, since Envoy warns at every start of a pod
/// where nothing is said.
fn overload_manager() -> OverloadManager {
    let limit = DownstreamConnectionsConfig { max_active_downstream_connections: i32::MAX.into() };
    OverloadManager {
        resource_monitors: vec![ResourceMonitor {
            name: "envoy.resource_monitors.global_downstream_max_connections".to_owned(),
            config_type: Some(resource_monitor::ConfigType::TypedConfig(any(&limit))),
        }],
        ..Default::default()
    }
}

/// What of a statistic's name becomes a label. Our names have dots in them and end with `;`
/// (`names::stat_name`), where Envoy's own patterns end at the first dot; those cannot be replaced one
/// by one, so the ones that are of use here are named.
fn stats_config() -> StatsConfig {
    let own = [
        ("cluster_name", r"^cluster\.((outbound\|[^;]*|inbound\|[^;]*|[^.;]+);?\.)"),
        ("http_conn_manager_prefix", r"^http\.((outbound_[^;]*|inbound_[^;]*|[^.;]+);?\.)"),
        ("rds_route_config", r"^http\..+?\.rds\.((.+?)\.)\w+$"),
        ("tcp_prefix", r"^tcp\.((.+?);?\.)\w+$"),
    ];
    let envoys =
        ["listener_address", "response_code", "response_code_class", "virtual_host", "worker_id"];
    let tag = |name: &str, pattern: Option<&str>| TagSpecifier {
        tag_name: format!("envoy.{name}"),
        tag_value: pattern.map(|pattern| tag_specifier::TagValue::Regex(pattern.to_owned())),
    };
    let own = own.map(|(name, pattern)| tag(name, Some(pattern)));
    StatsConfig {
        use_all_default_tags: Some(BoolValue { value: false }),
        stats_tags: own.into_iter().chain(envoys.map(|name| tag(name, None))).collect(),
        ..Default::default()
    }
}

fn tcp_address(address: SocketAddr) -> Address {
    socket_address(&address.ip().to_string(), address.port())
}

fn socket_address(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            // What is for IPv6's wildcard is for both families.
            ipv4_compat: host == "::",
            ..Default::default()
        })),
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn milliseconds(ms: i64) -> Duration {
    Duration { seconds: ms / 1_000, nanos: (ms % 1_000 * 1_000_000) as i32 }
}

fn uint32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

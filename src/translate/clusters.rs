//! Clusters: one per served port of a service, and the three that every proxy has.
//!
//! A service's traffic policy (load balancing, timeouts, limits) applies to its clusters; the defaults
//! are Istio's.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType, EdsClusterConfig,
    LbPolicy, LbSubsetConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, BindConfig, Http1ProtocolOptions, Http2ProtocolOptions, SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::BoolValue;
use prost::Name;

use super::{
    HOSTNAME_KEY, ads_config_source, proto_duration, served_ports, socket_address, to_any,
    uint32_value,
};
use crate::model::{LoadBalancing, Service, ServiceKind, ServicePort, TrafficPolicy};
use crate::names;
use crate::view::{InboundPort, InboundProtocol};

/// The source address of what the proxy itself sends to its workload, by which iptables tells it
/// from the workload's own connections to itself (Istio's `InboundPassthroughBindIpv4`).
const INBOUND_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));

/// The clusters that do not depend on any service.
pub fn fixed_clusters() -> Vec<Cluster> {
    let black_hole = new_cluster(names::BLACK_HOLE_CLUSTER, DiscoveryType::Static);
    let passthrough = original_destination(names::PASSTHROUGH_CLUSTER);
    vec![black_hole, passthrough, workload_cluster(names::INBOUND_PASSTHROUGH_CLUSTER)]
}

/// The cluster that goes where the captured connection was meant to go, under another name. Its statistics are those of the
/// one under its own.
pub fn passthrough_under(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        alt_stat_name: names::PASSTHROUGH_CLUSTER.to_owned(),
        ..original_destination(names::PASSTHROUGH_CLUSTER)
    }
}

/// The encoded field with the name of a `Cluster`. That of a `ClusterLoadAssignment` with its cluster's name has the same
/// number.
pub fn name_field(name: &str) -> Vec<u8> {
    prost::Message::encode_to_vec(&Cluster { name: name.to_owned(), ..Default::default() })
}

/// The cluster of a sidecar's inbound filter chain for this port: the workload beside it, at the address
/// that the client connected to.
pub fn inbound_cluster(port: &InboundPort) -> Cluster {
    let name = names::inbound_cluster(port.port);
    let mut cluster = workload_cluster(&name);
    cluster.alt_stat_name = names::stat_name(&name);
    match port.protocol {
        // HTTP/1.1 is Envoy's default; TCP needs no protocol.
        InboundProtocol::Http | InboundProtocol::Tcp => {}
        InboundProtocol::Http2 | InboundProtocol::Grpc => {
            set_upstream_protocol(&mut cluster, http2_upstream())
        }
    }
    cluster
}

fn workload_cluster(name: &str) -> Cluster {
    let source_address = Some(socket_address(INBOUND_SOURCE, 0));
    Cluster {
        upstream_bind_config: Some(BindConfig { source_address, ..Default::default() }),
        ..original_destination(name)
    }
}

/// One cluster per served port, in the order of the ports. Its endpoints are sent over EDS under the
/// cluster's name; an ExternalName service is resolved by DNS. An alias within the mesh has no cluster,
/// nor has a TCP port of a service without a cluster IP.
pub fn service_clusters(service: &Service, domain: &str) -> Vec<Cluster> {
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    served_ports(service).map(|port| port_cluster(service, &host, port)).collect()
}

fn port_cluster(service: &Service, host: &str, port: &ServicePort) -> Cluster {
    let name = names::outbound_cluster(port.port, host);
    let mut cluster = new_cluster(&name, DiscoveryType::Eds);
    match &service.kind {
        ServiceKind::ExternalName(outside) => resolve_by_dns(&mut cluster, outside, port.port),
        _ => {
            cluster.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(ads_config_source()),
                ..Default::default()
            });
        }
    }
    if service.kind == ServiceKind::Headless {
        cluster.lb_subset_config = Some(pod_name_subsets());
    }
    cluster.alt_stat_name = names::stat_name(&name);
    apply_traffic_policy(&mut cluster, &service.traffic_policy);
    // Only usable endpoints are sent, so Envoy must never panic, that is, use the ejected ones as well
    // because too few are healthy.
    cluster.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..Default::default()
    });
    if port.protocol.is_http2() {
        set_upstream_protocol(&mut cluster, http2_upstream());
    }
    cluster
}

/// Makes the cluster resolve `outside` by DNS: one logical host with all addresses of both families, which
/// Envoy tries in turn as any client would. Connections stay open when DNS rotates the addresses.
fn resolve_by_dns(cluster: &mut Cluster, outside: &str, port: u16) {
    let dns = DnsCluster {
        respect_dns_ttl: true,
        dns_lookup_family: DnsLookupFamily::All.into(),
        all_addresses_in_single_endpoint: true,
        ..Default::default()
    };
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: "envoy.clusters.dns".to_owned(),
        typed_config: Some(to_any(&dns)),
    }));
    // A name that does not resolve must not hold up everything else.
    cluster.wait_for_warm_on_init = Some(BoolValue { value: false });
    // A CNAME is absolute. Without the dot a resolver tries the pod's search domains first, where
    // whoever owns a namespace called `com` could answer for example.com.
    let address = SocketAddress {
        address: format!("{outside}."),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    let address = Address { address: Some(address::Address::SocketAddress(address)) };
    let endpoint = Endpoint { address: Some(address), ..Default::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    cluster.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: cluster.name.clone(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    });
}

/// Subsets by the pod's name: a request that carries one (see `routes`) goes to that pod's endpoint and to
/// no other; a request without goes to any endpoint. A new pod changes its endpoints only.
fn pod_name_subsets() -> LbSubsetConfig {
    LbSubsetConfig {
        fallback_policy: LbSubsetFallbackPolicy::AnyEndpoint.into(),
        subset_selectors: vec![LbSubsetSelector {
            keys: vec![HOSTNAME_KEY.to_owned()],
            fallback_policy: LbSubsetSelectorFallbackPolicy::NoFallback.into(),
            single_host_per_subset: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn apply_traffic_policy(cluster: &mut Cluster, policy: &TrafficPolicy) {
    let lb_policy = match policy.load_balancing {
        LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
        LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
        LoadBalancing::Random => LbPolicy::Random,
        LoadBalancing::ClientIpRing => LbPolicy::RingHash,
        LoadBalancing::ClientIpMaglev => LbPolicy::Maglev,
    };
    cluster.lb_policy = lb_policy.into();
    if let Some(timeout) = policy.connect_timeout {
        cluster.connect_timeout = Some(proto_duration(timeout));
    }
    // Envoy's default of 1,024 connections and requests would be a limit that nobody asked for.
    let or_most = |limit: Option<u32>| Some(uint32_value(limit.unwrap_or(u32::MAX)));
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: or_most(policy.circuit_breakers.connections),
            max_pending_requests: or_most(policy.circuit_breakers.pending_requests),
            max_requests: or_most(policy.circuit_breakers.requests),
            max_retries: or_most(policy.circuit_breakers.retries),
            ..Default::default()
        }],
        ..Default::default()
    });
    cluster.outlier_detection = policy.outlier_detection.map(|outliers| OutlierDetection {
        consecutive_5xx: outliers.consecutive_errors.map(uint32_value),
        interval: outliers.interval.map(proto_duration),
        base_ejection_time: outliers.ejection_time.map(proto_duration),
        max_ejection_percent: outliers.max_ejected.map(uint32_value),
        // Only what was asked for: Envoy compares success rates as well by default.
        enforcing_success_rate: Some(uint32_value(0)),
        ..Default::default()
    });
}

fn new_cluster(name: &str, discovery: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(proto_duration(TrafficPolicy::CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        ..Default::default()
    }
}

fn original_destination(name: &str) -> Cluster {
    let mut cluster = new_cluster(name, DiscoveryType::OriginalDst);
    apply_traffic_policy(&mut cluster, &TrafficPolicy::default());
    cluster.lb_policy = LbPolicy::ClusterProvided.into();
    // Nothing is known of the other side, so what the client speaks is the best guess.
    set_upstream_protocol(
        &mut cluster,
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..Default::default()
        }),
    );
    cluster
}

fn http2_upstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(
            ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()),
        ),
    })
}

fn set_upstream_protocol(cluster: &mut Cluster, protocol: UpstreamProtocolOptions) {
    let options =
        HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    cluster
        .typed_extension_protocol_options
        .insert(HttpProtocolOptions::full_name(), to_any(&options));
}

#[cfg(test)]
mod tests;

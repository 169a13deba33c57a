//! Clusters: one per served port of a service, and the three that every proxy has.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{
    BindConfig, Http1ProtocolOptions, Http2ProtocolOptions,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use prost::Name;

use super::{any, number, over_ads, seconds, served_ports, socket_address};
use crate::model::{Service, ServicePort};
use crate::names;
use crate::view::{InboundPort, InboundProtocol};

const CONNECT_TIMEOUT_SECONDS: i64 = 10;
/// The source address of what the proxy itself sends to its workload, by which iptables tells it
/// from the workload's own connections to itself (Istio's `InboundPassthroughBindIpv4`).
const INBOUND_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));

/// The clusters that do not depend on any service.
pub fn fixed() -> Vec<Cluster> {
    let black_hole = named(names::BLACK_HOLE_CLUSTER, DiscoveryType::Static);
    let passthrough = original_destination(names::PASSTHROUGH_CLUSTER);
    vec![black_hole, passthrough, to_workload(names::INBOUND_PASSTHROUGH_CLUSTER)]
}

/// What a sidecar's inbound chain of this port leads to: the workload beside it, at whichever of
/// its addresses was called.
pub fn inbound(port: &InboundPort) -> Cluster {
    let name = names::inbound_cluster(port.port);
    let mut cluster = to_workload(&name);
    cluster.alt_stat_name = names::stat_name(&name);
    match port.protocol {
        // The protocol is known, or the client's will do; for TCP it says nothing.
        InboundProtocol::Http | InboundProtocol::Tcp => {}
        InboundProtocol::Http2 | InboundProtocol::Grpc => speak(&mut cluster, http2()),
    }
    cluster
}

fn to_workload(name: &str) -> Cluster {
    let source_address = Some(socket_address(INBOUND_SOURCE, 0));
    Cluster {
        upstream_bind_config: Some(BindConfig { source_address, ..Default::default() }),
        ..original_destination(name)
    }
}

/// One cluster per served port, in the order of the ports; its endpoints come over EDS under the
/// cluster's own name. None for an alias, none for the TCP ports of a headless service.
pub fn of_service(service: &Service, domain: &str) -> Vec<Cluster> {
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    served_ports(service).map(|port| of_port(&host, port)).collect()
}

fn of_port(host: &str, port: &ServicePort) -> Cluster {
    let name = names::outbound_cluster(port.port, host);
    let mut cluster = named(&name, DiscoveryType::Eds);
    cluster.alt_stat_name = names::stat_name(&name);
    cluster.lb_policy = LbPolicy::LeastRequest.into();
    cluster.eds_cluster_config =
        Some(EdsClusterConfig { eds_config: Some(over_ads()), ..Default::default() });
    cluster.circuit_breakers = Some(unlimited());
    // Endpoints are sent only if they are usable, so "too few look healthy" must never turn into
    // "use them all".
    cluster.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..Default::default()
    });
    if port.protocol.is_http2() {
        speak(&mut cluster, http2());
    }
    cluster
}

fn named(name: &str, discovery: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(seconds(CONNECT_TIMEOUT_SECONDS)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        ..Default::default()
    }
}

fn original_destination(name: &str) -> Cluster {
    let mut cluster = named(name, DiscoveryType::OriginalDst);
    cluster.lb_policy = LbPolicy::ClusterProvided.into();
    cluster.circuit_breakers = Some(unlimited());
    // Nothing is known of the other side, so what the client speaks is the best guess.
    speak(
        &mut cluster,
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..Default::default()
        }),
    );
    cluster
}

fn http2() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(
            ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()),
        ),
    })
}

fn speak(cluster: &mut Cluster, protocol: UpstreamProtocolOptions) {
    let options =
        HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    cluster
        .typed_extension_protocol_options
        .insert(HttpProtocolOptions::full_name(), any(&options));
}

/// Envoy's default of 1,024 connections and requests would be a limit that nobody asked for.
fn unlimited() -> CircuitBreakers {
    let most = Some(number(u32::MAX));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: most,
            max_pending_requests: most,
            max_requests: most,
            max_retries: most,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;

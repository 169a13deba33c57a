//! The routes of a workload's own port, inline in its filter chain.

use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, RouteAction, RouteConfiguration, VirtualHost, route_action,
};
use envoy_types::pb::google::protobuf::BoolValue;

use super::{catch_all_route, seconds, uint32_value};
use crate::names;
use crate::view::{InboundPort, InboundProtocol};

/// Routes every Host to the workload.
pub fn inbound_routes(port: &InboundPort) -> RouteConfiguration {
    let cluster = names::inbound_cluster(port.port);
    let action = RouteAction {
        // No timeout except the client's.
        timeout: Some(seconds(0)),
        // Istio's: a request that the workload has not seen is retried on a new connection; all other
        // retries are the client side's. gRPC clients retry by themselves.
        retry_policy: (port.protocol != InboundProtocol::Grpc).then(|| RetryPolicy {
            retry_on: "reset-before-request".to_owned(),
            num_retries: Some(uint32_value(2)),
            ..Default::default()
        }),
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.clone())),
        ..Default::default()
    };
    RouteConfiguration {
        name: cluster,
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{}", port.port),
            domains: vec!["*".to_owned()],
            routes: vec![catch_all_route("default", action)],
            ..Default::default()
        }],
        // Clusters are sent first, but a cluster that is updated must not get the listener rejected.
        validate_clusters: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_led_to_the_workload_and_repeated_only_if_it_was_not_seen() {
        for (protocol, retried) in [
            (InboundProtocol::Http, true),
            (InboundProtocol::Http2, true),
            (InboundProtocol::Grpc, false),
        ] {
            let table = inbound_routes(&InboundPort::new(8080, protocol));
            assert_eq!(table.name, "inbound|8080||");
            let [host] = table.virtual_hosts.as_slice() else { panic!("{table:?}") };
            assert_eq!(
                (host.name.as_str(), host.domains.as_slice()),
                ("inbound|http|8080", &["*".to_owned()][..])
            );
            let [route] = host.routes.as_slice() else { panic!("{host:?}") };
            let Some(envoy_types::pb::envoy::config::route::v3::route::Action::Route(action)) =
                &route.action
            else {
                panic!("{route:?}")
            };
            assert_eq!(action.timeout, Some(seconds(0)));
            let to = route_action::ClusterSpecifier::Cluster("inbound|8080||".to_owned());
            assert_eq!(action.cluster_specifier, Some(to));
            let retry = action.retry_policy.as_ref().map(|policy| policy.retry_on.as_str());
            assert_eq!(retry, retried.then_some("reset-before-request"));
        }
    }
}

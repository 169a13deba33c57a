//! Where requests of a rule are forwarded to, and for how long.

use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, RouteAction, WeightedCluster};

use super::Called;
use super::filters::Filters;
use super::headers::HeaderChanges;
use crate::model::Service;
use crate::model::route::{Backend, BackendRef, ResolvedBackends, RouteKind, RouteRule};
use crate::names;
use crate::translate::routes::{route_action, source_address_hash};
use crate::translate::{hashes_clients, proto_duration, uint32_value};

pub(super) struct Forward {
    pub(super) action: RouteAction,
    /// The rule's header modifiers stand at its backends, so that the route must not repeat them.
    pub(super) has_header_changes: bool,
}

/// None if no backend of the rule is valid and has a weight.
pub(super) fn forwarding(
    called: Called<'_>,
    rule: &RouteRule,
    resolved: &ResolvedBackends,
) -> Option<Forward> {
    let shares = Shares::of(rule, resolved);
    if shares.valid.is_empty() {
        return None;
    }
    let has_header_changes = shares.valid.iter().any(|one| !one.backend.filters.is_empty());
    let specifier = match shares.valid.as_slice() {
        [only] if shares.invalid == 0 && !has_header_changes => {
            ClusterSpecifier::Cluster(only.cluster(called))
        }
        _ => ClusterSpecifier::WeightedClusters(weighted_cluster(
            called,
            rule,
            &shares,
            has_header_changes,
        )),
    };
    let mut action = route_action(called.kind, &called.service.traffic_policy, specifier);
    if shares.invalid > 0 {
        action.cluster_not_found_response_code = invalid_code(called.routes).into();
    }
    // Which endpoint a request gets is the cluster's decision, and the hash is for those that want one.
    let hashes = |one: &Share<'_>| hashes_clients(called.kind, &one.service.traffic_policy);
    action.hash_policy =
        shares.valid.iter().any(hashes).then(source_address_hash).into_iter().collect();
    set_timeouts(&mut action, rule);
    Some(Forward { action, has_header_changes })
}

/// To the cluster that does not exist, with its answer.
pub(super) fn nowhere(routes: RouteKind) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(
            names::INVALID_BACKEND_CLUSTER.to_owned(),
        )),
        cluster_not_found_response_code: invalid_code(routes).into(),
        ..Default::default()
    }
}

/// For a gRPC request Envoy turns the 503 into the status UNAVAILABLE.
fn invalid_code(routes: RouteKind) -> ClusterNotFoundResponseCode {
    match routes {
        RouteKind::Http => ClusterNotFoundResponseCode::InternalServerError,
        RouteKind::Grpc => ClusterNotFoundResponseCode::ServiceUnavailable,
    }
}

/// A valid backend with a weight.
struct Share<'a> {
    backend: &'a Backend,
    service: &'a Service,
    port: u16,
}

impl Share<'_> {
    fn cluster(&self, called: Called<'_>) -> String {
        backend_cluster(self.service, self.port, called.domain)
    }
}

struct Shares<'a> {
    valid: Vec<Share<'a>>,
    /// The weight of all backends that are not valid.
    invalid: u32,
}

impl<'a> Shares<'a> {
    /// Backends with the weight 0 have no part in it, valid or not.
    fn of(rule: &'a RouteRule, resolved: &'a ResolvedBackends) -> Self {
        let mut shares = Self { valid: Vec::new(), invalid: 0 };
        for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
            match resolve(&backend.target, resolved) {
                Some((service, port)) => shares.valid.push(Share { backend, service, port }),
                None => shares.invalid = shares.invalid.saturating_add(backend.weight),
            }
        }
        shares
    }
}

/// The Service and the port that a backend or a mirror names, if it is valid.
pub(super) fn resolve<'a>(
    target: &BackendRef,
    resolved: &'a ResolvedBackends,
) -> Option<(&'a Service, u16)> {
    let BackendRef::Service { port, .. } = target else { return None };
    let service = resolved.get(target)?.as_ref().ok()?;
    Some((service, *port))
}

pub(super) fn backend_cluster(service: &Service, port: u16, domain: &str) -> String {
    names::outbound_cluster(port, &names::host(&service.key.name, &service.key.namespace, domain))
}

/// The share of invalid backends goes to a cluster that does not exist.
fn weighted_cluster(
    called: Called<'_>,
    rule: &RouteRule,
    shares: &Shares<'_>,
    has_header_changes: bool,
) -> WeightedCluster {
    let rule_filters = Filters::of(&rule.filters);
    let valid = shares.valid.iter().map(|share| {
        let mut cluster = cluster_weight(share.cluster(called), share.backend.weight);
        if has_header_changes {
            let filters = Filters::of(&share.backend.filters);
            let request = rule_filters.request.into_iter().chain(filters.request);
            let response = rule_filters.response.into_iter().chain(filters.response);
            let (request, response) = (HeaderChanges::of(request), HeaderChanges::of(response));
            cluster.request_headers_to_remove = request.remove;
            cluster.request_headers_to_add = request.add;
            cluster.response_headers_to_remove = response.remove;
            cluster.response_headers_to_add = response.add;
        }
        cluster
    });
    let invalid = (shares.invalid > 0)
        .then(|| cluster_weight(names::INVALID_BACKEND_CLUSTER.to_owned(), shares.invalid));
    WeightedCluster { clusters: valid.chain(invalid).collect(), ..Default::default() }
}

fn cluster_weight(name: String, weight: u32) -> ClusterWeight {
    ClusterWeight { name, weight: Some(uint32_value(weight)), ..Default::default() }
}

/// What the rule says; what it does not say, the called Service's annotations have said already.
fn set_timeouts(action: &mut RouteAction, rule: &RouteRule) {
    if let Some(timeout) = rule.request_timeout {
        action.timeout = Some(proto_duration(timeout));
    }
    if let Some(timeout) = rule.backend_timeout.filter(|timeout| !timeout.is_zero()) {
        // Without retries it is a policy of no attempt after the first, for the sake of its timeout.
        let policy = action.retry_policy.get_or_insert_with(|| RetryPolicy {
            num_retries: Some(uint32_value(0)),
            ..Default::default()
        });
        policy.per_try_timeout = Some(proto_duration(timeout));
    }
}

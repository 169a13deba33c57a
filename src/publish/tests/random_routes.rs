//! Random routes and grants, and what must be true of the routes in every snapshot.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route as EnvoyRoute, RouteAction};
use pilothouse_xds::View;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::random::some_key;
use super::{DOMAIN, table};
use crate::model::route::{
    AcceptedReason, Backend, BackendRef, Mirror, ParentRef, ParentTarget, PathMatch, Refusal,
    RouteFilter, RouteMatch, RouteRule,
};
use crate::model::{Change, Model, ReferenceGrant, Route, RouteKey, RouteKind};
use crate::names::{self, ClusterName, ResourceType};
use crate::snapshot::Snapshot;

fn some_kind() -> impl Strategy<Value = RouteKind> {
    select(&RouteKind::ALL[..])
}

fn some_route_key() -> impl Strategy<Value = RouteKey> {
    (some_kind(), select(vec!["one", "two"]), select(vec!["r", "s", "t"]))
        .prop_map(|(kind, namespace, name)| RouteKey::new(kind, namespace, name))
}

fn some_parent() -> impl Strategy<Value = ParentRef> {
    let target = prop_oneof![
        8 => some_key().prop_map(ParentTarget::Service),
        1 => Just(ParentTarget::Other {
            group: "gateway.networking.k8s.io".into(),
            kind: "Gateway".into(),
            namespace: "one".into(),
            name: "door".into(),
        }),
    ];
    let port = select(vec![None, None, Some(80), Some(90), Some(15001)]);
    let name = select(vec![None, None, None, Some("p90")]);
    (target, port, name).prop_map(|(target, port, name)| ParentRef {
        target,
        namespace: None,
        section_name: name.map(Into::into),
        port,
    })
}

fn some_backend_ref() -> impl Strategy<Value = BackendRef> {
    let other = BackendRef::Other {
        group: "".into(),
        kind: "Pod".into(),
        namespace: "one".into(),
        name: "p".into(),
    };
    prop_oneof![
        8 => (some_key(), select(vec![80, 90, 7]))
            .prop_map(|(key, port)| BackendRef::Service { key, port }),
        1 => Just(other),
    ]
}

fn some_rule() -> impl Strategy<Value = RouteRule> {
    let backend = (some_backend_ref(), 0u32..3).prop_map(|(target, weight)| Backend {
        target,
        weight,
        filters: Vec::new(),
    });
    let mirror = some_backend_ref()
        .prop_map(|backend| RouteFilter::Mirror(Mirror { backend, numerator: 1, denominator: 2 }));
    let path = select(vec!["/", "/a", "/a/b"]);
    let backends = proptest::collection::vec(backend, 0..3);
    (path, proptest::collection::vec(mirror, 0..2), backends).prop_map(
        |(path, filters, backends)| RouteRule {
            name: None,
            matches: vec![RouteMatch { path: PathMatch::Prefix(path.into()), ..RouteMatch::any() }],
            filters,
            backends,
            request_timeout: None,
            backend_timeout: None,
        },
    )
}

fn some_route() -> impl Strategy<Value = Route> {
    let parents = proptest::collection::vec(some_parent(), 1..4);
    let rules = proptest::collection::vec(some_rule(), 1..3);
    let created = select(vec!["2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"]);
    (some_route_key(), created, parents, rules, 0..8).prop_map(
        |(key, created, parents, rules, refused)| {
            let refusal = (refused == 0).then(|| Refusal {
                reason: AcceptedReason::UnsupportedValue,
                message: "no".into(),
            });
            let rules = if refusal.is_some() { Vec::new() } else { rules };
            Route {
                key,
                created: created.into(),
                generation: Some(1),
                parents,
                rules,
                refusal,
                resource_version: "".into(),
            }
        },
    )
}

fn some_grant() -> impl Strategy<Value = ReferenceGrant> {
    let from = (some_kind(), select(vec!["one", "two"]));
    let to = select(vec![None, Some("a"), Some("b")]);
    (select(vec!["one", "two"]), from, to).prop_map(|(namespace, (kind, own), to)| ReferenceGrant {
        namespace: namespace.into(),
        name: "g".into(),
        from: vec![(kind, own.into())],
        to: vec![to.map(Arc::from)],
    })
}

pub(super) fn some_route_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => some_route().prop_map(Change::Route),
        2 => some_route_key().prop_map(Change::RouteGone),
        2 => some_grant().prop_map(Change::Grant),
        1 => select(vec!["one", "two"]).prop_map(|namespace| Change::GrantGone {
            namespace: namespace.into(),
            name: "g".into(),
        }),
        1 => subsequence(RouteKind::ALL.to_vec(), 1)
            .prop_map(|kind| Change::Routes(crate::model::Scope::All, kind[0], Vec::new())),
    ]
}

/// Envoy's routes in all tables of a view.
pub(super) fn envoy_routes(view: &View) -> Vec<EnvoyRoute> {
    let tables = view.set(ResourceType::Route).iter();
    let hosts = tables.flat_map(|one| table(view, &one.name).virtual_hosts);
    hosts.flat_map(|host| host.routes).collect()
}

pub(super) fn clusters_of(action: &RouteAction) -> Vec<String> {
    let mirrors = action.request_mirror_policies.iter().map(|mirror| mirror.cluster.clone());
    let to = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name.clone()],
        Some(ClusterSpecifier::WeightedClusters(all)) => {
            all.clusters.iter().map(|one| one.name.clone()).collect()
        }
        // By address: for whatever is there, or nobody.
        Some(ClusterSpecifier::ClusterHeader(_)) => Vec::new(),
        other => panic!("{other:?}"),
    };
    to.into_iter().chain(mirrors).collect()
}

/// Clusters that routes name and that their view does not have, the one for backends that are not there and those
/// of Services that the view's namespace does not see excepted.
pub(super) fn missing_clusters(snapshot: &Snapshot, model: &Model) -> Vec<String> {
    let mut missing = Vec::new();
    for (key, view) in &snapshot.views {
        for route in envoy_routes(view) {
            let Some(Action::Route(action)) = &route.action else { continue };
            for name in clusters_of(action) {
                // Of a mirror on demand.
                let of_service = name.replacen("mirror|", names::OUTBOUND, 1);
                let hidden = match ClusterName::parse(&of_service) {
                    Some(ClusterName::Outbound { host, .. }) => {
                        let (name, namespace) = names::service_of_host(host, DOMAIN).unwrap();
                        let service = model.service(&super::key(namespace, name));
                        service.is_some_and(|one| !one.export_to.reaches(key.namespace.as_deref()))
                    }
                    _ => name == names::INVALID_BACKEND_CLUSTER,
                };
                if !hidden && view.set(ResourceType::Cluster).get(&name).is_none() {
                    missing.push(format!("{key}: {name}"));
                }
            }
        }
    }
    missing
}

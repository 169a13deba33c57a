//! The HTTPRoutes and GRPCRoutes that name a service as a parent, with what the control plane has written into their
//! status.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Error};
use serde_json::Value;

use super::{ApiResult, api_error};
use crate::sidecar::doctor::routes::{Problem, RouteView};

/// Whose entries in a status are the control plane's.
const CONTROLLER: &str = "pilothouse.io/mesh";
const KINDS: [(&str, &str); 2] = [("GRPCRoute", "grpcroutes"), ("HTTPRoute", "httproutes")];
/// Routes of one kind and namespace that are looked at.
const MAX_ROUTES: u32 = 500;
/// So long it may take until the control plane has seen a route, or its CRD, and has said so.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// Those of the service's own namespace and of its client's. Where the CRDs are not installed there are none.
pub(super) async fn routes_of_service(
    client: &Client,
    (name, namespace): (&str, &str),
    of_client: Option<&str>,
) -> ApiResult<Vec<RouteView>> {
    let others = of_client.filter(|of_client| *of_client != namespace);
    let places = std::iter::once(namespace).chain(others);
    let lists = places.flat_map(|place| KINDS.map(|kind| (place, kind)));
    let lists = lists.map(async |(place, (kind, plural))| {
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "gateway.networking.k8s.io/v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), place, &resource);
        let listed = match api.list(&ListParams::default().limit(MAX_ROUTES)).await {
            Err(Error::Api(status)) if status.code == 404 => Vec::new(),
            listed => listed.map_err(api_error)?.items,
        };
        let now = Timestamp::now();
        let views = listed.iter().filter_map(|route| view(route, kind, (name, namespace), now));
        Ok::<Vec<_>, String>(views.collect())
    });
    let listed = futures::future::join_all(lists).await;
    Ok(listed.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// A route, if the service is a parent of it.
fn view(
    route: &DynamicObject,
    kind: &str,
    service: (&str, &str),
    now: Timestamp,
) -> Option<RouteView> {
    let metadata = &route.metadata;
    let own = metadata.namespace.as_deref().unwrap_or_default();
    let parents = route.data["spec"]["parentRefs"].as_array()?;
    parents.iter().find(|parent| is_service(parent, own, service))?;
    let name = format!("{kind} {own}/{}", metadata.name.as_deref().unwrap_or_default());
    let entries = route.data["status"]["parents"].as_array().into_iter().flatten();
    let mut entries = entries
        .filter(|one| one["controllerName"] == CONTROLLER)
        .filter(|one| is_service(&one["parentRef"], own, service))
        .peekable();
    let is_said = entries.peek().is_some();
    let problems = entries.filter_map(|entry| problem(&name, entry)).collect();
    let created = metadata.creation_timestamp.as_ref();
    Some(RouteView {
        route: name,
        namespace: own.to_owned(),
        is_settled: created.is_some_and(|at| now.duration_since(at.0) > SETTLES_WITHIN),
        problems: is_said.then_some(problems),
    })
}

fn is_service(parent: &Value, own_namespace: &str, (name, namespace): (&str, &str)) -> bool {
    parent["kind"] == "Service"
        && parent["group"] == ""
        && parent["name"] == name
        && parent["namespace"].as_str().unwrap_or(own_namespace) == namespace
}

/// The first condition that does not hold.
fn problem(route: &str, entry: &Value) -> Option<Problem> {
    let conditions = entry["conditions"].as_array()?;
    [("Accepted", false), ("ResolvedRefs", true)].into_iter().find_map(|(kind, accepted)| {
        let condition =
            conditions.iter().find(|one| one["type"] == kind && one["status"] == "False")?;
        Some(Problem {
            route: route.to_owned(),
            accepted,
            reason: condition["reason"].as_str().unwrap_or_default().to_owned(),
            message: condition["message"].as_str().unwrap_or_default().to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(parents: &Value, status: &Value, at: &str) -> Option<RouteView> {
        let route = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "split", "namespace": "a", "creationTimestamp": "2026-01-02T03:04:05Z" },
            "spec": { "parentRefs": parents }, "status": { "parents": status },
        }));
        view(&route.unwrap(), "HTTPRoute", ("reviews", "shop"), at.parse().unwrap())
    }

    #[test]
    fn routes_of_the_service_are_told_from_others() {
        let later = "2026-01-02T04:00:00Z";
        let parent = |kind: &str, name: &str, namespace: Value| json!([{ "group": "", "kind": kind, "name": name, "namespace": namespace }]);
        let own = parent("Service", "reviews", json!("shop"));
        let found = seen(&own, &json!([]), later).unwrap();
        assert_eq!(found.route, "HTTPRoute a/split");
        assert!(found.is_settled && found.problems.is_none());
        assert!(!seen(&own, &json!([]), "2026-01-02T03:05:00Z").unwrap().is_settled);
        for other in [
            parent("Service", "reviews", Value::Null),
            parent("Service", "ratings", json!("shop")),
            parent("Gateway", "reviews", json!("shop")),
        ] {
            assert_eq!(seen(&other, &json!([]), later), None);
        }
    }

    #[test]
    fn the_control_planes_own_entry_counts_and_the_first_condition_that_does_not_hold() {
        let parent =
            json!({ "group": "", "kind": "Service", "name": "reviews", "namespace": "shop" });
        let problems = |controller: &str, accepted: &str, refs: &str| {
            let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": format!("{kind}X"), "message": "m" });
            let conditions = [condition("Accepted", accepted), condition("ResolvedRefs", refs)];
            let status = json!([{
                "controllerName": controller, "parentRef": parent, "conditions": conditions,
            }]);
            let view = seen(&json!([parent]), &status, "2026-01-02T04:00:00Z").unwrap();
            view.problems.map(|all| all.into_iter().map(|one| one.reason).collect::<Vec<_>>())
        };
        assert_eq!(problems("example.com/x", "False", "False"), None);
        assert_eq!(problems(CONTROLLER, "True", "True"), Some(Vec::new()));
        assert_eq!(problems(CONTROLLER, "True", "False"), Some(vec!["ResolvedRefsX".to_owned()]));
        assert_eq!(problems(CONTROLLER, "False", "False"), Some(vec!["AcceptedX".to_owned()]));
    }
}

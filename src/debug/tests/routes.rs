//! Routes: which apply to whom, and why one does not.

use std::collections::BTreeMap;

use super::*;
use crate::model::route::{
    AcceptedReason, AppliedRoute, Backend, BackendProblem, BackendRef, HeaderModifier, Mirror,
    NameMatch, ParentRef, ParentTarget, ParentVerdict, PathMatch, PathModifier, PortRules,
    Redirect, RefsReason, RouteFilter, RouteMatch, RouteRole, RouteRule, RouteVerdict,
    ServiceRules, TextMatch, Verdict,
};
use crate::model::{Route, RouteKey, RouteKind};

fn http(namespace: &str, name: &str) -> RouteKey {
    RouteKey::new(RouteKind::Http, namespace, name)
}

fn backend(name: &str, weight: u32) -> Backend {
    let target = BackendRef::Service { key: ServiceKey::new("default", name), port: 9080 };
    Backend { target, weight, filters: Vec::new() }
}

fn route(key: RouteKey, rules: Vec<RouteRule>) -> Arc<Route> {
    Arc::new(Route {
        created: "2026-01-02T03:04:05Z".into(),
        generation: Some(3),
        resource_version: "7".into(),
        ..Route::new(key, rules)
    })
}

fn rule(backends: Vec<Backend>) -> RouteRule {
    RouteRule {
        name: None,
        matches: vec![RouteMatch::any()],
        filters: Vec::new(),
        backends,
        request_timeout: None,
        backend_timeout: None,
    }
}

fn at(
    target: ParentTarget,
    role: Option<RouteRole>,
    accepted: AcceptedReason,
    refs: RefsReason,
) -> ParentVerdict {
    let reviews = ParentRef { target, namespace: None, section_name: None, port: Some(9080) };
    ParentVerdict {
        parent: reviews,
        role,
        accepted: Verdict { reason: accepted, message: "why it is so".into() },
        resolved_refs: Verdict { reason: refs, message: "which are there".into() },
        ports: if accepted.is_accepted() && role.is_some() { vec![9080] } else { Vec::new() },
    }
}

fn verdict(parents: Vec<ParentVerdict>) -> Arc<RouteVerdict> {
    let created = "2026-01-02T03:04:05Z".into();
    Arc::new(RouteVerdict { generation: Some(3), created, parents })
}

fn applied(
    route: &Arc<Route>,
    found: &[(&Backend, Result<Arc<Service>, BackendProblem>)],
) -> AppliedRoute {
    let backends = found.iter().map(|(of, found)| (of.target.clone(), found.clone()));
    AppliedRoute { route: route.clone(), backends: Arc::new(backends.collect()) }
}

/// `split` is reviews' own, `mine` is of namespace `a`, `wrong` is refused, `front` is a Gateway's.
fn fill(fixture: &Fixture) {
    fixture.fill_model();
    let reviews = ServiceKey::new("default", "reviews");
    let service = fixture.model.borrow().service(&reviews).unwrap().clone();
    let split = route(
        http("default", "split"),
        vec![RouteRule {
            name: Some("by-user".into()),
            matches: vec![RouteMatch {
                path: PathMatch::Prefix("/reviews".into()),
                headers: vec![NameMatch {
                    name: "end-user".into(),
                    value: TextMatch::Exact("jason".into()),
                }],
                query: vec![NameMatch { name: "q".into(), value: TextMatch::Regex("a+".into()) }],
                method: Some("GET".into()),
            }],
            filters: vec![
                RouteFilter::RequestHeaders(HeaderModifier {
                    set: vec![("a".into(), "b".into())],
                    add: Vec::new(),
                    remove: vec!["c".into()],
                }),
                RouteFilter::Mirror(Mirror {
                    backend: backend("none", 1).target,
                    numerator: 10,
                    denominator: 100,
                }),
            ],
            request_timeout: Some(Duration::from_millis(1500)),
            ..rule(vec![backend("reviews", 90), backend("none", 10)])
        }],
    );
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        path: Some(PathModifier::ReplacePrefix("/x".into())),
        port: Some(8443),
        status: 301,
    };
    let filters = vec![RouteFilter::Redirect(redirect)];
    let mine = route(http("a", "mine"), vec![RouteRule { filters, ..rule(Vec::new()) }]);
    let there = (&backend("reviews", 90), Ok(service));
    let gone = (&backend("none", 10), Err(BackendProblem::NotFound));
    let port = |one| {
        let rules = PortRules { kind: RouteKind::Http, routes: vec![one] };
        BTreeMap::from([(9080, Arc::new(rules))])
    };
    let rules = ServiceRules {
        producer: port(applied(&split, &[there, gone])),
        consumers: [("a".into(), port(applied(&mine, &[])))].into(),
    };
    let service = || ParentTarget::Service(reviews.clone());
    let gateway = ParentTarget::Other {
        group: "gateway.networking.k8s.io".into(),
        kind: "Gateway".into(),
        namespace: "default".into(),
        name: "front".into(),
    };
    use AcceptedReason::{Accepted, UnsupportedValue};
    let (producer, consumer) = (Some(RouteRole::Producer), Some(RouteRole::Consumer));
    let routes = [
        (
            http("default", "split"),
            vec![at(service(), producer, Accepted, RefsReason::BackendNotFound)],
        ),
        (http("a", "mine"), vec![at(service(), consumer, Accepted, RefsReason::ResolvedRefs)]),
        (
            http("default", "wrong"),
            vec![at(service(), producer, UnsupportedValue, RefsReason::ResolvedRefs)],
        ),
        (http("default", "front"), vec![at(gateway, None, Accepted, RefsReason::ResolvedRefs)]),
    ];
    fixture.routes.send_replace(RouteReport {
        routes: routes.into_iter().map(|(key, parents)| (key, verdict(parents))).collect(),
        services: [(reviews, Arc::new(rules))].into_iter().collect(),
    });
}

fn names(page: &Value) -> Vec<String> {
    let routes = page["routes"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    routes.map(|one| format!("{}/{}", text(&one["namespace"]), text(&one["name"]))).collect()
}

#[tokio::test]
async fn routes_are_listed_with_their_verdicts() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.json("/debug/routes").await,
        json!({"total": 0, "matched": 0, "routes": []})
    );
    fill(&fixture);
    let page = fixture.json("/debug/routes").await;
    assert_eq!(names(&page), ["a/mine", "default/front", "default/split", "default/wrong"]);
    assert_eq!((&page["total"], &page["matched"]), (&json!(4), &json!(4)));
    assert_eq!(
        page["routes"][2],
        json!({
            "kind": "HTTPRoute", "namespace": "default", "name": "split", "generation": 3,
            "created": "2026-01-02T03:04:05Z", "rules": 0, "in_effect": true, "sound": false,
            "parents": [{
                "kind": "Service", "namespace": "default", "name": "reviews", "port": 9080,
                "role": "producer", "ports": [9080],
                "accepted": { "status": true, "reason": "Accepted", "message": "why it is so" },
                "resolved_refs":
                    { "status": false, "reason": "BackendNotFound", "message": "which are there" },
            }],
        })
    );
    // What another controller makes of it is not said here.
    let front = &page["routes"][1];
    assert_eq!((&front["in_effect"], &front["sound"]), (&json!(false), &json!(true)));
    assert_eq!(front["parents"][0]["role"], Value::Null);
    assert_eq!(front["parents"][0].get("accepted"), None);
}

#[tokio::test]
async fn routes_are_filtered_and_paged() {
    let fixture = Fixture::new();
    fill(&fixture);
    for (query, expected) in [
        ("namespace=a", vec!["a/mine"]),
        ("kind=grpcroute", vec![]),
        ("kind=httproute&search=SPL", vec!["default/split"]),
        // By a parent's name, too.
        ("search=default/front", vec!["default/front"]),
        ("problems", vec!["default/split", "default/wrong"]),
        ("problems=true&search=wro", vec!["default/wrong"]),
        ("offset=1&limit=2", vec!["default/front", "default/split"]),
    ] {
        assert_eq!(
            names(&fixture.json(&format!("/debug/routes?{query}")).await),
            expected,
            "{query}"
        );
    }
    let page = fixture.json("/debug/routes?limit=1&namespace=default").await;
    assert_eq!((&page["total"], &page["matched"]), (&json!(4), &json!(3)));
    for wrong in ["limit=x", "problems=maybe", "name=x"] {
        let (status, _) = fixture.get(&format!("/debug/routes?{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn a_service_says_which_rules_apply_and_which_do_not() {
    let fixture = Fixture::new();
    fill(&fixture);
    let page = fixture.json("/debug/services/default/reviews").await;
    let producer = json!([{
        "port": 9080, "kind": "HTTPRoute",
        "routes": [{ "namespace": "default", "name": "split", "rules": [{
            "name": "by-user",
            "matches": ["GET /reviews (prefix), header end-user = jason, query parameter q ~ a+"],
            "filters": [
                "request headers: set a: b, remove c",
                "mirror 10/100 of the requests to default/none:9080 (BackendNotFound)",
            ],
            "request_timeout": "1s 500ms",
            "backends": [
                { "backend": "default/reviews:9080", "weight": 90, "ready": 1 },
                { "backend": "default/none:9080", "weight": 10, "problem": "BackendNotFound" },
            ],
        }]}],
    }]);
    assert_eq!(page["rules"]["producer"], producer);
    let mine = &page["rules"]["consumers"]["a"][0]["routes"][0];
    assert_eq!(
        *mine,
        json!({ "namespace": "a", "name": "mine", "rules": [{
            "matches": ["/ (prefix)"], "backends": [],
            "filters": ["redirect 301, scheme https, port 8443, prefix of the path /x"],
        }]})
    );
    let problems = page["rules"]["problems"].as_array().unwrap();
    let said: Vec<_> =
        problems.iter().map(|one| (&one["route"], &one["accepted"]["reason"])).collect();
    assert_eq!(
        said,
        [
            (&json!("HTTPRoute default/split"), &json!("Accepted")),
            (&json!("HTTPRoute default/wrong"), &json!("UnsupportedValue")),
        ]
    );
    // The same in registryz, for whoever wants all of them.
    let registry = fixture.json("/debug/registryz").await;
    let services = registry.as_array().unwrap();
    let of = |name: &str| services.iter().find(|one| one["Attributes"]["Name"] == name).unwrap();
    assert_eq!(of("reviews")["Routes"], page["rules"]);
    assert_eq!(of("bare").get("Routes"), None);
    let bare = fixture.json("/debug/services/default/bare").await;
    assert_eq!(bare["rules"], Value::Null);
}

#[tokio::test]
async fn sourcez_says_why_no_status_is_written() {
    let fixture = Fixture::new();
    let page = fixture.json("/debug/sourcez").await;
    assert_eq!((page.get("routeStatus"), &page["routes"]), (None, &json!(0)));
    let mut state = fixture.state.clone();
    state.route_status = Some(Arc::default());
    let router = router(state).unwrap();
    let (_, text) = get_from(&router, "/debug/sourcez", "localhost").await;
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(page["routeStatus"], json!({ "waiting": 0 }));
}

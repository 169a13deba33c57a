use serde_json::json;

use super::*;

const SERVICE: &str = "shop/reviews";
const HOST: &str = "reviews.shop.svc.cluster.local";

/// `rules` of `/debug/services/shop/reviews`: a producer route, one of namespace `a`, and one that is refused.
fn page() -> Value {
    let rule = |backends: Value| json!({ "matches": ["/ (prefix)"], "backends": backends });
    let backend = |name: &str, weight: u32, ready: u32| json!({ "backend": name, "weight": weight, "ready": ready });
    let port = |name: &str, namespace: &str, rules: Value| {
        json!([{ "port": 9080, "kind": "HTTPRoute",
            "routes": [{ "namespace": namespace, "name": name, "rules": rules }] }])
    };
    let named =
        json!({ "name": "named", "matches": [], "backends": [backend("shop/v2:9080", 1, 2)] });
    let producer = json!([
        rule(json!([backend("shop/v1:9080", 90, 1), backend("shop/none:9080", 0, 0)])),
        named,
    ]);
    json!({
        "producer": port("split", "shop", producer),
        "consumers": { "a": port("mine", "a", json!([rule(json!([backend("a/x:80", 1, 1)]))])) },
        "problems": [],
    })
}

fn problem_of(route: &str, role: &str, condition: &str, reason: &str) -> Value {
    let mut problem = json!({
        "route": route, "role": role,
        "accepted": { "status": true, "reason": "Accepted", "message": "" },
        "resolved_refs": { "status": true, "reason": "ResolvedRefs", "message": "" },
    });
    problem[condition] = json!({ "status": false, "reason": reason, "message": "so it is." });
    problem
}

fn code(facts: &RouteFacts) -> Option<Code> {
    facts.fault(SERVICE).map(|found| found.code)
}

#[test]
fn a_namespace_has_its_own_rules_or_the_producers() {
    let names = |client: Option<&str>, port| {
        let facts = RouteFacts::from_pilot(&page(), client, port);
        facts.rules.into_iter().map(|rule| rule.name).collect::<Vec<_>>()
    };
    assert_eq!(names(None, None), ["shop/split.0", "shop/split.named"]);
    assert_eq!(names(Some("b"), Some(9080)), ["shop/split.0", "shop/split.named"]);
    assert_eq!(names(Some("a"), None), ["a/mine.0"]);
    assert_eq!(names(Some("b"), Some(80)), <[String; 0]>::default());
    assert!(RouteFacts::from_pilot(&Value::Null, None, None).is_empty());
}

#[test]
fn a_consumer_route_of_another_namespace_is_told_and_is_no_fault() {
    let facts = RouteFacts::from_pilot(&page(), Some("b"), None);
    assert_eq!(code(&facts), None);
    let note = facts.note(SERVICE).unwrap();
    assert!(note.contains("HTTPRoute a/mine") && note.contains("consumer route"), "{note}");
    assert_eq!(RouteFacts::from_pilot(&page(), Some("a"), None).note(SERVICE), None);
}

#[test]
fn what_is_wrong_with_a_route_is_told_by_its_reason() {
    let with = |problem: Value, client: &str| {
        let mut page = page();
        page["problems"] = json!([problem]);
        RouteFacts::from_pilot(&page, Some(client), None)
    };
    for (condition, reason, expected) in [
        ("accepted", "UnsupportedValue", Code::RouteNotAccepted),
        ("resolved_refs", "RefNotPermitted", Code::RouteReferenceNotGranted),
        ("resolved_refs", "BackendNotFound", Code::RouteBackendNotFound),
        ("resolved_refs", "InvalidKind", Code::RouteBackendInvalid),
        ("resolved_refs", "UnsupportedProtocol", Code::RouteBackendInvalid),
    ] {
        let problem = problem_of("HTTPRoute shop/wrong", "producer", condition, reason);
        let found = with(problem, "b").fault(SERVICE).unwrap();
        assert_eq!(found.code, expected);
        for word in ["HTTPRoute shop/wrong", SERVICE, reason, "so it is"] {
            assert!(found.cause.contains(word) && !found.cause.ends_with('.'), "{}", found.cause);
        }
        // A consumer route concerns its own namespace.
        let problem = problem_of("HTTPRoute a/wrong", "consumer", condition, reason);
        assert_eq!(code(&with(problem.clone(), "b")), None);
        assert_eq!(code(&with(problem, "a")), Some(expected));
    }
}

#[test]
fn a_rule_all_of_whose_backends_are_without_endpoints_is_a_fault() {
    let mut page = page();
    let backends = &mut page["producer"][0]["routes"][0]["rules"][0]["backends"];
    // One with the weight 0 does not count, and neither does one that is not valid.
    backends[0]["ready"] = json!(0);
    backends
        .as_array_mut()
        .unwrap()
        .push(json!({ "backend": "shop/gone:9080", "weight": 1, "problem": "BackendNotFound" }));
    let found = RouteFacts::from_pilot(&page, None, None).fault(SERVICE).unwrap();
    assert_eq!(found.code, Code::RouteBackendsNoEndpoints);
    assert!(found.cause.contains("shop/split.0") && found.cause.contains("shop/v1:9080"));
    page["producer"][0]["routes"][0]["rules"][0]["backends"][1] =
        json!({ "backend": "shop/v3:9080", "weight": 1, "ready": 1 });
    assert_eq!(code(&RouteFacts::from_pilot(&page, None, None)), None);
}

#[test]
fn requests_that_never_reach_the_service_itself_do_not_need_its_endpoints() {
    let facts = RouteFacts::from_pilot(&page(), None, None);
    assert!(facts.lead_away(SERVICE, 9080));
    assert!(!facts.lead_away("shop/v1", 9080) && !facts.lead_away(SERVICE, 80));
}

fn view(route: &str, problems: Option<Vec<Problem>>) -> RouteView {
    let namespace = route.split([' ', '/']).nth(1).unwrap().to_owned();
    RouteView { route: route.to_owned(), namespace, is_settled: true, problems }
}

#[test]
fn what_kubernetes_has_and_the_control_plane_does_not_is_told() {
    let facts = RouteFacts::from_pilot(&page(), None, None);
    let known = names_of_page(&page());
    let routes = [
        view("HTTPRoute shop/split", None),
        view("HTTPRoute a/mine", None),
        view("GRPCRoute shop/split", None),
        view("HTTPRoute shop/with-status", Some(Vec::new())),
        RouteView { is_settled: false, ..view("HTTPRoute shop/new", None) },
    ];
    // Without the page Envoy's rules are known by name alone, of whichever kind.
    assert_eq!(facts.unseen(&routes, &BTreeSet::new()), ["HTTPRoute a/mine"]);
    assert_eq!(RouteFacts::default().unseen(&routes, &known), ["GRPCRoute shop/split"]);
    let unseen = RouteFacts::default().unseen(&routes, &BTreeSet::new());
    assert_eq!(unseen.len(), 3);
    let found = not_seen(SERVICE, &unseen, Some("forbidden")).unwrap();
    assert_eq!(found.code, Code::RoutesNotSeen);
    for words in ["HTTPRoute shop/split and 2 more", ": forbidden"] {
        assert!(found.cause.contains(words), "{}", found.cause);
    }
    assert!(not_seen(SERVICE, &[], None).is_none());
}

#[test]
fn the_status_of_a_route_says_the_same_as_the_page() {
    let problem = Problem {
        route: "HTTPRoute shop/wrong".to_owned(),
        accepted: false,
        reason: "UnsupportedValue".to_owned(),
        message: "so it is".to_owned(),
    };
    let mut facts = RouteFacts::default();
    let own = view("HTTPRoute shop/wrong", Some(vec![problem.clone()]));
    let other = view("HTTPRoute a/wrong", Some(vec![problem]));
    facts.add_statuses("shop", Some("b"), &[own, other]);
    assert_eq!(code(&facts), Some(Code::RouteNotAccepted));
    assert_eq!(facts.problems.len(), 1);
    assert_eq!(facts.elsewhere["a"], ["HTTPRoute a/wrong"]);
}

fn tables(routes: &Value) -> Value {
    let plain = json!({ "match": { "prefix": "/" }, "route": { "cluster": "own" } });
    let table = |name: &str, routes: Value| {
        json!({ "route_config": { "name": name, "virtual_hosts": [
            { "name": format!("{HOST}:9080"), "domains": ["*"], "routes": routes },
        ]}})
    };
    json!({ "configs": [
        table("9080", json!([plain])),
        table(&format!("{HOST}:9080"), routes.clone()),
    ]})
}

#[test]
fn the_rule_for_a_request_is_found_as_envoy_does() {
    let string = |text: &str| json!({ "exact": text });
    let routes = json!([
        { "name": "shop/a.0", "match": { "path_separated_prefix": "/reviews",
            "headers": [{ "name": "end-user", "string_match": string("jason") }] } },
        { "name": "shop/a.1", "match": { "path_separated_prefix": "/reviews",
            "headers": [{ "name": ":method", "string_match": string("GET") }] } },
        { "name": "shop/a.2", "match": { "path": "/exact",
            "query_parameters": [{ "name": "q", "string_match": string("1") }] } },
        { "name": "shop/a.3", "match": { "safe_regex": { "regex": "/x+" },
            "headers": [{ "name": ":method", "string_match": string("POST") }] } },
        { "name": "no rule matches", "match": { "prefix": "/" } },
    ]);
    let tables = tables(&routes);
    let answer = |path: &str| answer_to(path, &tables, HOST, 9080).unwrap();
    let rule = |name: &str| Answer::Rule(name.to_owned());
    assert_eq!(answer("/reviews/0"), rule("shop/a.1"));
    assert_eq!(answer("/reviews"), rule("shop/a.1"));
    assert_eq!(answer("/reviewsx"), Answer::NoRule);
    assert_eq!(answer("/exact?p=2&q=1"), rule("shop/a.2"));
    assert_eq!(answer("/exact?q=2"), Answer::NoRule);
    assert_eq!(answer("/xx"), Answer::NoRule);
    assert_eq!(answer_to("/", &tables, HOST, 80), None);
    let regex = json!([{ "name": "shop/a.0", "match": { "safe_regex": { "regex": "/x+" } } }]);
    assert_eq!(answer_to("/", &self::tables(&regex), HOST, 9080), Some(Answer::Unknown));
    // A service without rules.
    assert_eq!(answer_to("/", &self::tables(&json!([])), HOST, 9080), None);
}

#[test]
fn envoy_alone_tells_of_backends_that_are_not_valid_or_have_nobody() {
    let cluster = |name: &str| format!("outbound|9080||{name}.shop.svc.cluster.local");
    let invalid = crate::names::INVALID_BACKEND_CLUSTER;
    let rules = |route: Value| {
        let routes = json!([
            { "name": "shop/a.0", "match": { "prefix": "/" }, "route": route },
            { "name": "shop/a.0", "match": { "prefix": "/" }, "route": route },
        ]);
        let clusters = json!({ "cluster_statuses": [
            { "name": cluster("v1"), "host_statuses": [{}] },
            { "name": cluster("v2"), "host_statuses": [] },
        ]});
        rules_of_envoy(&tables(&routes), &clusters, HOST, 9080, "cluster.local")
    };
    let backend = |name: &str, ready| BackendFact { name: format!("shop/{name}:9080"), ready };
    let sound = rules(json!({ "cluster": cluster("v1") }));
    assert_eq!(sound.len(), 1);
    assert_eq!((&sound[0].backends, sound[0].has_invalid), (&vec![backend("v1", Some(1))], false));
    let facts = |rules| RouteFacts { rules, ..RouteFacts::default() };
    assert_eq!(code(&facts(sound)), None);
    let weighted = |names: &[String]| {
        let clusters: Vec<_> =
            names.iter().map(|name| json!({ "name": name, "weight": 1 })).collect();
        rules(json!({ "weighted_clusters": { "clusters": clusters } }))
    };
    let half = weighted(&[cluster("v1"), invalid.to_owned()]);
    assert_eq!(half[0].backends, [backend("v1", Some(1))]);
    assert_eq!(code(&facts(half)), Some(Code::RouteBackendInvalid));
    let nobody = facts(weighted(&[cluster("v2")]));
    assert_eq!(code(&nobody), Some(Code::RouteBackendsNoEndpoints));
    assert_eq!(code(&facts(weighted(&[cluster("v2"), cluster("v1")]))), None);
    assert_eq!(code(&facts(weighted(&[cluster("v2"), cluster("v3")]))), None, "v3 is not known");
}

#[test]
fn a_route_that_is_refused_is_why_a_service_without_endpoints_is_called() {
    let mut page = page();
    let of_service = |code| Finding::new(code, "no endpoints", "");
    let sound = RouteFacts::from_pilot(&page, None, None);
    let none = Code::ServiceSelectsNoPod;
    assert_eq!(sound.explain(SERVICE, of_service(none)).code, none);
    page["problems"] =
        json!([problem_of("HTTPRoute shop/wrong", "producer", "accepted", "UnsupportedValue")]);
    let refused = RouteFacts::from_pilot(&page, None, None);
    assert_eq!(refused.explain(SERVICE, of_service(none)).code, Code::RouteNotAccepted);
    let port = Code::ServicePortNotFound;
    assert_eq!(refused.explain(SERVICE, of_service(port)).code, port);
}

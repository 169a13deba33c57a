//! Each rule of the CRDs, by a manifest that breaks it and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::ServiceKey;
use crate::model::route::{
    API_VERSION, AcceptedReason, Backend, BackendRef, Cors, GROUP, GrpcMethod, HeaderModifier,
    Mirror, NameMatch, ParentRef, ParentTarget, PathMatch, PathModifier, Redirect, Rewrite,
    RouteFilter, RouteMatch, TextMatch,
};

mod refused;

fn object<K: GatewayKind>(spec: &Value) -> GatewayObject<K> {
    serde_json::from_value(json!({
        "apiVersion": API_VERSION, "kind": K::KIND,
        "metadata": { "name": "split", "namespace": "shop", "generation": 3, "resourceVersion": "812",
            "creationTimestamp": "2026-01-02T03:04:05Z" },
        "spec": spec, "status": { "parents": [] },
    }))
    .unwrap()
}

fn http(spec: &Value) -> Converted<Route> {
    Converter::default().http_route(&object(spec)).unwrap()
}

fn grpc(spec: &Value) -> Converted<Route> {
    Converter::default().grpc_route(&object(spec)).unwrap()
}

/// The one rule of an HTTPRoute, which is good.
fn http_rule(rule: Value) -> RouteRule {
    let mut converted = http(&json!({ "rules": [rule] }));
    assert_eq!(converted.value.refusal, None, "{rule}");
    assert_eq!(converted.value.rules.len(), 1);
    converted.value.rules.remove(0)
}

fn grpc_rule(rule: Value) -> RouteRule {
    let mut converted = grpc(&json!({ "rules": [rule] }));
    assert_eq!(converted.value.refusal, None, "{rule}");
    converted.value.rules.remove(0)
}

fn service(namespace: &str, name: &str, port: u16) -> BackendRef {
    BackendRef::Service { key: ServiceKey::new(namespace, name), port }
}

fn exact(name: &str, value: &str) -> NameMatch {
    NameMatch { name: name.into(), value: TextMatch::Exact(value.into()) }
}

#[test]
fn what_a_route_says_of_itself() {
    let route = http(&json!({
        "parentRefs": [
            { "group": "", "kind": "Service", "name": "reviews", "port": 9080 },
            { "group": "", "kind": "Service", "name": "reviews", "namespace": "other", "sectionName": "http" },
            { "name": "edge" },
        ],
    }));
    assert!(route.flaws.is_empty() && route.notes.is_empty(), "{route:?}");
    let route = route.value;
    assert_eq!(route.key.to_string(), "HTTPRoute shop/split");
    assert_eq!(&*route.created, "2026-01-02T03:04:05Z");
    assert_eq!((route.generation, &*route.resource_version), (Some(3), "812"));
    let gateway = ParentTarget::Other {
        group: GROUP.into(),
        kind: "Gateway".into(),
        namespace: "shop".into(),
        name: "edge".into(),
    };
    let parent = |target, namespace: Option<&str>, section: Option<&str>, port| ParentRef {
        target,
        namespace: namespace.map(Into::into),
        section_name: section.map(Into::into),
        port,
    };
    let reviews = |namespace| ParentTarget::Service(ServiceKey::new(namespace, "reviews"));
    assert_eq!(
        route.parents,
        [
            parent(reviews("shop"), None, None, Some(9080)),
            parent(reviews("other"), Some("other"), Some("http"), None),
            parent(gateway, None, None, None),
        ]
    );
    // The default of the CRD.
    assert_eq!(route.rules, [RouteRule::new(Vec::new())]);
    assert_eq!(grpc(&json!({})).value.rules, []);
    assert_eq!(grpc(&json!({ "rules": [{}] })).value.rules, [RouteRule::new(Vec::new())]);
}

#[test]
fn matches_of_an_http_route() {
    let matched = |from: Value| http_rule(json!({ "matches": [from] })).matches.remove(0);
    assert_eq!(matched(json!({})), RouteMatch::any());
    assert_eq!(matched(json!({ "path": {} })), RouteMatch::any());
    let path = |from: Value| matched(json!({ "path": from })).path;
    assert_eq!(path(json!({ "value": "/a/" })), PathMatch::Prefix("/a/".into()));
    assert_eq!(
        path(json!({ "type": "Exact", "value": "/a%20b" })),
        PathMatch::Exact("/a%20b".into())
    );
    assert_eq!(
        path(json!({ "type": "RegularExpression", "value": "/v[0-9]+/.*" })),
        PathMatch::Regex("/v[0-9]+/.*".into())
    );
    let found = matched(json!({
        "method": "PUT",
        "headers": [
            { "name": "End-User", "value": "jason" },
            { "name": "end-user", "value": "ignored" },
            { "name": "version", "type": "RegularExpression", "value": "v[12]" },
        ],
        "queryParams": [{ "name": "Q", "value": "1" }, { "name": "q", "value": "2" }],
    }));
    let version = NameMatch { name: "version".into(), value: TextMatch::Regex("v[12]".into()) };
    assert_eq!(found.headers, [exact("end-user", "jason"), version]);
    assert_eq!(found.query, [exact("Q", "1"), exact("q", "2")]);
    assert_eq!(found.method.as_deref(), Some("PUT"));
    let all = http_rule(json!({ "matches": [] }));
    assert_eq!(all.matches, [RouteMatch::any()]);
}

#[test]
fn matches_of_a_grpc_route() {
    let path = |method: Value| {
        grpc_rule(json!({ "matches": [{ "method": method }] })).matches.remove(0).path
    };
    let grpc = |service, method| PathMatch::Grpc(GrpcMethod { service, method });
    let exact = |text: &str| Some(TextMatch::Exact(text.into()));
    let regex = |text: &str| Some(TextMatch::Regex(text.into()));
    assert_eq!(
        path(json!({ "service": "a.B", "method": "Get" })),
        grpc(exact("a.B"), exact("Get"))
    );
    assert_eq!(path(json!({ "method": "Get" })), grpc(None, exact("Get")));
    assert_eq!(
        path(json!({ "type": "RegularExpression", "service": "a[.]B", "method": "" })),
        grpc(regex("a[.]B"), None)
    );
    let rule = grpc_rule(json!({ "matches": [{ "headers": [{ "name": "V", "value": "2" }] }] }));
    assert_eq!(rule.matches[0].headers.len(), 1);
    assert_eq!(rule.matches[0].path, RouteMatch::any().path);
}

#[test]
fn backends_and_timeouts() {
    let rule = http_rule(json!({
        "name": "split",
        "backendRefs": [
            { "name": "v1", "port": 80, "weight": 90 },
            { "name": "v2", "port": 80, "namespace": "other",
              "filters": [{ "type": "RequestHeaderModifier",
                            "requestHeaderModifier": { "set": [{ "name": "V", "value": "2" }] } }] },
            { "group": "example.com", "kind": "Bucket", "name": "b", "weight": 0 },
        ],
        "timeouts": { "request": "10s", "backendRequest": "500ms" },
    }));
    let headers = RouteFilter::RequestHeaders(HeaderModifier {
        set: vec![("v".into(), "2".into())],
        ..HeaderModifier::default()
    });
    let bucket = BackendRef::Other {
        group: "example.com".into(),
        kind: "Bucket".into(),
        namespace: "shop".into(),
        name: "b".into(),
    };
    assert_eq!(
        rule.backends,
        [
            Backend { target: service("shop", "v1", 80), weight: 90, filters: vec![] },
            Backend { target: service("other", "v2", 80), weight: 1, filters: vec![headers] },
            Backend { target: bucket, weight: 0, filters: vec![] },
        ]
    );
    assert_eq!(rule.name.as_deref(), Some("split"));
    assert_eq!(rule.request_timeout, Some(Duration::from_secs(10)));
    assert_eq!(rule.backend_timeout, Some(Duration::from_millis(500)));
    // A request without a limit may have attempts with one.
    let rule = http_rule(json!({ "timeouts": { "request": "0s", "backendRequest": "5s" } }));
    assert_eq!(rule.request_timeout, Some(Duration::ZERO));
}

#[test]
fn filters_of_a_rule() {
    let filter = |from: Value| http_rule(json!({ "filters": [from] })).filters.remove(0);
    assert_eq!(
        filter(json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "set": [{ "name": "A", "value": "1" }, { "name": "a", "value": "ignored" }],
            "add": [{ "name": "b", "value": "2, 3" }],
            "remove": ["C", "c"],
        } })),
        RouteFilter::ResponseHeaders(HeaderModifier {
            set: vec![("a".into(), "1".into())],
            add: vec![("b".into(), "2, 3".into())],
            remove: vec!["c".into()],
        })
    );
    let mirror = |from: Value| {
        let mut mirror = json!({ "backendRef": { "name": "copy", "port": 80 } });
        mirror.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
        match filter(json!({ "type": "RequestMirror", "requestMirror": mirror })) {
            RouteFilter::Mirror(Mirror { backend, numerator, denominator }) => {
                assert_eq!(backend, service("shop", "copy", 80));
                (numerator, denominator)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(mirror(json!({})), (1, 1));
    assert_eq!(mirror(json!({ "percent": 20 })), (20, 100));
    assert_eq!(mirror(json!({ "fraction": { "numerator": 20 } })), (20, 100));
    assert_eq!(mirror(json!({ "fraction": { "numerator": 1, "denominator": 3 } })), (1, 3));
    let nothing = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
    let redirect =
        |from: Value| filter(json!({ "type": "RequestRedirect", "requestRedirect": from }));
    assert_eq!(redirect(json!({})), RouteFilter::Redirect(nothing));
    assert_eq!(
        redirect(json!({ "scheme": "https", "hostname": "example.org", "port": 8443,
            "statusCode": 308, "path": { "type": "ReplaceFullPath", "replaceFullPath": "/x" } })),
        RouteFilter::Redirect(Redirect {
            scheme: Some("https".into()),
            hostname: Some("example.org".into()),
            path: Some(PathModifier::ReplaceFull("/x".into())),
            port: Some(8443),
            status: 308,
        })
    );
    for (prefix, matches) in [("", json!(null)), ("/new", json!([{ "path": { "value": "/old" } }]))]
    {
        let rule = http_rule(json!({ "matches": matches, "filters": [{ "type": "URLRewrite",
            "urlRewrite": { "hostname": "h", "path": {
                "type": "ReplacePrefixMatch", "replacePrefixMatch": prefix } } }] }));
        let path = Some(PathModifier::ReplacePrefix(prefix.into()));
        assert_eq!(
            rule.filters,
            [RouteFilter::Rewrite(Rewrite { hostname: Some("h".into()), path })]
        );
    }
    let cors = |from: Value| match filter(json!({ "type": "CORS", "cors": from })) {
        RouteFilter::Cors(cors) => cors,
        other => panic!("{other:?}"),
    };
    let defaults = Cors {
        allow_origins: vec![],
        allow_credentials: false,
        allow_methods: vec![],
        allow_headers: vec![],
        expose_headers: vec![],
        max_age: 5,
    };
    assert_eq!(cors(json!({})), defaults);
    assert_eq!(
        cors(json!({ "allowOrigins": ["https://*.example.com"], "allowCredentials": true,
            "allowMethods": ["*"], "allowHeaders": ["X-A"], "exposeHeaders": ["*", "X-B"], "maxAge": 60 })),
        Cors {
            allow_origins: vec!["https://*.example.com".into()],
            allow_credentials: true,
            allow_methods: vec!["*".into()],
            allow_headers: vec!["X-A".into()],
            expose_headers: vec!["*".into(), "X-B".into()],
            max_age: 60,
        }
    );
    // A mirror may be there several times.
    let copy = json!({ "type": "RequestMirror",
        "requestMirror": { "backendRef": { "name": "copy", "port": 80 } } });
    assert_eq!(grpc_rule(json!({ "filters": [copy, copy] })).filters.len(), 2);
}

#[test]
fn what_is_ignored_is_told() {
    let route = http(&json!({
        "parentRefs": [{ "kind": "Service", "name": "reviews" }],
        "hostnames": ["*.example.com"],
        "rules": [{ "matches": [{ "headers": [
            { "name": "A", "value": "1" }, { "name": "a", "value": "2" }] }] }],
    }));
    assert!(route.flaws.is_empty() && route.value.refusal.is_none());
    let notes: Vec<_> = route.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "spec.parentRefs[0].group: a Service is of the core group: write group: \"\"",
            "spec.hostnames: ignored where the parent is a Service: its clients are known by that",
            "spec.rules[0].matches[0].headers[1]: ignored: \"a\" is the name of an earlier one",
        ]
    );
    assert!(matches!(route.value.parents[0].target, ParentTarget::Other { .. }));
}

#[test]
fn grants_for_services_alone_count() {
    let convert = |spec: &Value| {
        Converter::default().reference_grant(&object::<ReferenceGrantV1>(spec)).unwrap()
    };
    let grant = convert(&json!({
        "from": [
            { "group": GROUP, "kind": "HTTPRoute", "namespace": "a" },
            { "group": GROUP, "kind": "GRPCRoute", "namespace": "b" },
            { "group": GROUP, "kind": "Gateway", "namespace": "c" },
        ],
        "to": [
            { "group": "", "kind": "Service", "name": "web" },
            { "group": "", "kind": "Secret" },
            { "group": "", "kind": "Service" },
        ],
    }));
    assert!(grant.flaws.is_empty());
    let grant = grant.value;
    assert_eq!((&*grant.namespace, &*grant.name), ("shop", "split"));
    assert_eq!(grant.from, [(RouteKind::Http, "a".into()), (RouteKind::Grpc, "b".into())]);
    assert_eq!(grant.to, [Some("web".into()), None]);
    // What cannot be read grants nothing.
    let from = json!({ "group": GROUP, "kind": "HTTPRoute", "namespace": "a" });
    for (spec, expected) in [
        (
            json!({ "from": [from], "to": [{ "group": "", "kind": "Service", "name": "" }] }),
            "spec.to[0].name: empty",
        ),
        (
            json!({ "from": [from], "to": [{ "group": "", "kind": "Service", "name": 7 }] }),
            "spec.to[0].name: not a string",
        ),
        (json!({ "from": [from], "to": [{ "kind": "Service" }] }), "spec.to[0].group: missing"),
        (json!({ "from": [from] }), "spec.to: missing, or empty"),
        (
            json!({ "from": [], "to": [{ "group": "", "kind": "Service" }] }),
            "spec.from: missing, or empty",
        ),
        (
            json!({ "from": [{ "group": GROUP, "kind": "HTTPRoute" }],
            "to": [{ "group": "", "kind": "Service" }] }),
            "spec.from[0].namespace: missing",
        ),
        (json!(null), "spec: missing"),
    ] {
        let grant = convert(&spec);
        assert_eq!(grant.flaws[0].to_string(), expected, "{spec}");
        let grants = grant.value.from.len() * grant.value.to.len();
        assert!(grants == 0 || expected.contains("group"), "{spec}: {:?}", grant.value);
    }
}

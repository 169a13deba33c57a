//! What refuses a route, and whether a manifest with it is refused as well.

use super::*;

/// The message of a refusal, its reason, and whether it is a flaw of the manifest.
fn refusal(converted: &Converted<Route>) -> (String, AcceptedReason, bool) {
    let refusal = converted.value.refusal.as_ref().expect("a refused route");
    assert!(converted.value.rules.is_empty(), "a refused route has no rules");
    (refusal.message.to_string(), refusal.reason, !converted.flaws.is_empty())
}

/// Of each rule of an HTTPRoute, the beginning of the message.
fn expect_http(flaw: bool, cases: &[(Value, &str)]) {
    for (rule, expected) in cases {
        let (message, reason, is_flaw) = refusal(&http(&json!({ "rules": [rule] })));
        assert!(message.starts_with(&format!("spec.rules[0].{expected}")), "{rule}: {message}");
        assert!(!message.ends_with("more)"), "one thing is wrong with {rule}: {message}");
        assert_eq!(reason, AcceptedReason::UnsupportedValue, "{message}");
        assert_eq!(is_flaw, flaw, "{message}");
    }
}

fn text(length: usize) -> String {
    "a".repeat(length)
}

fn many(count: usize, item: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(item).collect()
}

#[test]
fn a_wrong_spec() {
    let parent = |more: Value| {
        let mut parent = json!({ "group": "", "kind": "Service", "name": "web" });
        parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parent
    };
    let parents = |list: Value| json!({ "parentRefs": list });
    let rules = |count, matches| {
        let rule = json!({ "matches": many(matches, |_| json!({})) });
        json!({ "rules": many(count, |_| rule.clone()) })
    };
    for (spec, expected) in [
        (json!(null), "spec: missing"),
        (json!([]), "spec: not an object"),
        (json!({ "rule": [] }), "spec.rule: not known; there are parentRefs, hostnames, rules"),
        (json!({ "rules": {} }), "spec.rules: not a list"),
        (json!({ "rules": [] }), "spec.rules: empty"),
        (json!({ "rules": [7] }), "spec.rules[0]: not an object"),
        (rules(17, 1), "spec.rules: 17 items, more than 16"),
        (rules(3, 43), "spec.rules: 129 matches in all rules, more than 128"),
        (rules(1, 65), "spec.rules[0].matches: 65 items, more than 64"),
        (json!({ "hostnames": ["A"] }), "spec.hostnames[0]: \"A\" is no name of a host"),
        (json!({ "hostnames": ["*.*.a"] }), "spec.hostnames[0]: \"*.a\" is no name"),
        (json!({ "hostnames": many(17, |_| json!("a")) }), "spec.hostnames: 17 items"),
        (parents(json!([{ "kind": "Service", "group": "" }])), "spec.parentRefs[0].name: missing"),
        (parents(json!([{ "name": "" }])), "spec.parentRefs[0].name: empty"),
        (parents(json!([{ "name": text(254) }])), "spec.parentRefs[0].name: longer than 253"),
        (
            parents(json!([parent(json!({ "group": "A" }))])),
            "spec.parentRefs[0].group: \"A\" is no API",
        ),
        (
            parents(json!([parent(json!({ "kind": "1" }))])),
            "spec.parentRefs[0].kind: \"1\" is no kind",
        ),
        (
            parents(json!([parent(json!({ "kind": text(64) }))])),
            "spec.parentRefs[0].kind: longer than 63",
        ),
        (
            parents(json!([parent(json!({ "namespace": "a.b" }))])),
            "spec.parentRefs[0].namespace: \"a.b\" is",
        ),
        (
            parents(json!([parent(json!({ "sectionName": "A" }))])),
            "spec.parentRefs[0].sectionName: \"A\" is",
        ),
        (
            parents(json!([parent(json!({ "port": 0 }))])),
            "spec.parentRefs[0].port: \"0\" is no whole",
        ),
        (
            parents(json!([parent(json!({ "port": 65536 }))])),
            "spec.parentRefs[0].port: \"65536\" is",
        ),
        (parents(json!([parent(json!({ "port": "80" }))])), "spec.parentRefs[0].port: "),
        (parents(json!([parent(json!({ "ports": 1 }))])), "spec.parentRefs[0].ports: not known"),
        (
            parents(json!([parent(json!({})), parent(json!({}))])),
            "spec.parentRefs[1]: the same as parentRefs[0]",
        ),
        (
            parents(json!([parent(json!({})), parent(json!({ "port": 80 }))])),
            "spec.parentRefs[1]: the same parent as an earlier one: each needs a sectionName or port",
        ),
        (
            json!({ "parentRefs": many(33, |index| parent(json!({ "name": format!("w{index}") }))) }),
            "spec.parentRefs: 33 items, more than 32",
        ),
    ] {
        let converted = http(&spec);
        let (message, _, flaw) = refusal(&converted);
        assert!(message.starts_with(expected), "{spec}: {message}");
        assert!(flaw, "{spec}");
    }
    // It has a status at its parents all the same.
    let broken = http(&json!({ "parentRefs": [parent(json!({}))], "rules": [{ "retry": {} }] }));
    assert_eq!(broken.value.parents.len(), 1);
}

#[test]
fn a_wrong_name_is_no_object() {
    let mut route = object::<HttpRouteV1>(&json!({}));
    route.metadata.name = Some("A".to_owned());
    let error = Converter::default().http_route(&route).unwrap_err();
    assert_eq!(error.field, "metadata.name");
    route.metadata.name = Some("a".to_owned());
    route.metadata.namespace = Some("a.b".to_owned());
    let error = Converter::default().http_route(&route).unwrap_err();
    assert_eq!(error.field, "metadata.namespace");
}

#[test]
fn wrong_matches() {
    let path =
        |of: &str, value: &str| json!({ "matches": [{ "path": { "type": of, "value": value } }] });
    let header = |more: Value| json!({ "matches": [{ "headers": [more] }] });
    let query = |more: Value| json!({ "matches": [{ "queryParams": [more] }] });
    let at = "matches[0].path.value: ";
    expect_http(
        true,
        &[
            (json!({ "matches": [{ "paths": {} }] }), "matches[0].paths: not known"),
            (path("Suffix", "/"), "matches[0].path.type: \"Suffix\" is none of PathPrefix, Exact"),
            (path("Exact", "a"), &format!("{at}\"a\" must begin with '/'")),
            (path("Exact", ""), &format!("{at}\"\" must begin with '/'")),
            (path("PathPrefix", "/a//b"), &format!("{at}\"/a//b\" must not contain '//'")),
            (
                path("PathPrefix", "/a/./b"),
                &format!("{at}\"/a/./b\" must not contain the element '.'"),
            ),
            (path("Exact", "/a/."), &format!("{at}\"/a/.\" must not contain the element '.'")),
            (path("Exact", "/../a"), &format!("{at}\"/../a\" must not contain the element '..'")),
            (path("Exact", "/a/.."), &format!("{at}\"/a/..\" must not contain the element '..'")),
            (path("Exact", "/a%2fb"), &format!("{at}\"/a%2fb\" must not contain an encoded '/'")),
            (path("Exact", "/a%2Fb"), &format!("{at}\"/a%2Fb\" must not contain an encoded '/'")),
            (path("Exact", "/a#b"), &format!("{at}\"/a#b\" must not contain '#'")),
            (path("Exact", "/a b"), &format!("{at}\"/a b\" must have letters, digits")),
            (path("Exact", "/%zz"), &format!("{at}\"/%zz\" must have letters, digits")),
            (
                path("Exact", &format!("/{}", text(1024))),
                &format!("{at}longer than 1024 characters"),
            ),
            (
                json!({ "matches": [{ "method": "get" }] }),
                "matches[0].method: \"get\" is none of GET, HEAD",
            ),
            (header(json!({ "value": "1" })), "matches[0].headers[0].name: missing"),
            (header(json!({ "name": "a" })), "matches[0].headers[0].value: missing"),
            (header(json!({ "name": "a", "value": "" })), "matches[0].headers[0].value: empty"),
            (
                header(json!({ "name": "a", "value": 1 })),
                "matches[0].headers[0].value: not a string",
            ),
            (
                header(json!({ "name": ":path", "value": "1" })),
                "matches[0].headers[0].name: \":path\" is no",
            ),
            (
                header(json!({ "name": text(257), "value": "1" })),
                "matches[0].headers[0].name: longer",
            ),
            (
                header(json!({ "name": "a", "value": text(4097) })),
                "matches[0].headers[0].value: longer",
            ),
            (
                header(json!({ "name": "a", "value": "1", "type": "Prefix" })),
                "matches[0].headers[0].type: \"Prefix\" is none of Exact, RegularExpression",
            ),
            (
                json!({ "matches": [{ "headers": many(17, |index| {
                json!({ "name": format!("h{index}"), "value": "1" }) }) }] }),
                "matches[0].headers: 17 items, more than 16",
            ),
            (
                query(json!({ "name": "a b", "value": "1" })),
                "matches[0].queryParams[0].name: \"a b\" is no",
            ),
            (
                query(json!({ "name": "a", "value": text(1025) })),
                "matches[0].queryParams[0].value: longer",
            ),
        ],
    );
    let regex = |pattern: &str| path("RegularExpression", pattern);
    expect_http(
        false,
        &[
            (regex("("), &format!("{at}\"(\" is no regular expression to serve: unclosed group")),
            (regex(""), &format!("{at}\"\" is no regular expression to serve: it is empty")),
            (
                regex("(?=a)"),
                &format!("{at}\"(?=a)\" is no regular expression to serve: look-around"),
            ),
            (
                header(json!({ "name": "a", "type": "RegularExpression", "value": r"(a)\1" })),
                "matches[0].headers[0].value: \"(a)\\\\1\" is no regular expression to serve: backref",
            ),
            (
                query(json!({ "name": "a", "type": "RegularExpression", "value": "a{2000}" })),
                "matches[0].queryParams[0].value: \"a{2000}\" is no regular expression to serve: more than",
            ),
        ],
    );
}

#[test]
fn wrong_matches_of_grpc() {
    for (method, expected) in [
        (json!({}), "method: needs a service, a method, or both"),
        (json!({ "service": "a/b" }), "method.service: \"a/b\" is no name of a gRPC service"),
        (json!({ "service": "a..b" }), "method.service: \"a..b\" is no name of a gRPC service"),
        (json!({ "service": "" }), "method.service: \"\" is no name of a gRPC service"),
        (json!({ "method": "1a" }), "method.method: \"1a\" is no name of a gRPC method"),
        (json!({ "method": "a.b" }), "method.method: \"a.b\" is no name of a gRPC method"),
        (json!({ "method": "a", "type": "Prefix" }), "method.type: \"Prefix\" is none of Exact"),
        (json!({ "type": "RegularExpression", "method": "" }), "method: needs a service"),
        (
            json!({ "type": "RegularExpression", "service": "(abcdefghijklmnopqrst){1000}", "method": "(abcdefghijklmnopqrst){1000}" }),
            "method.method: \"(abcdefghijklmnopqrst){1000}\" is no regular expression to serve: its program may have",
        ),
        (json!({ "method": text(1025) }), "method.method: longer than 1024"),
    ] {
        let spec = json!({ "rules": [{ "matches": [{ "method": method }] }] });
        let (message, ..) = refusal(&grpc(&spec));
        let expected = format!("spec.rules[0].matches[0].{expected}");
        assert!(message.starts_with(&expected), "{method}: {message}");
    }
    for (rule, expected) in [
        (
            json!({ "matches": [{ "path": {} }] }),
            "matches[0].path: not known; there are method, headers",
        ),
        (json!({ "timeouts": {} }), "timeouts: not known"),
        (
            json!({ "filters": [{ "type": "URLRewrite", "urlRewrite": {} }] }),
            "filters[0].urlRewrite: not known",
        ),
    ] {
        let (message, ..) = refusal(&grpc(&json!({ "rules": [rule] })));
        assert!(message.starts_with(&format!("spec.rules[0].{expected}")), "{rule}: {message}");
    }
}

#[test]
fn wrong_backends_timeouts_and_names() {
    let backend = |more: Value| {
        let mut backend = json!({ "name": "web", "port": 80 });
        backend.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "backendRefs": [backend] })
    };
    let timeouts = |timeouts: Value| json!({ "timeouts": timeouts });
    expect_http(
        true,
        &[
            (
                json!({ "backendRef": {} }),
                "backendRef: not known; there are name, matches, filters",
            ),
            (json!({ "backendRefs": [{ "port": 80 }] }), "backendRefs[0].name: missing"),
            (
                json!({ "backendRefs": [{ "name": "a" }] }),
                "backendRefs[0].port: missing: a Service needs",
            ),
            (
                backend(json!({ "port": 70000 })),
                "backendRefs[0].port: \"70000\" is no whole number",
            ),
            (
                backend(json!({ "weight": -1 })),
                "backendRefs[0].weight: \"-1\" is no whole number from 0",
            ),
            (backend(json!({ "weight": 1_000_001 })), "backendRefs[0].weight: \"1000001\" is no"),
            (
                backend(json!({ "weight": 0.5 })),
                "backendRefs[0].weight: \"0.5\" is no whole number",
            ),
            (
                backend(json!({ "namespace": "A" })),
                "backendRefs[0].namespace: \"A\" is no namespace",
            ),
            (backend(json!({ "wieght": 5 })), "backendRefs[0].wieght: not known"),
            (
                json!({ "backendRefs": many(17, |_| json!({ "name": "a", "port": 1 })) }),
                "backendRefs: 17 items, more than 16",
            ),
            (timeouts(json!({ "request": "10" })), "timeouts.request: \"10\" is no duration"),
            (timeouts(json!({ "request": 10 })), "timeouts.request: not a string"),
            (
                timeouts(json!({ "request": "1s", "backendRequest": "2s" })),
                "timeouts.backendRequest: longer than the timeout of the request as a whole",
            ),
            (timeouts(json!({ "idle": "1s" })), "timeouts.idle: not known"),
            (json!({ "name": "A" }), "name: \"A\" is no name"),
            (json!({ "name": "" }), "name: empty"),
        ],
    );
    expect_http(
        false,
        &[
            (
                json!({ "retry": { "attempts": 3 } }),
                "retry: not of the Gateway API's standard channel",
            ),
            (json!({ "sessionPersistence": {} }), "sessionPersistence: not of the Gateway API's"),
            (
                backend(json!({ "filters": [{ "type": "RequestMirror",
                "requestMirror": { "backendRef": { "name": "a", "port": 1 } } }] })),
                "backendRefs[0].filters[0].requestMirror: filters of type RequestMirror are not served \
                 for a backend",
            ),
        ],
    );
    let twice = http(&json!({ "rules": [{ "name": "a" }, { "name": "b" }, { "name": "a" }] }));
    let (message, _, flaw) = refusal(&twice);
    assert_eq!(message, "spec.rules[2].name: the name of an earlier rule as well");
    assert!(!flaw);
}

#[test]
fn wrong_filters() {
    let filter =
        |of: &str, field: &str, value: Value| json!({ "filters": [{ "type": of, field: value }] });
    let modify = |value: Value| filter("RequestHeaderModifier", "requestHeaderModifier", value);
    let mirror = |value: Value| filter("RequestMirror", "requestMirror", value);
    let redirect = |value: Value| filter("RequestRedirect", "requestRedirect", value);
    let rewrite = |value: Value| filter("URLRewrite", "urlRewrite", value);
    let cors = |value: Value| filter("CORS", "cors", value);
    let target = json!({ "name": "copy", "port": 80 });
    let one = |kind: &str, field: &str| json!({ "type": kind, field: {} });
    expect_http(
        true,
        &[
            (json!({ "filters": [{}] }), "filters[0].type: missing"),
            (
                json!({ "filters": [{ "type": "Teapot" }] }),
                "filters[0].type: \"Teapot\" is none of",
            ),
            (
                json!({ "filters": [{ "type": "CORS" }] }),
                "filters[0].cors: missing: a filter of type CORS",
            ),
            (
                json!({ "filters": [{ "type": "CORS", "cors": {}, "urlRewrite": {} }] }),
                "filters[0].urlRewrite: not of a filter of type CORS",
            ),
            (
                json!({ "filters": [one("CORS", "cors"), one("CORS", "cors")] }),
                "filters[1]: a second filter of type CORS",
            ),
            (
                json!({ "filters": many(17, |_| json!({ "type": "RequestMirror",
                "requestMirror": { "backendRef": target } })) }),
                "filters: 17 items, more than 16",
            ),
            (
                modify(json!({ "set": [{ "name": "a b", "value": "1" }] })),
                "filters[0].requestHeaderModifier.set[0].name: \"a b\" is no name of a header",
            ),
            (
                modify(json!({ "set": [{ "name": "a" }] })),
                "filters[0].requestHeaderModifier.set[0].value: missing",
            ),
            (
                modify(json!({ "replace": [] })),
                "filters[0].requestHeaderModifier.replace: not known",
            ),
            (
                modify(json!({ "remove": [""] })),
                "filters[0].requestHeaderModifier.remove[0]: \"\" is no",
            ),
            (
                modify(json!({ "remove": many(17, |index| json!(format!("h{index}"))) })),
                "filters[0].requestHeaderModifier.remove: 17 items",
            ),
            (mirror(json!({})), "filters[0].requestMirror.backendRef: missing"),
            (
                mirror(json!({ "backendRef": { "name": "a" } })),
                "filters[0].requestMirror.backendRef.port: missing",
            ),
            (
                mirror(json!({ "backendRef": target, "percent": 101 })),
                "filters[0].requestMirror.percent: \"101\" is no whole number from 0 to 100",
            ),
            (
                mirror(
                    json!({ "backendRef": target, "percent": 1, "fraction": { "numerator": 1 } }),
                ),
                "filters[0].requestMirror: has both percent and fraction",
            ),
            (
                mirror(json!({ "backendRef": target, "fraction": {} })),
                "filters[0].requestMirror.fraction.numerator: missing",
            ),
            (
                mirror(
                    json!({ "backendRef": target, "fraction": { "numerator": 2, "denominator": 1 } }),
                ),
                "filters[0].requestMirror.fraction: the numerator is greater than the denominator",
            ),
            (
                mirror(
                    json!({ "backendRef": target, "fraction": { "numerator": 0, "denominator": 0 } }),
                ),
                "filters[0].requestMirror.fraction.denominator: \"0\" is no whole number from 1",
            ),
            (
                redirect(json!({ "scheme": "ftp" })),
                "filters[0].requestRedirect.scheme: \"ftp\" is neither",
            ),
            (
                redirect(json!({ "hostname": "A.b" })),
                "filters[0].requestRedirect.hostname: \"A.b\" is no",
            ),
            (
                redirect(json!({ "port": 0 })),
                "filters[0].requestRedirect.port: \"0\" is no whole number",
            ),
            (
                redirect(json!({ "statusCode": 304 })),
                "filters[0].requestRedirect.statusCode: 304 is none",
            ),
            (redirect(json!({ "path": {} })), "filters[0].requestRedirect.path.type: missing"),
            (
                redirect(json!({ "path": { "type": "Regex" } })),
                "filters[0].requestRedirect.path.type: \"Regex\" is none of ReplaceFullPath",
            ),
            (
                redirect(json!({ "path": { "type": "ReplaceFullPath" } })),
                "filters[0].requestRedirect.path.replaceFullPath: missing",
            ),
            (
                redirect(json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/",
                "replacePrefixMatch": "/" } })),
                "filters[0].requestRedirect.path.replacePrefixMatch: not of this type",
            ),
            (
                rewrite(json!({ "hostname": "*.a" })),
                "filters[0].urlRewrite.hostname: \"*.a\" is no name",
            ),
            (
                rewrite(json!({ "path": { "type": "ReplaceFullPath",
                "replaceFullPath": format!("/{}", text(1024)) } })),
                "filters[0].urlRewrite.path.replaceFullPath: longer than 1024",
            ),
            (
                json!({ "filters": [one("RequestRedirect", "requestRedirect")],
                "backendRefs": [target] }),
                "filters: a redirect excludes backendRefs",
            ),
            (
                cors(json!({ "allowOrigins": ["*", "http://a"] })),
                "filters[0].cors.allowOrigins: has \"*\"",
            ),
            (
                cors(json!({ "allowOrigins": ["a"] })),
                "filters[0].cors.allowOrigins[0]: \"a\" is not",
            ),
            (
                cors(json!({ "allowMethods": ["get"] })),
                "filters[0].cors.allowMethods[0]: \"get\" is not",
            ),
            (
                cors(json!({ "allowMethods": ["GET", "GET"] })),
                "filters[0].cors.allowMethods[1]: \"GET\" is there already",
            ),
            (
                cors(json!({ "allowHeaders": ["a b"] })),
                "filters[0].cors.allowHeaders[0]: \"a b\" is not",
            ),
            (
                cors(json!({ "maxAge": 0 })),
                "filters[0].cors.maxAge: \"0\" is no whole number from 1",
            ),
            (
                cors(json!({ "allowCredentials": "yes" })),
                "filters[0].cors.allowCredentials: neither true",
            ),
        ],
    );
    let replaces = |matches: Value, kind: &str, field: &str| {
        json!({ "matches": matches, "filters": [{ "type": kind, field: { "path": {
            "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" } } }] })
    };
    let exact = json!([{ "path": { "type": "Exact", "value": "/a" } }]);
    for matches in [exact, json!([{}, {}]), json!([])] {
        for (kind, field) in [("URLRewrite", "urlRewrite"), ("RequestRedirect", "requestRedirect")]
        {
            let expected =
                "filters: replacePrefixMatch needs exactly one match, of type PathPrefix";
            expect_http(true, &[(replaces(matches.clone(), kind, field), expected)]);
        }
    }
    expect_http(
        false,
        &[
            (
                filter("ExtensionRef", "extensionRef", json!({})),
                "filters[0].extensionRef: filters of type ExtensionRef are not served",
            ),
            (
                filter("ExternalAuth", "externalAuth", json!({})),
                "filters[0].externalAuth: filters of type ExternalAuth are not served",
            ),
            (
                modify(json!({ "set": [{ "name": "Host", "value": "a" }] })),
                "filters[0].requestHeaderModifier.set[0].name: Host cannot be modified so",
            ),
            (
                modify(json!({ "set": [{ "name": "a", "value": "a\nb" }] })),
                "filters[0].requestHeaderModifier.set[0].value: \"a\\nb\" has control characters",
            ),
            (
                modify(json!({ "set": [{ "name": "a", "value": "1" }], "remove": ["A"] })),
                "filters[0].requestHeaderModifier: \"a\" is in two of set, add and remove",
            ),
            (
                rewrite(json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "" } })),
                "filters[0].urlRewrite.path.replaceFullPath: \"\" is no path",
            ),
            (
                rewrite(
                    json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/a?b" } }),
                ),
                "filters[0].urlRewrite.path.replaceFullPath: \"/a?b\" is no path",
            ),
        ],
    );
}

#[test]
fn a_redirect_beside_a_rewrite_is_incompatible() {
    let both = http(&json!({ "rules": [{ "filters": [
        { "type": "RequestRedirect", "requestRedirect": {} },
        { "type": "URLRewrite", "urlRewrite": {} },
    ] }] }));
    let (message, reason, flaw) = refusal(&both);
    assert_eq!(message, "spec.rules[0].filters[1]: a redirect and a rewrite exclude each other");
    assert_eq!(reason, AcceptedReason::IncompatibleFilters);
    assert!(flaw);
}

#[test]
fn a_message_is_short_however_much_is_wrong() {
    let rule = json!({ "backendRefs": many(16, |_| json!({ "name": text(10_000), "port": "x".repeat(10_000) })),
        text(10_000): 1 });
    let converted = http(&json!({ "rules": many(16, |_| rule.clone()) }));
    let (message, ..) = refusal(&converted);
    assert!(message.len() < 400, "{message}");
    assert!(message.ends_with(" (and 527 more)"), "{message}");
    assert!(converted.flaws.len() <= 16);
    assert!(converted.flaws.iter().all(|flaw| flaw.to_string().len() < 400));
}

//! Routes from a real API server, whose CRDs check them, with the rights of manifests/routes and no others.

use serde_json::{Value, json};

use super::{ApiServer, Pilot, json as get_json, until};
use crate::gateway_api;
use pilothouse_testkit::repository;

impl ApiServer {
    /// Allows `pilot` what manifests/routes allows.
    pub(super) async fn allow_routes(&self) {
        let path = repository().join("manifests/routes/cluster-role.yaml");
        self.admin.run(&["apply", "-f", &path.display().to_string()]).await;
        let patch = json!([{ "op": "replace", "path": "/subjects",
            "value": [{ "kind": "User", "name": "pilot", "apiGroup": "rbac.authorization.k8s.io" }] }]);
        let (role, patch) = ("istio-pilot-routes-istio-system", patch.to_string());
        self.admin.run(&["patch", "clusterrolebinding", role, "--type=json", "-p", &patch]).await;
    }

    async fn route(&self, name: &str, rule: Value) {
        self.admin
            .apply(&[json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": { "name": name, "namespace": "default" },
                "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "reviews" }],
                    "rules": [rule] },
            })])
            .await;
    }
}

/// Waits until sourcez is like this.
async fn shows(pilot: &Pilot, what: &str, holds: impl Fn(&Value) -> bool) {
    until(what, async || {
        let page = get_json(&format!("{}/debug/sourcez", pilot.debug)).await?;
        if holds(&page) { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
}

fn absent(page: &Value, watch: &str, words: &str) -> bool {
    let watches = page["watches"].as_array().into_iter().flatten();
    let mut named = watches.filter(|one| one["name"] == watch);
    named.any(|one| one["absent"].as_str().is_some_and(|why| why.contains(words)))
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn routes_need_crds_and_a_right_and_are_served_within_a_minute_of_both() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.service("default", "reviews", "10.1.0.1").await;
    let pilot = Pilot::start(&server, &[]).await;
    pilot.ready(200, |_| true).await;
    pilot.has_endpoints(&["10.1.0.1"]).await;
    shows(&pilot, "no CRDs", |page| {
        gateway_api::KINDS.iter().all(|kind| absent(page, kind, "the API server has no"))
    })
    .await;

    gateway_api::install(&server.admin).await;
    let all = json!({ "backendRefs": [{ "name": "reviews", "port": 80 }] });
    server.route("good", all.clone()).await;
    shows(&pilot, "no right", |page| {
        gateway_api::KINDS.iter().all(|kind| absent(page, kind, "403 Forbidden"))
    })
    .await;
    // One that starts now is held up by neither.
    let late = Pilot::start(&server, &[]).await;
    late.ready(200, |_| true).await;

    server.allow_routes().await;
    for pilot in [&pilot, &late] {
        shows(pilot, "a route", |page| page["routes"] == 1).await;
    }
    // What the CRD lets pass and nobody can serve is refused by itself.
    let regex = json!({ "path": { "type": "RegularExpression", "value": "(" } });
    server.route("bad", json!({ "matches": [regex] })).await;
    for pilot in [&pilot, &late] {
        shows(pilot, "the bad one", |page| {
            let noted = page["noted"]["HTTPRoute default/bad"].as_str().unwrap_or_default();
            page["routes"] == 2 && noted.contains("unclosed group")
        })
        .await;
    }

    gateway_api::uninstall(&server.admin).await;
    for pilot in [&pilot, &late] {
        shows(pilot, "no CRDs again", |page| {
            page["routes"] == 0
                && page["ready"] == true
                && gateway_api::KINDS.iter().all(|kind| absent(page, kind, "has no"))
        })
        .await;
    }
    // And once more.
    gateway_api::install(&server.admin).await;
    server.route("again", all).await;
    for pilot in [&pilot, &late] {
        shows(pilot, "a route again", |page| page["routes"] == 1).await;
    }
}

/// What the CRD refuses is what the source refuses, in a manifest that never met it.
#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn the_crd_refuses_what_a_manifest_is_refused_for() {
    let server = ApiServer::start(&[]).await;
    gateway_api::install(&server.admin).await;
    let file = server.dir.path().join("route.json");
    let modify = |header: Value| {
        json!({ "filters": [{ "type": "RequestHeaderModifier",
            "requestHeaderModifier": { "set": [header] } }] })
    };
    let path =
        |of: &str, value: &str| json!({ "matches": [{ "path": { "type": of, "value": value } }] });
    for (rule, good) in [
        (json!({}), true),
        (path("Exact", "/a%20b"), true),
        (path("Exact", "a"), false),
        (path("PathPrefix", "/a//b"), false),
        (path("RegularExpression", "("), true),
        (modify(json!({ "name": "a", "value": "1" })), true),
        (modify(json!({ "name": "a b", "value": "1" })), false),
        (json!({ "timeouts": { "request": "1h30m", "backendRequest": "500ms" } }), true),
        (json!({ "timeouts": { "request": "1s", "backendRequest": "2s" } }), false),
        (json!({ "timeouts": { "request": "0s", "backendRequest": "2s" } }), true),
        (json!({ "backendRefs": [{ "name": "a" }] }), false),
        (json!({ "backendRefs": [{ "name": "a", "port": 1, "weight": 1_000_001 }] }), false),
        (
            json!({ "filters": [{ "type": "RequestRedirect", "requestRedirect": {} }],
            "backendRefs": [{ "name": "a", "port": 1 }] }),
            false,
        ),
        (
            json!({ "filters": [{ "type": "CORS", "cors": { "allowOrigins": ["*", "http://a"] } }] }),
            false,
        ),
        (
            json!({ "matches": [], "filters": [{ "type": "URLRewrite", "urlRewrite": { "path": {
            "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } }] }),
            false,
        ),
    ] {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "tried", "namespace": "default" }, "spec": { "rules": [rule] },
        });
        std::fs::write(&file, route.to_string()).unwrap();
        let file = file.display().to_string();
        let taken = server.admin.attempt(&["apply", "--dry-run=server", "-f", &file]).await.is_ok();
        let from: pilothouse::source::convert::route::HttpRoute =
            serde_json::from_value(route).unwrap();
        let converted =
            pilothouse::source::convert::Converter::default().http_route(&from).unwrap();
        assert_eq!(taken, good, "the CRD: {rule}");
        assert_eq!(converted.flaws.is_empty(), good, "{rule}: {:?}", converted.flaws);
    }
}

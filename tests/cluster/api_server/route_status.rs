//! What becomes of the status of routes at the real API server: with an entry of another controller in it, with two
//! replicas that say the same, and without the right.

use serde_json::{Value, json};

use super::{ApiServer, Pilot, until};
use crate::gateway_api;
use pilothouse_testkit::{get, json as page};

const OURS: &str = "pilothouse.io/mesh";

impl ApiServer {
    /// The CRDs, a Service `web` of namespace `shop`, and the right of `pilot` to read routes, and to write their
    /// status if `may_write`.
    async fn shop_with_routes(&self, may_write: bool) {
        gateway_api::install(&self.admin).await;
        self.allow(None).await;
        self.admin.run(&["create", "namespace", "shop"]).await;
        self.service("shop", "web", "10.1.2.3").await;
        if may_write {
            self.allow_routes().await;
        } else {
            self.allow_to_read_routes().await;
        }
    }

    /// Allows `pilot` less than manifests/routes does.
    async fn allow_to_read_routes(&self) {
        let rules = json!([{ "apiGroups": ["gateway.networking.k8s.io"],
            "resources": gateway_api::KINDS, "verbs": ["get", "list", "watch"] }]);
        self.admin
            .apply(&[
                json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                    "metadata": { "name": "routes" }, "rules": rules }),
                json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                    "metadata": { "name": "routes" },
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": "routes" },
                    "subjects": [{ "kind": "User", "name": "pilot",
                        "apiGroup": "rbac.authorization.k8s.io" }] }),
            ])
            .await;
    }

    /// The route `web` with these parents, all of whose requests go to a Service.
    async fn web_route(&self, parents: Value, backend: &str) {
        self.admin
            .apply(&[json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "parentRefs": parents,
                    "rules": [{ "backendRefs": [{ "name": backend, "port": 9080 }] }] },
            })])
            .await;
    }

    async fn read_route(&self) -> Value {
        self.admin.json(&["-n", "shop", "get", "httproute", "web"]).await
    }

    /// Waits for what a route's entries, and of ours the conditions, are.
    async fn has_status(&self, wanted: &[&str]) -> Value {
        until(&format!("the status {wanted:?}"), async || {
            let route = self.read_route().await;
            let said = summary(&route);
            if said == wanted { Ok(route) } else { Err(format!("{said:?} of {route:#}")) }
        })
        .await
    }

    /// Writes an entry of another controller for a Gateway, in the place of all that is there.
    async fn write_as_another(&self) {
        let entry = json!({
            "controllerName": "example.com/gateway", "parentRef": { "name": "front" },
            "conditions": [{ "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2026-01-02T03:04:05Z" }],
        });
        let patch = json!({ "status": { "parents": [entry] } }).to_string();
        let patch = ["--subresource=status", "--type=merge", "-p", &patch];
        self.admin.run(&[&["-n", "shop", "patch", "httproute", "web"], &patch[..]].concat()).await;
    }
}

fn service() -> Value {
    json!({ "group": "", "kind": "Service", "name": "web" })
}

fn gateway() -> Value {
    json!({ "name": "front" })
}

/// The entries in their order: another controller's by the parent's name, ours with generation and reasons.
fn summary(route: &Value) -> Vec<String> {
    let entries = route["status"]["parents"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .map(|entry| {
            let parent = text(&entry["parentRef"]["name"]);
            if entry["controllerName"] != OURS {
                return format!("other {parent}");
            }
            let conditions = entry["conditions"].as_array().unwrap().iter();
            let said: Vec<_> = conditions
                .map(|one| {
                    format!(
                        "{}={}@{}",
                        text(&one["type"]),
                        text(&one["reason"]),
                        one["observedGeneration"]
                    )
                })
                .collect();
            format!("{parent} {}", said.join(" "))
        })
        .collect()
}

async fn metric(pilot: &Pilot, result: &str) -> Result<u64, String> {
    let (_, page) = get(&format!("{}/metrics", pilot.monitoring)).await?;
    let sample = format!("pilothouse_route_statuses_total{{result=\"{result}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
    value.ok_or(page)
}

/// What of both replicas has been written, once neither has anything left to look at.
async fn written(pilots: &[&Pilot]) -> u64 {
    let mut all = 0;
    for pilot in pilots {
        until("nothing to be left to look at", async || {
            let status = &page(&format!("{}/debug/sourcez", pilot.debug)).await?["routeStatus"];
            if status["waiting"] == 0 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        all += metric(pilot, "written").await.unwrap();
    }
    all
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn replicas_write_one_status_and_others_keep_theirs() {
    let server = ApiServer::start(&[]).await;
    server.shop_with_routes(true).await;
    server.web_route(json!([gateway(), service()]), "web").await;
    server.write_as_another().await;
    let (one, two) = (Pilot::start(&server, &[]).await, Pilot::start(&server, &[]).await);
    let pilots = [&one, &two];
    let sound = |generation: u32| {
        format!("web Accepted=Accepted@{generation} ResolvedRefs=ResolvedRefs@{generation}")
    };
    let first = server.has_status(&["other front", &sound(1)]).await;
    let fields = first["metadata"]["managedFields"].as_array();
    assert!(fields.is_none_or(|all| all.iter().any(|one| one["manager"] == "pilothouse")));
    assert_eq!(written(&pilots).await, 1, "one of them, once");

    // A backend that is not there is no transition of Accepted.
    server.web_route(json!([gateway(), service()]), "none").await;
    let missing = "web Accepted=Accepted@2 ResolvedRefs=BackendNotFound@2";
    let second = server.has_status(&["other front", missing]).await;
    let since = |route: &Value| {
        route["status"]["parents"][1]["conditions"][0]["lastTransitionTime"].clone()
    };
    assert_eq!(since(&second), since(&first));
    assert_eq!(written(&pilots).await, 2);

    // Created anew with what it was: the generation is 1 again, and there is no status.
    server.admin.run(&["-n", "shop", "delete", "httproute", "web"]).await;
    server.web_route(json!([gateway(), service()]), "none").await;
    server.has_status(&["web Accepted=Accepted@1 ResolvedRefs=BackendNotFound@1"]).await;

    // Another parent: our entry goes, and what is left is nobody's business.
    server.write_as_another().await;
    server.web_route(json!([gateway()]), "web").await;
    server.has_status(&["other front"]).await;
    let before = written(&pilots).await;
    server.web_route(json!([gateway()]), "none").await;
    let other = json!([gateway(), { "name": "back" }]);
    server.web_route(other, "web").await;
    let at_rest = server.has_status(&["other front"]).await;
    until("both to have seen it", async || {
        for pilot in pilots {
            let routes = page(&format!("{}/debug/routes", pilot.debug)).await?;
            if routes["routes"][0]["parents"].as_array().is_none_or(|all| all.len() != 2) {
                return Err(routes.to_string());
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(written(&pilots).await, before);
    assert_eq!(
        server.read_route().await["metadata"]["resourceVersion"],
        at_rest["metadata"]["resourceVersion"]
    );
    for pilot in pilots {
        assert_eq!(metric(pilot, "failed").await, Ok(0));
        assert_eq!(metric(pilot, "forbidden").await, Ok(0));
    }
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn without_the_right_to_write_routes_are_served_and_that_is_said_once() {
    let server = ApiServer::start(&[]).await;
    server.shop_with_routes(false).await;
    server.web_route(json!([service()]), "web").await;
    let pilot = Pilot::start(&server, &[]).await;
    let status = until("the missing right to be told", async || {
        let status = page(&format!("{}/debug/sourcez", pilot.debug)).await?["routeStatus"].clone();
        if status["lastError"].is_string() { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let error = status["lastError"].as_str().unwrap();
    assert!(
        error.contains("patch httproutes/status") && error.contains("manifests/routes"),
        "{error}"
    );
    assert_eq!(status["waiting"], 1);
    assert_eq!(metric(&pilot, "forbidden").await, Ok(1));
    // A change does not make it ask again before its time, and is served.
    server.web_route(json!([service()]), "none").await;
    until("the change to be in effect", async || {
        let service = page(&format!("{}/debug/services/shop/web", pilot.debug)).await?;
        let problem = &service["rules"]["problems"][0]["resolved_refs"]["reason"];
        if problem == "BackendNotFound" { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    assert_eq!(metric(&pilot, "forbidden").await, Ok(1));
    let log = pilot.process.log();
    assert_eq!(log.matches("cannot write the status of routes").count(), 1, "{log}");
    assert_eq!(summary(&server.read_route().await), <[String; 0]>::default());
    // Whoever has the right writes it.
    server.allow_routes().await;
    let other = Pilot::start(&server, &[]).await;
    server.has_status(&["web Accepted=Accepted@2 ResolvedRefs=BackendNotFound@2"]).await;
    assert_eq!(written(&[&other]).await, 1);
}

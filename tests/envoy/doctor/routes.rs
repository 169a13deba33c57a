//! `--service` where routes lead its requests: from the control plane's page of it, and from Envoy alone.

use serde_json::{Value, json};

use super::doctor;
use super::proxy::examine;
use crate::routes::put_route;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{VISIBLE, eventually};

/// Puts an HTTPRoute with this rule for the Service `default/web` in the place of the one of this namespace.
fn put(lab: &Lab, namespace: &str, path: &str, backend: Value) {
    let rule = json!({ "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
        "backendRefs": [backend] });
    put_route(lab, namespace, "split", &json!([rule]));
}

fn to(name: &str, namespace: &str) -> Value {
    json!({ "name": name, "namespace": namespace, "port": 80 })
}

/// Waits until the doctor says so: what was put there takes a moment to arrive.
async fn says(lab: &Lab, more: &[&str], code: &str, exit: i32) -> Value {
    let arguments = [&["--service", "web"], more].concat();
    eventually(VISIBLE, code, async || {
        let said = examine(&lab.envoy, &lab.control, &arguments).await;
        if said.json["code"] == code && said.exit == Some(exit) {
            Ok(said.json)
        } else {
            Err(format!("{:#}", said.json))
        }
    })
    .await
}

#[tokio::test]
async fn what_routes_do_with_requests_is_told() {
    let v1 = Backend::http("v1").await;
    let services = [
        // Nobody is behind it: its route leads elsewhere.
        Service::new("web", "http", 80),
        Service::new("v1", "http", 80).with([&v1]),
        Service::new("empty", "http", 80),
        Service::new("far", "http", 80).in_namespace("other").with([&v1]),
    ];
    let lab = Lab::start(Sample::Standalone, Wire::Sotw, &services).await;
    says(&lab, &[], "service_selects_no_pod", 1).await;

    put(&lab, "default", "/shop", to("v1", "default"));
    let said = says(&lab, &[], "all_well", 0).await;
    assert!(said["notes"].to_string().contains("matches GET / on port 80"), "{said:#}");
    let cause = says(&lab, &["--path", "/shopping"], "route_no_rule_matches", 1).await;
    assert!(cause["cause"].to_string().contains("GET /shopping on port 80"), "{cause:#}");
    let said = says(&lab, &["--path", "/shop/cart"], "all_well", 0).await;
    assert!(said["links"].to_string().contains("is for default/split.0"), "{said:#}");

    // One of another namespace concerns nobody here.
    put(&lab, "other", "/", to("far", "other"));
    eventually(VISIBLE, "the consumer route to be noted", async || {
        let said = examine(&lab.envoy, &lab.control, &["--service", "web"]).await;
        let notes = said.json["notes"].to_string();
        if said.exit == Some(0) && notes.contains("HTTPRoute other/split of namespace other") {
            Ok(())
        } else {
            Err(format!("{:#}", said.json))
        }
    })
    .await;

    put(&lab, "default", "/", to("empty", "default"));
    let said = says(&lab, &[], "route_backends_no_endpoints", 1).await;
    assert!(said["cause"].to_string().contains("default/empty:80"), "{said:#}");
    // By Envoy alone as well, which does not know the reasons below.
    let (admin, monitoring) = (lab.envoy.admin.to_string(), lab.control.monitoring.to_string());
    let places = ["--admin-address", &admin, "--monitoring-address", &monitoring];
    let by_envoy = [&places[..], &["--debug-address", "127.0.0.1:1", "--service", "web"]].concat();
    doctor(&by_envoy).await.is("route_backends_no_endpoints", 1);

    for (name, namespace, code) in [
        ("none", "default", "route_backend_not_found"),
        ("far", "other", "route_reference_not_granted"),
    ] {
        put(&lab, "default", "/", to(name, namespace));
        let said = says(&lab, &[], code, 1).await;
        assert!(said["cause"].to_string().contains("HTTPRoute default/split"), "{said:#}");
    }
    doctor(&by_envoy).await.is("route_backend_invalid", 1);

    let mut refused = to("v1", "default");
    refused["filters"] = json!([{ "type": "RequestRedirect",
        "requestRedirect": { "hostname": "example.com" } }]);
    put(&lab, "default", "/", refused);
    let said = says(&lab, &[], "route_not_accepted", 1).await;
    assert!(
        said["cause"].to_string().contains("does not apply to service default/web"),
        "{said:#}"
    );
}

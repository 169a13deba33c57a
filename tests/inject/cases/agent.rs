//! What the agent in the pod is told: the application's probes, Istio's proxy configuration, how long the
//! end may take.

use serde_json::{Value, json};

use super::{container, env, injected, pod, refused};

#[test]
fn every_probe_that_goes_over_the_network_is_led_to_the_agent() {
    let spec = json!({
        "containers": [
            {
                "name": "web", "image": "a",
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "livenessProbe": {
                    "httpGet": {
                        "path": "/live?x", "port": "http", "scheme": "HTTPS",
                        "httpHeaders": [{ "name": "Host", "value": "web" }],
                    },
                    "timeoutSeconds": 3, "periodSeconds": 7, "terminationGracePeriodSeconds": 2,
                },
                "readinessProbe": { "failureThreshold": 2, "tcpSocket": { "port": 8080 } },
                "startupProbe": { "grpc": { "port": 9000, "service": "s" } },
            },
            {
                "name": "aside", "image": "a",
                "livenessProbe": { "exec": { "command": ["true"] } },
                "readinessProbe": { "httpGet": { "port": 80, "host": "elsewhere.example" } },
                "startupProbe": { "tcpSocket": { "port": "unknown" } },
            },
        ],
    });
    let (with, notes) = injected(&pod(json!({}), spec.clone()), &[]);
    assert_eq!(notes, "");
    let web = container(&with, "web");
    assert_eq!(
        web["livenessProbe"],
        json!({
            "httpGet": {
                "path": "/app-health/web/livez", "port": 15020, "scheme": "HTTP",
                "httpHeaders": [{ "name": "Host", "value": "web" }],
            },
            "timeoutSeconds": 3, "periodSeconds": 7, "terminationGracePeriodSeconds": 2,
        })
    );
    let get = |path: &str| json!({ "path": path, "port": 15020 });
    assert_eq!(
        web["readinessProbe"],
        json!({ "failureThreshold": 2, "httpGet": get("/app-health/web/readyz") })
    );
    assert_eq!(web["startupProbe"], json!({ "httpGet": get("/app-health/web/startupz") }));
    assert_eq!(*container(&with, "aside"), spec["containers"][1]);
    let probers = env(container(&with, "istio-proxy"), "ISTIO_KUBE_APP_PROBERS").concat();
    assert_eq!(
        serde_json::from_str::<Value>(&probers).unwrap(),
        json!({
            "/app-health/web/livez": {
                "httpGet": {
                    "path": "/live?x", "port": 8080, "scheme": "HTTPS",
                    "httpHeaders": [{ "name": "Host", "value": "web" }],
                },
                "timeoutSeconds": 3,
            },
            "/app-health/web/readyz": { "tcpSocket": { "port": 8080 } },
            "/app-health/web/startupz": { "grpc": { "port": 9000, "service": "s" } },
        })
    );

    let off = json!({ "sidecar.istio.io/rewriteAppHTTPProbers": "false" });
    let (without, _) = injected(&pod(off, spec.clone()), &[]);
    assert_eq!(*container(&without, "web"), spec["containers"][0]);
    assert!(env(container(&without, "istio-proxy"), "ISTIO_KUBE_APP_PROBERS").is_empty());
}

#[test]
fn hooks_that_go_over_the_network_are_led_to_the_agent() {
    let spec = json!({
        "containers": [
            {
                "name": "web", "image": "a",
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "lifecycle": {
                    "stopSignal": "SIGUSR1",
                    "postStart": { "httpGet": { "path": "/warm", "port": "http" } },
                    "preStop": { "tcpSocket": { "port": 8081 } },
                },
            },
            {
                "name": "aside", "image": "a",
                "lifecycle": {
                    "postStart": { "exec": { "command": ["true"] } },
                    "preStop": { "sleep": { "seconds": 5 } },
                },
            },
        ],
    });
    let (with, notes) = injected(&pod(json!({}), spec.clone()), &["--native-sidecar"]);
    assert_eq!(notes, "");
    let get = |path: &str| json!({ "httpGet": { "path": path, "port": 15020 } });
    assert_eq!(
        container(&with, "web")["lifecycle"],
        json!({
            "stopSignal": "SIGUSR1",
            "postStart": get("/app-lifecycle/web/poststartz"),
            "preStop": get("/app-lifecycle/web/prestopz"),
        })
    );
    assert_eq!(*container(&with, "aside"), spec["containers"][1]);
    let probers = env(container(&with, "istio-proxy"), "ISTIO_KUBE_APP_PROBERS").concat();
    assert_eq!(
        serde_json::from_str::<Value>(&probers).unwrap(),
        json!({
            "/app-lifecycle/web/poststartz": { "httpGet": { "path": "/warm", "port": 8080 } },
            "/app-lifecycle/web/prestopz": { "tcpSocket": { "port": 8081 } },
        })
    );
    // The kubelet starts the proxy after this container.
    let (_, notes) = injected(&pod(json!({}), spec), &[]);
    assert!(notes.contains("postStart hook of its container web fails until"), "{notes}");
    assert!(!notes.contains("aside"), "{notes}");
}

#[test]
fn init_containers_are_probed_by_the_agent_where_it_runs_before_them() {
    let helper = json!({
        "name": "helper", "image": "a", "restartPolicy": "Always",
        "startupProbe": { "tcpSocket": { "port": 8080 } },
    });
    let with_helper = pod(json!({}), json!({ "initContainers": [helper] }));
    let (native, notes) = injected(&with_helper, &["--native-sidecar"]);
    assert_eq!(notes, "");
    assert_eq!(
        container(&native, "helper")["startupProbe"]["httpGet"]["path"],
        "/app-health/helper/startupz"
    );
    let (plain, notes) = injected(&with_helper, &[]);
    assert!(notes.contains("the probes of its init container helper stay as they are"), "{notes}");
    assert_eq!(*container(&plain, "helper"), helper);
}

#[test]
fn istios_proxy_configuration_reaches_the_agent() {
    let config = "concurrency: 4\nterminationDrainDuration: 20s\nproxyMetadata:\n  MINIMUM_DRAIN_DURATION: 7s\n";
    let flags = ["--termination-drain-duration=9s"];
    let (with, notes) =
        injected(&pod(json!({ "proxy.istio.io/config": config }), json!({})), &flags);
    let proxy = container(&with, "istio-proxy");
    assert_eq!(notes, "");
    assert_eq!(env(proxy, "PROXY_CONFIG"), [config.trim_end()]);
    assert_eq!(env(proxy, "MINIMUM_DRAIN_DURATION"), ["7s"]);
    let discovery = "--discovery-address=istio-pilot.istio-system:15010";
    assert_eq!(proxy["args"], json!(["agent", discovery]), "what the pod says is above the flag");

    let named = json!({
        "proxy.istio.io/config": "{discoveryAddress: 'pilot.mesh:15010', terminationDrainDuration: 20s}",
        "pilothouse.io/termination-drain-duration": "30s",
    });
    let (with, _) = injected(&pod(named, json!({})), &flags);
    let args = &container(&with, "istio-proxy")["args"];
    assert_eq!(*args, json!(["agent", "--termination-drain-duration=30s"]));
    let (with, _) = injected(&pod(json!({}), json!({})), &flags);
    let args = &container(&with, "istio-proxy")["args"];
    assert_eq!(*args, json!(["agent", discovery, "--termination-drain-duration=9s"]));
}

#[test]
fn the_agent_is_told_the_grace_period_that_it_has() {
    let grace = |spec: Value, flags: &[&str]| {
        let (pod, _) = injected(&pod(json!({}), spec), flags);
        env(container(&pod, "istio-proxy"), "PILOTHOUSE_TERMINATION_GRACE_PERIOD").concat()
    };
    assert_eq!(grace(json!({}), &[]), "30s");
    assert_eq!(grace(json!({ "terminationGracePeriodSeconds": 120 }), &[]), "120s");
    // It is asked to end when the application has ended.
    assert_eq!(grace(json!({}), &["--native-sidecar"]), "");
}

#[test]
fn clusters_come_on_demand_where_pod_or_settings_say_so() {
    let told = |annotations: Value, flags: &[&str]| {
        let (pod, notes) = injected(&pod(annotations, json!({})), flags);
        let arguments = container(&pod, "istio-proxy")["args"].as_array().unwrap().clone();
        let told = |one: &Value| Some(one.as_str()?.to_owned());
        let of = |one: &String| one.starts_with("--discovery=") || one.starts_with("--uses=");
        (arguments.iter().filter_map(told).filter(of).collect::<Vec<_>>(), notes)
    };
    let on_demand = "pilothouse.io/discovery";
    let nothing = (Vec::new(), String::new());
    assert_eq!(told(json!({}), &[]), nothing);
    assert_eq!(told(json!({ on_demand: "all" }), &["--discovery=on-demand"]), nothing);
    for (annotations, flags) in
        [(json!({ on_demand: "on-demand" }), &[][..]), (json!({}), &["--discovery=on-demand"])]
    {
        let wanted = (vec!["--discovery=on-demand".to_owned()], String::new());
        assert_eq!(told(annotations, flags), wanted);
    }
    let uses = json!({ "pilothouse.io/uses": "reviews, ratings.shop reviews" });
    let (arguments, notes) = told(uses.clone(), &["--discovery=on-demand"]);
    assert_eq!(arguments, ["--discovery=on-demand", "--uses=reviews,ratings.shop"]);
    assert_eq!(notes, "");
    let (arguments, notes) = told(uses, &[]);
    assert!(arguments.is_empty(), "{arguments:?}");
    assert!(notes.contains("annotation pilothouse.io/uses has no effect without"), "{notes}");

    // Where nothing is captured everything is needed; a setting for many is no fault of one.
    let uncaptured = "sidecar.istio.io/interceptionMode";
    assert_eq!(told(json!({ uncaptured: "NONE" }), &["--discovery=on-demand"]), nothing);
    let (arguments, notes) = told(json!({ uncaptured: "NONE", on_demand: "on-demand" }), &[]);
    assert!(arguments.is_empty(), "{arguments:?}");
    assert!(notes.contains("annotation pilothouse.io/discovery has no effect"), "{notes}");

    let sotw = "proxyMetadata: {PILOTHOUSE_XDS: sotw}";
    let (arguments, notes) =
        told(json!({ "proxy.istio.io/config": sotw }), &["--discovery=on-demand"]);
    assert!(arguments.is_empty(), "{arguments:?}");
    assert!(notes.contains("is sotw, and clusters on demand need delta"), "{notes}");
    let both = json!({ "proxy.istio.io/config": sotw, on_demand: "on-demand" });
    let said = refused(&pod(both, json!({})), &[]);
    assert!(said.contains("annotation pilothouse.io/discovery: PILOTHOUSE_XDS"), "{said}");
}

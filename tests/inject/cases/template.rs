//! What Istio's template gives a pod beside its containers: metadata for tools, metrics, volumes, TLS, and
//! in which order things start.

use pilothouse::sidecar::inject::{Injected, Settings, inject_pod};
use serde_json::{Value, json};

use super::{container, env, injected, pod, refused};

const SCRAPING: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

/// The annotations for Prometheus of an injected pod, and what its agent is told.
fn scraping(annotations: Value, flags: &[&str]) -> ([Value; 3], String, String) {
    let (pod, notes) = injected(&pod(annotations, json!({})), flags);
    let of = |name: &str| pod["metadata"]["annotations"][format!("prometheus.io/{name}")].clone();
    let told = env(container(&pod, "istio-proxy"), SCRAPING).concat();
    (["scrape", "port", "path"].map(of), told, notes)
}

#[test]
fn annotations_for_prometheus_are_led_to_the_agent() {
    let agents = [json!("true"), json!("15020"), json!("/stats/prometheus")];
    let (found, told, notes) = scraping(json!({}), &[]);
    assert_eq!((found, told, notes), (agents.clone(), String::new(), String::new()));

    let own = json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "9102" });
    let (found, told, _) = scraping(own.clone(), &[]);
    assert_eq!(found, agents);
    assert_eq!(told, r#"{"scrape":"true","path":"","port":"9102"}"#);
    // Prometheus makes the same label of both names.
    let other = json!({ "prometheus.io.port": "9102", "prometheus_io_path": "/m" });
    let (with, _) = injected(&pod(other, json!({})), &[]);
    let annotations = with["metadata"]["annotations"].as_object().unwrap();
    assert!(!annotations.contains_key("prometheus.io.port"), "{annotations:?}");
    assert!(!annotations.contains_key("prometheus_io_path"), "{annotations:?}");
    let told = env(container(&with, "istio-proxy"), SCRAPING).concat();
    assert_eq!(told, r#"{"scrape":"","path":"/m","port":"9102"}"#);

    let (found, _, _) = scraping(json!({ "status.sidecar.istio.io/port": "16020" }), &[]);
    assert_eq!(found[1], "16020");
}

#[test]
fn annotations_for_prometheus_stay_where_that_is_wanted() {
    let merge = "prometheus.istio.io/merge-metrics";
    for (annotations, flags, said) in [
        (json!({ "prometheus.io/scrape": "false", "prometheus.io/port": "http" }), &[][..], ""),
        (json!({ "prometheus.io/port": "9102", merge: "false" }), &[], ""),
        (json!({ "prometheus.io/port": "9102" }), &["--prometheus-merge=false"], ""),
        (json!({ "prometheus.io/port": "15020", "prometheus.io/path": "/mine" }), &[], ""),
        (
            json!({ "prometheus.io/port": "9102", "prometheus.io/scheme": "https" }),
            &[],
            "prometheus.io/scheme is \"https\": the agent asks applications over HTTP only",
        ),
        (
            json!({ "prometheus.io/scrape": "yes" }),
            &[],
            "prometheus.io/scrape is \"yes\", which Prometheus takes for no",
        ),
    ] {
        let (found, told, notes) = scraping(annotations.clone(), flags);
        let of = |name: &str| annotations[format!("prometheus.io/{name}")].clone();
        assert_eq!(found, ["scrape", "port", "path"].map(of), "{annotations}");
        assert_eq!(told, "", "{annotations}");
        assert!(notes.contains(said) && (said.is_empty() == notes.is_empty()), "{notes}");
    }
    // The annotation is above the flag.
    let (_, told, _) = scraping(
        json!({ "prometheus.io/port": "9102", merge: "true" }),
        &["--prometheus-merge=false"],
    );
    assert!(told.contains("9102"), "{told}");
}

#[test]
fn the_proxy_is_told_what_it_belongs_to() {
    let spec = json!({ "containers": [{
        "name": "app", "image": "app:1", "ports": [{ "containerPort": 8080, "name": "http" }],
    }] });
    let flags = ["--cluster-id=east", "--mesh-id=mine", "--network=north"];
    let (with, _) = injected(&pod(json!({}), spec.clone()), &flags);
    let proxy = container(&with, "istio-proxy");
    for (name, value) in [
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_META_MESH_ID", "mine"),
        ("ISTIO_META_NETWORK", "north"),
        ("ISTIO_META_OWNER", "kubernetes://apis/v1/namespaces/$(POD_NAMESPACE)/pods/a"),
        ("ISTIO_META_WORKLOAD_NAME", "a"),
        ("ISTIO_META_APP_CONTAINERS", "app"),
        ("ISTIO_META_POD_PORTS", r#"[{"name":"http","containerPort":8080}]"#),
    ] {
        assert_eq!(env(proxy, name), [value], "{name}");
    }
    assert_eq!(with["metadata"]["labels"]["topology.istio.io/network"], "north");
    let variables = proxy["env"].as_array().unwrap();
    let account = variables.iter().find(|one| one["name"] == "SERVICE_ACCOUNT").unwrap();
    assert_eq!(account["valueFrom"]["fieldRef"]["fieldPath"], "spec.serviceAccountName");

    let (plain, _) = injected(&pod(json!({}), spec), &[]);
    let proxy = container(&plain, "istio-proxy");
    assert_eq!(env(proxy, "ISTIO_META_CLUSTER_ID"), ["Kubernetes"]);
    assert_eq!(env(proxy, "ISTIO_META_MESH_ID"), ["cluster.local"]);
    assert!(env(proxy, "ISTIO_META_NETWORK").is_empty());
}

#[test]
fn labels_are_istios_canonical_ones() {
    let long = "x".repeat(62) + "-y";
    let cut = "x".repeat(62);
    for (labels, name, revision) in [
        (json!({}), "a", "latest"),
        (json!({ "app": "web", "version": "v2" }), "web", "v2"),
        (
            json!({ "app": "web", "app.kubernetes.io/name": "shop", "app.kubernetes.io/version": "3" }),
            "shop",
            "3",
        ),
        (
            json!({ "app": "web", "service.istio.io/canonical-name": "own", "service.istio.io/canonical-revision": "r" }),
            "own",
            "r",
        ),
        (json!({ "app": long }), &*cut, "latest"),
    ] {
        let mut pod = pod(json!({}), json!({}));
        pod["metadata"]["labels"] = labels;
        let (with, _) = injected(&pod, &[]);
        let found = &with["metadata"]["labels"];
        assert_eq!(found["service.istio.io/canonical-name"], name, "{pod}");
        assert_eq!(found["service.istio.io/canonical-revision"], revision, "{pod}");
        // It would tell Istio's proxies to speak mutual TLS to this one.
        assert_eq!(found.get("security.istio.io/tlsMode"), None);
    }
}

#[test]
fn the_status_names_all_that_was_added() {
    let annotations = json!({ "sidecar.istio.io/userVolume": "{\"scratch\": {\"emptyDir\": {}}}" });
    let flags = ["--image-pull-secret=registry", "--image-pull-secret=other", "--tls=token"];
    let secrets = json!({ "imagePullSecrets": [{ "name": "other" }] });
    let (with, _) = injected(&pod(annotations, secrets), &flags);
    assert_eq!(
        with["spec"]["imagePullSecrets"],
        json!([{ "name": "other" }, { "name": "registry" }])
    );
    let status = with["metadata"]["annotations"]["sidecar.istio.io/status"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(status).unwrap(),
        json!({
            "initContainers": ["istio-init"], "containers": ["istio-proxy"],
            "volumes": ["istio-envoy", "istio-podinfo", "istio-token", "pilothouse-tls", "scratch"],
            "imagePullSecrets": ["registry", "other"], "revision": "default",
        })
    );
}

#[test]
fn volumes_of_the_author_are_mounted_into_the_proxy() {
    let annotations = json!({
        "sidecar.istio.io/userVolume":
            r#"{"certs": {"secret": {"secretName": "mine", "optional": true}}}"#,
        "sidecar.istio.io/userVolumeMount":
            r#"{"certs": {"mountPath": "/etc/mine", "readOnly": true}, "data": {"mountPath": "/data"}}"#,
    });
    let spec = json!({ "volumes": [{ "name": "data", "emptyDir": {} }] });
    let (with, notes) = injected(&pod(annotations.clone(), spec), &[]);
    assert_eq!(notes, "");
    let volumes = with["spec"]["volumes"].as_array().unwrap();
    let certs = json!({ "name": "certs", "secret": { "secretName": "mine", "optional": true } });
    assert!(volumes.contains(&certs), "{volumes:?}");
    let mounts = container(&with, "istio-proxy")["volumeMounts"].as_array().unwrap();
    for mount in [
        json!({ "name": "certs", "mountPath": "/etc/mine", "readOnly": true }),
        json!({ "name": "data", "mountPath": "/data" }),
    ] {
        assert!(mounts.contains(&mount), "{mounts:?}");
    }
    let taken = json!({ "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "certs", "emptyDir": {} }] });
    let said = refused(&pod(annotations, taken), &[]);
    assert!(said.contains("userVolume: the pod has a volume certs already"), "{said}");
}

#[test]
fn tls_brings_its_files() {
    let mounted = |flags: &[&str], annotations: Value| {
        let (pod, notes) = injected(&pod(annotations, json!({})), flags);
        assert_eq!(notes, "", "{flags:?}");
        let proxy = container(&pod, "istio-proxy");
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let volume = |name: &str| {
            let found = volumes.iter().find(|volume| volume["name"] == name);
            let mounts = proxy["volumeMounts"].as_array().unwrap().iter();
            let at =
                mounts.filter(|mount| mount["name"] == name).map(|one| one["mountPath"].clone());
            (found.cloned().unwrap_or_default(), at.collect::<Vec<_>>())
        };
        let tls = env(proxy, "PILOTHOUSE_TLS").concat();
        let address = proxy["args"][1].as_str().unwrap().to_owned();
        (tls, address, volume("pilothouse-tls"), volume("istio-token"))
    };
    let none = (Value::Null, Vec::new());
    let secure = "--discovery-address=istio-pilot.istio-system.svc:15012";
    let folder = json!("/var/run/secrets/pilothouse/tls");

    let off = mounted(&[], json!({}));
    let plain = "--discovery-address=istio-pilot.istio-system:15010".to_owned();
    assert_eq!(off, (String::new(), plain, none.clone(), none.clone()));

    let (tls, address, files, token) = mounted(&["--tls=certificate"], json!({}));
    assert_eq!((&*tls, &*address, token), ("certificate", secure, none));
    assert_eq!(files.0["secret"], json!({ "secretName": "pilothouse-proxy-tls" }));
    assert_eq!(files.1, std::slice::from_ref(&folder));

    let by_pod = json!({ "proxy.istio.io/config": "proxyMetadata: {PILOTHOUSE_TLS: token}" });
    for (flags, annotations) in [(&["--tls=token"][..], json!({})), (&[], by_pod)] {
        let (tls, address, files, token) = mounted(flags, annotations);
        assert_eq!((&*tls, &*address), ("token", secure));
        assert_eq!(files.0["configMap"], json!({ "name": "pilothouse-ca" }));
        assert_eq!(files.1, std::slice::from_ref(&folder));
        assert_eq!(token.1, [json!("/var/run/secrets/tokens")]);
        let wanted =
            json!({ "path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200 });
        assert_eq!(token.0["projected"]["sources"], json!([{ "serviceAccountToken": wanted }]));
    }
    let named = ["--tls=certificate", "--tls-secret=mine", "--discovery-address=pilot:443"];
    let (_, address, files, _) = mounted(&named, json!({}));
    assert_eq!(address, "--discovery-address=pilot:443");
    assert_eq!(files.0["secret"]["secretName"], "mine");
}

#[test]
fn readiness_is_asked_for_as_the_pod_says() {
    let annotations = json!({
        "status.sidecar.istio.io/port": "16020",
        "readiness.status.sidecar.istio.io/initialDelaySeconds": "0",
        "readiness.status.sidecar.istio.io/periodSeconds": "7",
        "readiness.status.sidecar.istio.io/failureThreshold": "9",
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
    });
    let spec = json!({ "containers": [{
        "name": "app", "image": "app:1", "livenessProbe": { "tcpSocket": { "port": 8080 } },
    }] });
    let (with, _) = injected(&pod(annotations, spec), &["--native-sidecar"]);
    let proxy = container(&with, "istio-proxy");
    let readiness = &proxy["readinessProbe"];
    for (field, value) in
        [("initialDelaySeconds", 0), ("periodSeconds", 7), ("failureThreshold", 9)]
    {
        assert_eq!(readiness[field], value, "{field}");
    }
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        assert_eq!(proxy[probe]["httpGet"]["port"], 16020, "{probe}");
    }
    assert!(proxy["args"].as_array().unwrap().contains(&json!("--status-addr=:16020")));
    assert_eq!(container(&with, "istio-init")["args"], json!(["iptables", "-d", "22,16020"]));
    assert_eq!(container(&with, "app")["livenessProbe"]["httpGet"]["port"], 16020);

    let (off, _) = injected(
        &pod(json!({ "status.sidecar.istio.io/port": "0" }), json!({})),
        &["--native-sidecar"],
    );
    let proxy = container(&off, "istio-proxy");
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        assert_eq!(proxy.get(probe), None, "{probe}");
    }
    assert_eq!(container(&off, "istio-init")["args"], json!(["iptables"]));
}

#[test]
fn settings_say_what_is_captured_where_the_pod_does_not() {
    let flags = ["--exclude-outbound-ports=3306", "--exclude-inbound-ports=22"];
    let own = json!({ "traffic.sidecar.istio.io/excludeInboundPorts": "9000" });
    let (with, _) = injected(&pod(own, json!({})), &flags);
    assert_eq!(
        container(&with, "istio-init")["args"],
        json!(["iptables", "-d", "9000", "-o", "3306"])
    );
}

#[test]
fn the_application_is_held_until_the_proxy_serves() {
    let config = |held: bool| json!({ "proxy.istio.io/config": format!("holdApplicationUntilProxyStarts: {held}") });
    let held = ["--hold-application-until-proxy-starts"];
    for (annotations, flags, first) in [
        (config(true), &[][..], "istio-proxy"),
        (json!({}), &held, "istio-proxy"),
        (config(false), &held, "app"),
        (json!({}), &[], "app"),
    ] {
        let (pod, notes) = injected(&pod(annotations, json!({})), flags);
        assert_eq!(notes, "");
        assert_eq!(pod["spec"]["containers"][0]["name"], first);
        let hook = &container(&pod, "istio-proxy")["lifecycle"]["postStart"]["exec"]["command"];
        match first {
            "istio-proxy" => assert_eq!(*hook, json!(["pilothouse", "agent-wait"])),
            _ => assert_eq!(*hook, Value::Null),
        }
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "app");
    }
    // A native sidecar has its startup probe.
    let (native, _) = injected(&pod(config(true), json!({})), &["--native-sidecar"]);
    assert_eq!(container(&native, "istio-proxy").get("lifecycle"), None);
    // Nor is there anything to warn of.
    let hooked = json!({ "containers": [{
        "name": "app", "image": "app:1",
        "lifecycle": { "postStart": { "httpGet": { "path": "/", "port": 8080 } } },
    }] });
    assert_eq!(injected(&pod(config(true), hooked), &[]).1, "");
}

#[test]
fn a_pod_for_pod_security_restricted_has_a_sidecar_for_it() {
    let app = |profile: Value| {
        json!({ "containers": [{
            "name": "app", "image": "app:1", "securityContext": { "seccompProfile": profile },
        }] })
    };
    let profile = |pod: &Value, flags: &[&str]| {
        let (pod, _) = injected(pod, flags);
        container(&pod, "istio-proxy")["securityContext"]["seccompProfile"]["type"].clone()
    };
    let uncaptured = || json!({ "sidecar.istio.io/interceptionMode": "NONE" });
    let runtimes = json!({ "type": "RuntimeDefault" });
    assert_eq!(profile(&pod(uncaptured(), app(runtimes.clone())), &[]), "RuntimeDefault");
    assert_eq!(profile(&pod(json!({}), json!({})), &[]), Value::Null);
    // The pod's counts for its containers.
    let mut whole = app(runtimes.clone());
    whole["securityContext"] = json!({ "seccompProfile": runtimes });
    assert_eq!(profile(&pod(json!({}), whole), &[]), Value::Null);
    let flags = ["--seccomp-profile=Unconfined"];
    assert_eq!(profile(&pod(json!({}), app(json!({}))), &flags), "Unconfined");
}

/// A webhook sees a pod that a controller has made; the command sees the template.
#[test]
fn a_webhook_makes_of_a_pod_what_the_command_makes_of_its_template() {
    let template = json!({
        "metadata": {
            "labels": { "app": "web" },
            "annotations": { "prometheus.io/port": "9102", "proxy.istio.io/config": "concurrency: 1" },
        },
        "spec": {
            "terminationGracePeriodSeconds": 60,
            "containers": [{
                "name": "web", "image": "web:1", "ports": [{ "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "path": "/r", "port": 8080 } },
            }],
        },
    });
    let owner = |api: &str, kind: &str, name: &str| json!([{ "apiVersion": api, "kind": kind, "name": name, "controller": true, "uid": "1" }]);
    for (api, kind, controller, hash) in [
        ("apps/v1", "Deployment", owner("apps/v1", "ReplicaSet", "web-5d4f"), Some("5d4f")),
        ("apps/v1", "ReplicaSet", owner("apps/v1", "ReplicaSet", "web"), None),
        ("apps/v1", "StatefulSet", owner("apps/v1", "StatefulSet", "web"), None),
        ("apps/v1", "DaemonSet", owner("apps/v1", "DaemonSet", "web"), None),
        ("batch/v1", "Job", owner("batch/v1", "Job", "web"), None),
        ("batch/v1", "CronJob", owner("batch/v1", "Job", "web-29012345"), None),
        ("v1", "ReplicationController", owner("v1", "ReplicationController", "web"), None),
    ] {
        let spec = match kind {
            "CronJob" => json!({ "jobTemplate": { "spec": { "template": template } } }),
            _ => json!({ "template": template }),
        };
        let object =
            json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "web" }, "spec": spec });
        let (object, notes) = injected(&object, &[]);
        let mut wanted = match kind {
            "CronJob" => object["spec"]["jobTemplate"]["spec"]["template"].clone(),
            _ => object["spec"]["template"].clone(),
        };

        let mut pod = template.clone();
        for part in [&mut pod, &mut wanted] {
            part["apiVersion"] = "v1".into();
            part["kind"] = "Pod".into();
            part["metadata"]["generateName"] = "web-x-".into();
            part["metadata"]["ownerReferences"] = controller.clone();
            if let Some(hash) = hash {
                part["metadata"]["labels"]["pod-template-hash"] = hash.into();
            }
        }
        let made = inject_pod(&pod, "shop", &Settings::default()).unwrap();
        let Injected::Pod { pod, warnings } = made else { panic!("{kind}: {made:?}") };
        assert_eq!(pod, wanted, "{kind}");
        let notes: Vec<_> = notes.lines().map(|note| note.split_once(": ").unwrap().1).collect();
        assert_eq!(warnings, notes, "{kind}");
    }
}

#[test]
fn a_webhook_is_told_why_a_pod_is_left_alone_or_refused() {
    let settings = Settings::default();
    let answer = |pod: &Value, namespace: &str| inject_pod(pod, namespace, &settings);
    let plain = pod(json!({}), json!({}));
    let why = "kube-system is the cluster's own namespace".to_owned();
    assert_eq!(answer(&plain, "kube-system"), Ok(Injected::LeftAlone(why)));
    let Ok(Injected::Pod { pod: twice, .. }) = answer(&plain, "shop") else { panic!() };
    let why = "it has its sidecar already".to_owned();
    assert_eq!(answer(&twice, "shop"), Ok(Injected::LeftAlone(why)));
    let wrong = pod(json!({ "sidecar.istio.io/proxyCPU": "lots" }), json!({}));
    let said = answer(&wrong, "shop").unwrap_err().to_string();
    assert_eq!(
        said,
        "annotation sidecar.istio.io/proxyCPU: \"lots\" is no quantity like 500m, 2 or 128Mi"
    );
    for odd in [json!(null), json!([]), json!({}), json!({ "spec": [], "metadata": 1 })] {
        assert!(!matches!(answer(&odd, "shop"), Ok(Injected::Pod { .. })), "{odd}");
    }
}

//! What people write into their pods, and what must come of it.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Answer, inject};

mod agent;
mod template;

/// A pod with one container, in JSON: what is printed then is JSON, too.
fn pod(annotations: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "a", "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    });
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn injected(pod: &Value, flags: &[&str]) -> (Value, String) {
    let Answer { text, notes, success } = inject(&pod.to_string(), flags);
    assert!(success, "{notes}");
    (serde_json::from_str(&text).unwrap(), notes)
}

/// A sentence on standard error, exit code 1, and nothing printed.
fn refused(pod: &Value, flags: &[&str]) -> String {
    let answer = inject(&pod.to_string(), flags);
    assert!(!answer.success && answer.text.is_empty(), "{}", answer.text);
    answer.notes
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let spec = &pod["spec"];
    let all = ["containers", "initContainers"].into_iter().filter_map(|list| spec[list].as_array());
    let mut found = all.flatten().filter(|container| container["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("no {name} in {pod}"));
    assert_eq!(found.next(), None, "{name} stands twice");
    one
}

fn env<'a>(container: &'a Value, name: &str) -> Vec<&'a str> {
    let env = container["env"].as_array().unwrap().iter();
    env.filter(|one| one["name"] == name).map(|one| one["value"].as_str().unwrap()).collect()
}

#[test]
fn a_request_is_never_above_its_limit() {
    let annotations = |pairs: &[(&str, &str)]| {
        let of = |(name, value): &(&str, &str)| (format!("sidecar.istio.io/{name}"), json!(value));
        Value::Object(pairs.iter().map(of).collect())
    };
    for (said, flags, resources) in [
        // The default limit of 1Gi gives way.
        (&[][..], &["--memory=2Gi"][..], ["10m", "2Gi", "", "2Gi"]),
        (&[], &["--memory-limit=32Mi"], ["10m", "32Mi", "", "32Mi"]),
        (&[], &["--cpu-limit=0.005"], ["0.005", "64Mi", "0.005", "1Gi"]),
        // As in Istio: with one of the annotations neither defaults nor settings count.
        (&[("proxyMemory", "2Gi")], &[], ["", "2Gi", "", ""]),
        (&[("proxyMemoryLimit", "32Mi")], &[], ["", "", "", "32Mi"]),
        (&[("proxyCPULimit", "5m")], &["--cpu=1", "--memory=3Gi"], ["", "", "5m", ""]),
        (&[("proxyCPU", "2"), ("proxyCPULimit", "2000m")], &[], ["2", "", "2000m", ""]),
    ] {
        let (pod, _) = injected(&pod(annotations(said), json!({})), flags);
        let of = &container(&pod, "istio-proxy")["resources"];
        let found = [
            &of["requests"]["cpu"],
            &of["requests"]["memory"],
            &of["limits"]["cpu"],
            &of["limits"]["memory"],
        ];
        let found = found.map(|value| value.as_str().unwrap_or_default());
        assert_eq!(found, resources, "{said:?} {flags:?}");
    }
    let both = annotations(&[("proxyMemory", "2Gi"), ("proxyMemoryLimit", "1Gi")]);
    let said = refused(&pod(both, json!({})), &[]);
    assert!(
        said.contains(
            "annotation sidecar.istio.io/proxyMemory asks for 2Gi and annotation \
             sidecar.istio.io/proxyMemoryLimit allows 1Gi: a request must not be above its limit"
        ),
        "{said}"
    );
    let own = json!({ "containers": [
        { "name": "app", "image": "app:1" },
        { "name": "istio-proxy", "image": "auto", "resources": { "requests": { "cpu": 2 } } },
    ] });
    let said = refused(&pod(json!({}), own), &["--cpu-limit=1"]);
    assert!(
        said.contains(
            "resources.requests.cpu of its own container asks for 2 and setting cpuLimit allows 1"
        ),
        "{said}"
    );
    let said = refused(&pod(json!({}), json!({})), &["--cpu=2", "--cpu-limit=1"]);
    assert!(said.contains("cpu is 2 and cpuLimit is 1"), "{said}");
}

#[test]
fn with_a_quota_on_limits_both_containers_have_them() {
    let (with, _) = injected(&pod(json!({}), json!({})), &["--cpu-limit=500m"]);
    for (name, memory) in [("istio-init", "64Mi"), ("istio-proxy", "1Gi")] {
        let limits = &container(&with, name)["resources"]["limits"];
        assert_eq!(*limits, json!({ "cpu": "500m", "memory": memory }), "{name}");
    }
    let small = json!({ "sidecar.istio.io/proxyMemoryLimit": "8Mi", "sidecar.istio.io/proxyCPULimit": "1m" });
    let (pod, _) = injected(&pod(small, json!({})), &[]);
    let wanted = json!({ "limits": { "cpu": "1m", "memory": "8Mi" } });
    for name in ["istio-init", "istio-proxy"] {
        assert_eq!(container(&pod, name)["resources"], wanted, "{name}");
    }
}

#[test]
fn values_that_a_pod_could_not_run_with_are_refused() {
    for (annotation, value, said) in [
        ("sidecar.istio.io/proxyMemory", "lots", "\"lots\" is no quantity"),
        ("sidecar.istio.io/proxyMemory", "", "\"\" is no quantity"),
        ("sidecar.istio.io/proxyMemoryLimit", "128m", "\"128m\" is less than one byte"),
        ("sidecar.istio.io/proxyCPU", "-1", "\"-1\" is no quantity"),
        ("sidecar.istio.io/proxyCPULimit", "1 core", "\"1 core\" is no quantity"),
        (
            "sidecar.istio.io/proxyImage",
            "Proxy:latest",
            "\"Proxy:latest\" is not the name of an image",
        ),
        ("sidecar.istio.io/proxyImage", "", "\"\" is not the name of an image"),
        ("sidecar.istio.io/logLevel", "verbose", "\"verbose\" is no log level of Envoy: trace,"),
        ("sidecar.istio.io/componentLogLevel", "upstream", "\"upstream\" is not PART:LEVEL"),
        ("sidecar.istio.io/nativeSidecar", "yes", "\"yes\", which is neither true nor false"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "no", "\"no\", which is neither true nor false"),
        (
            "proxy.istio.io/config",
            "concurrency: many",
            "annotation proxy.istio.io/config: it cannot be read",
        ),
        (
            "proxy.istio.io/config",
            "drainDuration: long",
            "drainDuration is \"long\", which is no duration",
        ),
        (
            "proxy.istio.io/config",
            "discoveryAddress: x",
            "discoveryAddress is \"x\", which is no HOST:PORT",
        ),
        (
            "pilothouse.io/termination-drain-duration",
            "soon",
            "annotation pilothouse.io/termination-drain",
        ),
        (
            "pilothouse.io/discovery",
            "lazy",
            "annotation pilothouse.io/discovery: \"lazy\" is neither all nor on-demand",
        ),
        (
            "pilothouse.io/uses",
            "reviews; ratings",
            "annotation pilothouse.io/uses: \"reviews;\" is neither a Service's host",
        ),
        ("traffic.sidecar.istio.io/includeInboundPorts", "0", "\"0\": not a port"),
        ("sidecar.istio.io/userVolume", "[]", "it must be JSON like"),
        ("sidecar.istio.io/userVolume", "{\"a\": 1}", "a must be an object"),
        ("sidecar.istio.io/userVolume", "{\"A_B\": {}}", "\"A_B\" is not the name of a volume"),
        (
            "sidecar.istio.io/userVolumeMount",
            "{\"a\": {\"mountPath\": \"x\"}}",
            "a has the mountPath \"x\", which is no absolute path",
        ),
        (
            "sidecar.istio.io/userVolumeMount",
            "{\"a\": {\"mountPath\": \"/x\"}}",
            "there is no volume a",
        ),
        (
            "sidecar.istio.io/userVolumeMount",
            "{\"istio-podinfo\": {\"mountPath\": \"/etc/istio/proxy\"}}",
            "is to be mounted where another volume is, at /etc/istio/proxy",
        ),
        ("status.sidecar.istio.io/port", "http", "\"http\" is no port"),
        ("status.sidecar.istio.io/port", "15006", "15006 is Envoy's own"),
        ("readiness.status.sidecar.istio.io/periodSeconds", "0", "\"0\" is no whole number"),
        ("readiness.status.sidecar.istio.io/failureThreshold", "1.5", "\"1.5\" is no whole number"),
        (
            "readiness.status.sidecar.istio.io/initialDelaySeconds",
            "-1",
            "\"-1\" is no whole number",
        ),
        ("prometheus.istio.io/merge-metrics", "yes", "which is neither true nor false"),
        ("prometheus.io/port", "metrics", "is \"metrics\", which is no port"),
        ("prometheus.io/port", "15090", "is \"15090\", a port of the sidecar"),
        ("prometheus.io/path", "/a b", "is no path of HTTP"),
        (
            "proxy.istio.io/config",
            "proxyMetadata: {PILOTHOUSE_TLS: mutual}",
            "PILOTHOUSE_TLS of proxyMetadata: \"mutual\" is none of off, certificate and token",
        ),
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "fd00::/8",
            "names IPv6 only, which is not captured",
        ),
    ] {
        let said_instead = refused(&pod(json!({ annotation: value }), json!({})), &[]);
        assert!(said_instead.contains(said), "{annotation} {value}: {said_instead}");
        assert!(said_instead.contains(annotation), "{annotation} {value}: {said_instead}");
    }
    let plain = pod(json!({}), json!({}));
    for flag in [
        "--memory=lots",
        "--memory-limit=1m",
        "--cpu=1x",
        "--image=A",
        "--init-image=a b",
        "--termination-drain-duration=long",
        "--tls=mutual",
        "--tls-secret=A_B",
        "--status-port=15001",
        "--image-pull-secret=a/b",
        "--network=a b",
    ] {
        let answer = inject(&plain.to_string(), &[flag]);
        let name = flag.split('=').next().unwrap();
        assert!(!answer.success && answer.notes.contains(name), "{flag}: {}", answer.notes);
    }
    for (flags, said) in [
        (&["--tls-secret=mine"][..], "tlsSecret is for tls: certificate, and tls is off"),
        (&["--tls=certificate", "--ca-config-map=ca"], "caConfigMap is for tls: token"),
        (&["--include-inbound-ports=http"], "includeInboundPorts: \"http\": not a port"),
    ] {
        let answer = inject(&plain.to_string(), flags);
        assert!(!answer.success && answer.notes.contains(said), "{flags:?}: {}", answer.notes);
    }
}

#[test]
fn a_container_with_the_image_auto_is_merged_with_ours() {
    let own = json!({
        "name": "istio-proxy", "image": "auto",
        "resources": { "requests": { "memory": "3Gi" }, "limits": { "ephemeral-storage": "1Gi" } },
        "env": [{ "name": "EXTRA", "value": "1" }, { "name": "POD_NAME", "value": "other" }],
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        "securityContext": { "readOnlyRootFilesystem": false },
    });
    let init =
        json!({ "name": "istio-init", "image": "auto", "securityContext": { "privileged": true } });
    for (flags, list) in [(&[][..], "containers"), (&["--native-sidecar"], "initContainers")] {
        let spec = json!({ "containers": [own, { "name": "app", "image": "app:1" }], "initContainers": [init] });
        let (pod, _) = injected(&pod(json!({}), spec), flags);
        let proxy = container(&pod, "istio-proxy");
        assert!(pod["spec"][list].as_array().unwrap().contains(proxy), "{pod}");
        assert!(proxy["image"].as_str().unwrap().starts_with("pilothouse-proxy:"));
        assert_eq!(proxy["resources"]["requests"], json!({ "cpu": "10m", "memory": "3Gi" }));
        assert_eq!(
            proxy["resources"]["limits"],
            json!({ "memory": "3Gi", "ephemeral-storage": "1Gi" })
        );
        assert_eq!((env(proxy, "EXTRA"), env(proxy, "POD_NAME")), (vec!["1"], vec!["other"]));
        assert_eq!(env(proxy, "ISTIO_META_APP_CONTAINERS"), ["app"]);
        assert_eq!(proxy["volumeMounts"].as_array().unwrap().len(), 3);
        let context = &proxy["securityContext"];
        assert_eq!(
            (&context["readOnlyRootFilesystem"], &context["runAsUser"]),
            (&json!(false), &json!(1337))
        );
        assert_eq!(container(&pod, "istio-init")["securityContext"]["privileged"], true);
        let again = inject(&pod.to_string(), flags);
        assert_eq!(again.notes, "Pod a: left alone, it has its sidecar already\n");
    }
}

#[test]
fn names_of_ours_that_the_pod_has_already_do_not_stand_twice() {
    let spec = |field: &str, one: Value| json!({ field: [one] });
    let init = json!({ "name": "istio-init", "image": "mine:1" });
    let said = refused(&pod(json!({}), spec("initContainers", init)), &[]);
    assert!(said.contains("Pod a: it has a container istio-init of its own"), "{said}");
    for name in ["istio-envoy", "istio-podinfo"] {
        let volume = json!({ "name": name, "configMap": { "name": "mine" } });
        let said = refused(&pod(json!({}), spec("volumes", volume)), &[]);
        assert!(said.contains(&format!("Pod a: it has a volume {name} of its own")), "{said}");
    }
    // Of the same kind: its author wants it a little different.
    let volume = json!({ "name": "istio-envoy", "emptyDir": { "sizeLimit": "1Mi" } });
    let (pod, _) = injected(&pod(json!({}), spec("volumes", volume)), &[]);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 2);
    assert_eq!(volumes[0]["emptyDir"], json!({ "medium": "Memory", "sizeLimit": "1Mi" }));
}

#[test]
fn whether_to_inject_is_read_as_istio_reads_it() {
    for kind in ["labels", "annotations"] {
        let with = |value: Value| {
            let mut pod = pod(json!({}), json!({}));
            pod["metadata"][kind] = json!({ "sidecar.istio.io/inject": value });
            pod
        };
        for yes in ["", "y", "Yes", "true", "TRUE", "on"] {
            assert_eq!(injected(&with(json!(yes)), &[]).1, "", "{yes}");
        }
        for no in ["no", "False", "false", "n", "off", "0", "1", "enabled"] {
            let answer = inject(&with(json!(no)).to_string(), &[]);
            let one = &kind[..kind.len() - 1];
            assert_eq!(
                answer.notes,
                format!("Pod a: left alone, its {one} sidecar.istio.io/inject is {no:?}\n")
            );
        }
        for (value, shown) in [(json!(false), "false"), (json!(true), "true"), (json!(1), "1")] {
            let said = refused(&with(value), &[]);
            let wanted = format!(
                "metadata.{kind}: the value of sidecar.istio.io/inject is {shown} and must be text"
            );
            assert!(said.contains(&wanted), "{said}");
        }
    }
    let unquoted = pod(json!({ "traffic.sidecar.istio.io/excludeInboundPorts": 8080 }), json!({}));
    let said = refused(&unquoted, &[]);
    assert!(said.contains("excludeInboundPorts is 8080 and must be text"), "{said}");
}

#[test]
fn what_will_surprise_somebody_is_said() {
    for (annotations, spec, said) in [
        (
            json!({ "traffic.sidecar.istio.io/excludeOutboundPort": "3306" }),
            json!({}),
            "annotation traffic.sidecar.istio.io/excludeOutboundPort has no effect; \
             traffic.sidecar.istio.io/excludeOutboundPorts is probably meant",
        ),
        (
            json!({ "sidecar.istio.io/bootstrapOverride": "mine" }),
            json!({}),
            "annotation sidecar.istio.io/bootstrapOverride has no effect here",
        ),
        (
            json!({ "proxy.istio.io/config": "{tracing: {}, statusPort: 1}" }),
            json!({}),
            "of annotation proxy.istio.io/config these have no effect here: statusPort, tracing",
        ),
        (
            json!({}),
            json!({ "dnsPolicy": "None" }),
            "its dnsPolicy is None: the proxy finds istio-pilot.istio-system:15010 only if",
        ),
    ] {
        let (_, notes) = injected(&pod(annotations, spec), &[]);
        assert!(notes.starts_with(&format!("Pod a: {said}")), "{notes}");
        assert_eq!(notes.lines().count(), 1, "{notes}");
    }
    let by_address = ["--discovery-address=10.96.0.9:15010"];
    assert_eq!(injected(&pod(json!({}), json!({ "dnsPolicy": "None" })), &by_address).1, "");
    for spec in [
        json!({ "os": { "name": "windows" } }),
        json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }),
    ] {
        let answer = inject(&pod(json!({}), spec).to_string(), &[]);
        assert_eq!(
            answer.notes,
            "Pod a: left alone, it runs on Windows, for which there is no sidecar\n"
        );
    }
}

#[test]
fn an_application_with_the_proxys_id_is_refused_where_it_would_not_be_captured() {
    let own = |field: &str| json!({ "containers": [{ "name": "app", "image": "a", "securityContext": { field: 1337 } }] });
    for spec in
        [own("runAsUser"), own("runAsGroup"), json!({ "securityContext": { "runAsUser": 1337 } })]
    {
        let said = refused(&pod(json!({}), spec.clone()), &[]);
        assert!(said.contains("container app runs as") && said.contains("1337"), "{said}");
        injected(&pod(json!({ "sidecar.istio.io/interceptionMode": "NONE" }), spec), &[]);
    }
    // The way by which init containers get past the capture; and a container that is somebody else.
    let init = json!([{ "name": "fetch", "image": "a", "securityContext": { "runAsUser": 1337 } }]);
    injected(&pod(json!({}), json!({ "initContainers": init })), &[]);
    let mut spec = own("runAsUser");
    spec["containers"][0]["securityContext"]["runAsUser"] = 1000.into();
    spec["securityContext"] = json!({ "runAsUser": 1337 });
    injected(&pod(json!({}), spec), &[]);
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let pod = pod(json!({}), json!({})).to_string();
    let ends = |arguments: &[&str], output: Stdio, input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not read its input may be gone already.
        _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let ended = child.wait_with_output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    for (arguments, input) in
        [(&["inject", "-f", "-"][..], &*pod), (&["iptables", "--dry-run"], "")]
    {
        let full = File::create("/dev/full").unwrap();
        let (code, said) = ends(arguments, full.into(), input);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains("No space left on device"), "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) = ends(arguments, writer.into(), input);
        assert_eq!(code, Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    // What is only said on the side is not missed.
    let left_alone =
        pod.replace("\"annotations\":{}", "\"annotations\":{\"sidecar.istio.io/inject\":\"no\"}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["inject", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create("/dev/full").unwrap())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(left_alone.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap()),
        (Some(0), left_alone)
    );
}

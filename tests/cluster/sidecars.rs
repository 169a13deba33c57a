//! Pods with injected sidecars: every kind of workload runs, and traffic goes through the Envoys or
//! past them as it would with Istio. Envoys' own counters say which way it went.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::deployed::rolled_out;
use crate::half_live::story;
use crate::harness::Kubectl;
use pilothouse_testkit::until;

mod life;

pub(crate) const NAMESPACE: &str = "sidecars";

fn app(name: &str, workload: &str, port: u16) -> Value {
    json!({
        "name": name, "image": "test/bookinfo:1",
        "args": [format!("--workload={workload}"), "--address=0.0.0.0", format!("--port={port}")],
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
    })
}

fn workload(kind: &str, name: &str, containers: &[Value]) -> Value {
    let labels = json!({ "app": name });
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": containers },
            },
        },
    });
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = name.into();
    }
    object
}

fn on_demand() -> Value {
    json!({ "pilothouse.io/discovery": "on-demand" })
}

fn service(name: &str, of: &str, port_name: &str, port: u16, headless: bool) -> Value {
    let mut spec = json!({
        "selector": { "app": of },
        "ports": [{ "name": port_name, "port": port, "targetPort": 9080 }],
    });
    if headless {
        spec["clusterIP"] = "None".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": spec,
    })
}

/// The control plane, and in a namespace of their own: `web` (a Deployment), `store` (a StatefulSet
/// behind a headless service) and `outside`, which has no sidecar and the node's address.
pub(crate) async fn deployed() -> Kubectl {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let kubectl = Kubectl::default();
    APPLIED
        .get_or_init(async || {
            story("control_plane").await;
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
            });
            kubectl.apply(&[namespace]).await;
            let mut outside =
                workload("Deployment", "outside", &[app("outside", "details-v1", 18080)]);
            outside["spec"]["template"]["spec"]["hostNetwork"] = true.into();
            let mut web = workload(
                "Deployment",
                "web",
                // The second has a port that no Service names.
                &[app("web", "details-v1", 9080), app("aside", "details-v1", 9999)],
            );
            // The StatefulSet's sidecar has every cluster, this one those that it uses.
            web["spec"]["template"]["metadata"]["annotations"] = on_demand();
            let mut raw = service("raw", "store", "tcp", 9997, true);
            raw["spec"]["ports"][0]["targetPort"] = 9997.into();
            kubectl
                .apply_injected(
                    &[
                        outside,
                        web,
                        workload(
                            "StatefulSet",
                            "store",
                            &[app("store", "details-v1", 9080), app("raw", "details-v1", 9997)],
                        ),
                        service("web", "web", "http", 8000, false),
                        // The same port number, another protocol and another pod.
                        service("store-tcp", "store", "tcp-store", 8000, false),
                        service("store", "store", "http", 9080, true),
                        raw,
                    ],
                    &[],
                )
                .await;
            for deployment in ["outside", "web"] {
                rolled_out(&kubectl, NAMESPACE, deployment).await;
            }
            let set = "statefulset/store";
            kubectl.run(&["-n", NAMESPACE, "rollout", "status", set, "--timeout=120s"]).await;
        })
        .await;
    kubectl
}

/// What an Envoy counted: upstream connections (`cx`), requests (`rq`) and both together by cluster.
/// A request may find a connection that is open already.
type Counters = BTreeMap<(&'static str, String), u64>;

async fn counters(kubectl: &Kubectl, pod: &str) -> Result<Counters, String> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15020/proxy/stats/prometheus");
    let text = kubectl.attempt(&["get", "--raw", &path]).await?;
    let mut counters = Counters::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        for (kind, metric) in
            [("cx", "envoy_cluster_upstream_cx_total{"), ("rq", "envoy_cluster_upstream_rq_total{")]
        {
            let labels = series.strip_prefix(metric);
            let Some((_, rest)) = labels.and_then(|l| l.split_once("envoy_cluster_name=\"")) else {
                continue;
            };
            let cluster = rest.split('"').next().unwrap_or_default();
            let value: u64 = value.parse().unwrap_or_default();
            counters.insert((kind, cluster.to_owned()), value);
            *counters.entry(("any", cluster.to_owned())).or_default() += value;
        }
    }
    if counters.is_empty() { Err(format!("no counters of {pod}: {text}")) } else { Ok(counters) }
}

/// Who answered a visit from a pod's application.
async fn visit(
    kubectl: &Kubectl,
    pod: &str,
    container: &str,
    place: &str,
) -> Result<String, String> {
    let program = ["--", "bookinfo", "--visit", place, "--times=1"];
    let exec = ["-n", NAMESPACE, "exec", pod, "-c", container];
    let line = kubectl.attempt(&[&exec[..], &program[..]].concat()).await?;
    let line: Value = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
    match (&line["status"], line["pod"].as_str()) {
        (Value::Number(status), Some(pod)) if status.as_u64() == Some(200) => Ok(pod.to_owned()),
        _ => Err(line.to_string()),
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn every_kind_of_workload_runs_with_its_sidecar() {
    // Deployment and StatefulSet are up, or this would not return.
    let kubectl = deployed().await;
    let mut probed = app("probed", "details-v1", 9080);
    let probe = json!({
        "httpGet": { "path": "/health", "port": 9080 }, "periodSeconds": 1, "failureThreshold": 2,
    });
    probed["livenessProbe"] = probe.clone();
    probed["readinessProbe"] = probe;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probed", "namespace": NAMESPACE },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [probed] },
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "once", "namespace": NAMESPACE },
        "spec": { "backoffLimit": 0, "template": {
            "metadata": { "annotations": on_demand() },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "once", "image": "test/bookinfo:1",
                    "args": ["--visit=web:8000/details/0", "--times=2"],
                }],
            },
        } },
    });
    // It asks at once, when a proxy that started beside it would not listen yet.
    let held = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "held", "namespace": NAMESPACE,
            "annotations": { "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true" },
        },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "held", "image": "test/bookinfo:1",
                "args": ["--visit=web:8000/details/0", "--times=1"],
            }],
        },
    });
    kubectl.apply_injected(&[pod, held], &[]).await;
    kubectl.apply_injected(&[job], &["--native-sidecar"]).await;

    let wait = ["-n", NAMESPACE, "wait", "--timeout=120s"];
    kubectl.run(&[&wait[..], &["--for=condition=Ready", "pod/probed"]].concat()).await;
    let ended = "--for=jsonpath={.status.containerStatuses[?(@.name==\"held\")].state.terminated.reason}=Completed";
    kubectl.run(&[&wait[..], &[ended, "pod/held"]].concat()).await;
    let first = kubectl.run(&["-n", NAMESPACE, "logs", "held", "-c", "held"]).await;
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["status"], 200, "{first}");
    // The agent asks the application, past Envoy.
    let path =
        format!("/api/v1/namespaces/{NAMESPACE}/pods/probed:15020/proxy/app-health/probed/livez");
    let answer: Value = serde_json::from_str(&kubectl.run(&["get", "--raw", &path]).await).unwrap();
    assert_eq!(answer["status"], "healthy");
    let passed = ("any", "InboundPassthroughCluster".to_owned());
    let inbound = ("any", "inbound|9080||".to_owned());
    let counted = counters(&kubectl, "probed").await.unwrap();
    for cluster in [passed, inbound] {
        assert_eq!(counted.get(&cluster).copied().unwrap_or_default(), 0, "{counted:?}");
    }
    let status = kubectl.json(&["-n", NAMESPACE, "get", "pod", "probed"]).await;
    for container in status["status"]["containerStatuses"].as_array().unwrap() {
        assert_eq!((&container["ready"], &container["restartCount"]), (&json!(true), &json!(0)));
    }

    let finished =
        kubectl.attempt(&[&wait[..], &["--for=condition=Complete", "job/once"]].concat()).await;
    let log = kubectl.run(&["-n", NAMESPACE, "logs", "job/once", "-c", "once"]).await;
    assert!(finished.is_ok(), "{finished:?}: {log}");
    // Its Envoy was there first: both visits went through it.
    let answers = log.lines().filter(|line| line.contains("\"status\":200")).count();
    assert_eq!(answers, 2, "{log}");
    kubectl.run(&["-n", NAMESPACE, "delete", "pod/probed", "job/once", "--wait=false"]).await;
}

/// Where a visit must have left its traces: in the caller's Envoy and in the other pod's.
struct Way {
    what: &'static str,
    place: String,
    answers: String,
    caller: Option<(&'static str, String)>,
    callee: Option<(&'static str, &'static str)>,
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn traffic_takes_the_way_that_it_takes_with_istio() {
    let kubectl = deployed().await;
    let web = kubectl.pods(NAMESPACE, "app=web").await.remove(0);
    let store = "store-0".to_owned();
    let outside = kubectl.pods(NAMESPACE, "app=outside").await.remove(0);
    let address = async |resource: &str, path: &str| {
        kubectl
            .run(&["-n", NAMESPACE, "get", resource, "-o", &format!("jsonpath={{{path}}}")])
            .await
    };
    let web_service = address("service/web", ".spec.clusterIP").await;
    let web_ip = address(&format!("pod/{web}"), ".status.podIP").await;
    let store_ip = address("pod/store-0", ".status.podIP").await;
    let node_ip = address(&format!("pod/{outside}"), ".status.hostIP").await;
    let outbound =
        |port: u16, name: &str| format!("outbound|{port}||{name}.{NAMESPACE}.svc.cluster.local");
    let http_inbound = ("rq", "inbound|9080||");
    let passed = ("any", "PassthroughCluster".to_owned());
    let passed_in = ("any", "InboundPassthroughCluster");

    let ways = [
        Way {
            what: "a ClusterIP service by name",
            place: "web:8000/details/0".to_owned(),
            answers: web.clone(),
            caller: Some(("rq", outbound(8000, "web"))),
            callee: Some(http_inbound),
        },
        Way {
            what: "a ClusterIP service by address",
            place: format!("{web_service}:8000/details/0"),
            answers: web.clone(),
            caller: Some(("rq", outbound(8000, "web"))),
            callee: Some(http_inbound),
        },
        Way {
            what: "a pod by its address, on a port that a service leads to",
            place: format!("{web_ip}:9080/details/0"),
            answers: web.clone(),
            caller: Some(passed.clone()),
            callee: Some(http_inbound),
        },
        Way {
            what: "inbound on a port nobody named",
            place: format!("{web_ip}:9999/details/0"),
            answers: web.clone(),
            caller: Some(passed.clone()),
            callee: Some(passed_in),
        },
        Way {
            what: "an outside address",
            place: format!("{node_ip}:18080/details/0"),
            answers: outside,
            caller: Some(passed.clone()),
            callee: None,
        },
        Way {
            what: "itself on 127.0.0.1",
            place: "127.0.0.1:9080/details/0".to_owned(),
            answers: store.clone(),
            caller: None,
            callee: None,
        },
        Way {
            what: "itself by its own address",
            place: format!("{store_ip}:9080/details/0"),
            answers: store.clone(),
            caller: None,
            callee: None,
        },
    ];
    for way in ways {
        travel(&kubectl, ("store-0", "store"), &web, way).await;
    }
    let ways = [
        Way {
            what: "TCP on the port number of an HTTP service",
            place: "store-tcp:8000/details/0".to_owned(),
            answers: store.clone(),
            caller: Some(("cx", outbound(8000, "store-tcp"))),
            callee: Some(("any", "inbound|9080||")),
        },
        Way {
            what: "a pod of a headless service, which the client's DNS has found",
            place: "store-0.store:9080/details/0".to_owned(),
            answers: store.clone(),
            caller: Some(passed.clone()),
            callee: Some(("any", "inbound|9080||")),
        },
        Way {
            what: "TCP to a headless service, which goes where the client sent it",
            place: "raw:9997/details/0".to_owned(),
            answers: store.clone(),
            caller: Some(passed.clone()),
            callee: Some(("cx", "inbound|9997||")),
        },
    ];
    for way in ways {
        travel(&kubectl, (&web, "web"), &store, way).await;
    }
    // Its own service: out through its Envoy, and in again through the same one.
    let itself = Way {
        what: "itself by its service",
        place: "web:8000/details/0".to_owned(),
        answers: web.clone(),
        caller: Some(("rq", outbound(8000, "web"))),
        callee: Some(http_inbound),
    };
    travel(&kubectl, (&web, "web"), &web, itself).await;
}

/// Pays the visit and compares both Envoys' counters before and after: what is named has grown, and
/// where nothing is named nothing has.
async fn travel(kubectl: &Kubectl, (pod, container): (&str, &str), callee: &str, way: Way) {
    let what = way.what;
    let before = (counters(kubectl, pod).await.unwrap(), counters(kubectl, callee).await.unwrap());
    let answered = visit(kubectl, pod, container, &way.place).await;
    assert_eq!(answered.as_deref(), Ok(way.answers.as_str()), "{what}");
    until(what, async || {
        let after = (counters(kubectl, pod).await?, counters(kubectl, callee).await?);
        let grown = |before: &Counters, after: &Counters, key: &(&'static str, String)| {
            after.get(key).unwrap_or(&0) > before.get(key).unwrap_or(&0)
        };
        if let Some(key) = &way.caller
            && !grown(&before.0, &after.0, key)
        {
            return Err(format!("{pod} has not counted {key:?}: {:?}", after.0));
        }
        if let Some((kind, cluster)) = way.callee
            && !grown(&before.1, &after.1, &(kind, cluster.to_owned()))
        {
            return Err(format!("{callee} has not counted {kind} {cluster}: {:?}", after.1));
        }
        // Past both Envoys; the control plane's stream and the probes do not count.
        if way.caller.is_none() {
            let traffic = |counters: &Counters| -> u64 {
                let aside =
                    |cluster: &str| cluster.contains("bound|") || cluster.contains("Passthrough");
                counters
                    .iter()
                    .filter(|((kind, name), _)| *kind == "any" && aside(name))
                    .map(|(_, count)| count)
                    .sum()
            };
            assert_eq!(traffic(&before.0), traffic(&after.0), "{what}: {:?}", after.0);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn rules_are_set_once_and_removed_wholly() {
    let kubectl = Kubectl::default();
    let container = |name: &str, command: &[&str]| {
        json!({
            "name": name, "image": "test/proxy:1", "command": command,
            "securityContext": {
                "runAsUser": 0, "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            },
        })
    };
    let mut powerless = container("powerless", &["pilothouse", "iptables"]);
    powerless["securityContext"]["capabilities"] = json!({ "drop": ["ALL"] });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "rules", "namespace": "default" },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "initContainers": [
                container("once", &["pilothouse", "iptables", "-o", "3306"]),
                container("saved-once", &["iptables-save", "-t", "nat"]),
                container("twice", &["pilothouse", "iptables", "-o", "3306"]),
                container("saved-twice", &["iptables-save", "-t", "nat"]),
                container("clean", &["pilothouse", "iptables", "--clean"]),
                container("saved-clean", &["iptables-save", "-t", "nat"]),
            ],
            "containers": [powerless],
        },
    });
    kubectl.run(&["delete", "pod", "rules", "--ignore-not-found"]).await;
    kubectl.apply(&[pod]).await;
    kubectl
        .run(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/rules", "--timeout=90s"])
        .await;
    let log = async |container: &str| kubectl.run(&["logs", "rules", "-c", container]).await;
    // Comments have the time in them.
    let rules = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let once = rules(&log("saved-once").await);
    assert!(once.iter().any(|rule| rule == "-A PREROUTING -p tcp -j ISTIO_INBOUND"), "{once:#?}");
    assert!(once.iter().any(|rule| rule.contains("--dport 3306 -j RETURN")), "{once:#?}");
    assert_eq!(once, rules(&log("saved-twice").await));
    let clean = rules(&log("saved-clean").await);
    assert!(clean.iter().all(|line| !line.contains("ISTIO")), "{clean:#?}");
    let refused = log("powerless").await;
    assert!(refused.contains("run it as root with the capability NET_ADMIN"), "{refused}");
    kubectl.run(&["delete", "pod", "rules", "--wait=false"]).await;
}

//! The operator's commands against the project's own manifests: two replicas, found by the kubeconfig and
//! read through port-forwarding, with real Envoys at each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::deployed::{NAMESPACE, deployed, replica_of, rolled_out};
use crate::harness::Kubectl;
use crate::node::process_of;
use crate::rollout::cluster_address;
use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::{json as page, until};

/// All on one of two replicas is one chance in 2^11.
const MOST: usize = 12;

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn run(arguments: &[&str]) -> Ran {
    let output = Command::from(pilothouse(arguments)).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Envoys by their ids, until each replica has one, and where each is.
async fn envoys_at_both(kubectl: &Kubectl) -> (BTreeMap<String, Envoy>, BTreeMap<String, String>) {
    let pilot = cluster_address(kubectl).await;
    let (mut envoys, mut places) = (BTreeMap::new(), BTreeMap::new());
    while places.values().collect::<BTreeSet<_>>().len() < 2 {
        assert!(envoys.len() < MOST, "{places:?}");
        let id = format!("operated-{}", envoys.len());
        let wire = if envoys.len() % 2 == 0 { Wire::Sotw } else { Wire::Delta };
        let named = [("id: sample-standalone", &*format!("id: {id}"))];
        envoys.insert(id.clone(), Envoy::start_with(Sample::Standalone, wire, pilot, &named).await);
        places.insert(id.clone(), replica_of(kubectl, &id).await);
    }
    (envoys, places)
}

/// Rows of `status` by name, of these proxies.
fn places(ran: &Ran, of: &BTreeMap<String, Envoy>) -> BTreeMap<String, String> {
    let page: Value =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let rows = page["proxies"].as_array().into_iter().flatten();
    let place =
        |row: &Value| Some((row["name"].as_str()?.to_owned(), row["replica"].as_str()?.to_owned()));
    rows.filter_map(place).filter(|(name, _)| of.contains_key(name)).collect()
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn status_and_dashboard_see_both_replicas_and_name_the_one_that_hangs() {
    let kubectl = deployed().await;
    let replicas = kubectl.pods(NAMESPACE, "istio=pilot").await;
    assert_eq!(replicas.len(), 2, "{replicas:?}");
    let (envoys, at) = envoys_at_both(&kubectl).await;
    let ran = run(&["status", "-o", "json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(places(&ran, &envoys), at);
    let ran = run(&["status", "--service", "default/details"]).await;
    assert!(ran.out.contains("details.default.svc.cluster.local"), "{ran:?}");

    let mut dashboard = Command::from(pilothouse(&["dashboard", "--no-browser"]))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(dashboard.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("it prints its address");
    let shown = page(&format!("{url}debug/proxies?search=operated&limit=1000")).await.unwrap();
    let rows = shown["proxies"].as_array().into_iter().flatten();
    let seen: BTreeMap<String, String> = rows
        .filter_map(|row| {
            Some((row["name"].as_str()?.to_owned(), row["replica"].as_str()?.to_owned()))
        })
        .collect();
    assert_eq!(seen, at);

    // One of them hangs: the other's proxies are there, and it is named.
    let (hung, well) = (&replicas[0], &replicas[1]);
    let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", hung]).await;
    let process = process_of(pod["metadata"]["uid"].as_str().unwrap()).expect("the node runs it");
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let ran = run(&["status", "-o", "json", "--request-timeout=2s"]).await;
    let waited = run(&["wait", "service/details", "--request-timeout=2s", "--timeout=0s"]).await;
    let shown = page(&format!("{url}debug/proxies?search=operated&limit=1000")).await;
    kill_process(process, Signal::CONT).unwrap();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(&format!("the replica {hung} could not be asked")), "{ran:?}");
    let seen = places(&ran, &envoys);
    assert!(!seen.is_empty() && seen.values().all(|replica| replica == well), "{seen:?}");
    assert_eq!(waited.code, Some(2), "{waited:?}");
    assert!(waited.err.contains(hung.as_str()), "{waited:?}");
    let shown = shown.unwrap();
    assert_eq!(shown["unreachable"][0]["replica"], **hung, "{shown}");

    // One is killed by force, while the dashboard looks on: another takes its place.
    kubectl.run(&["-n", NAMESPACE, "delete", "pod", hung, "--grace-period=0", "--force"]).await;
    rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;
    until("every Envoy at a replica of now", async || {
        let shown = page(&format!("{url}debug/proxies?search=operated&limit=1000")).await?;
        let rows = shown["proxies"].as_array().into_iter().flatten();
        let now: Vec<_> = rows.filter(|row| row["replica"] != **hung).collect();
        if now.len() == envoys.len() { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let ran = run(&["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains(hung.as_str()), "{ran:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn wait_is_held_up_by_a_proxy_that_is_stopped_and_returns_when_the_last_one_has_it() {
    let kubectl = deployed().await;
    let (envoys, _) = envoys_at_both(&kubectl).await;
    let ran = run(&["wait", "svc/details", "-n", "default", "--timeout=30s"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let (name, stopped) = envoys.first_key_value().unwrap();
    stopped.signal(Signal::STOP);
    let timeout = "pilothouse.io/request-timeout";
    kubectl.run(&["annotate", "service/details", &format!("{timeout}=7s")]).await;
    let ran = run(&["wait", "service/details", "--timeout=3s"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let named = ran.out.lines().find(|line| line.starts_with(&format!("{name} ")));
    assert!(named.is_some_and(|line| line.contains("RDS") && line.contains("STALE")), "{ran:?}");
    let others = envoys.keys().filter(|other| *other != name);
    assert!(others.into_iter().all(|other| !ran.out.contains(&format!("{other} "))), "{ran:?}");
    let waiting = tokio::spawn(async { run(&["wait", "service/details", "--timeout=60s"]).await });
    stopped.signal(Signal::CONT);
    let ran = waiting.await.unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");

    // While the control plane itself is rolled, proxies move and replicas come and go.
    kubectl.run(&["-n", NAMESPACE, "rollout", "restart", "deployment/istio-pilot"]).await;
    kubectl.run(&["annotate", "service/details", &format!("{timeout}-")]).await;
    let ran = run(&["wait", "service/details", "--timeout=120s"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;

    // A deletion is everywhere as well.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "brief", "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    });
    kubectl.apply(&[service]).await;
    let ran = run(&["wait", "service/brief", "--timeout=60s"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    kubectl.run(&["delete", "service/brief"]).await;
    let ran = run(&["wait", "service/brief", "--timeout=90s"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("the deletion of service/brief is everywhere"), "{ran:?}");
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_operators_role_is_enough_and_without_it_is_said_what_is_missing() {
    let kubectl = deployed().await;
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/operator");
    kubectl.run(&["apply", "-k", &role.display().to_string()]).await;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "operator", "namespace": NAMESPACE },
    });
    kubectl.apply(&[account]).await;
    let token = kubectl.run(&["-n", NAMESPACE, "create", "token", "operator"]).await;
    let mut config = kubectl.json(&["config", "view", "--raw", "--minify", "--flatten"]).await;
    config["users"][0]["user"] = json!({ "token": token });
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, config.to_string()).unwrap();
    let kubeconfig = format!("--kubeconfig={}", file.display());
    let ran = run(&["status", &kubeconfig]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("pods is forbidden"), "{ran:?}");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "operator", "namespace": NAMESPACE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pilothouse-operator" },
        "subjects": [{ "kind": "ServiceAccount", "name": "operator", "namespace": NAMESPACE }],
    });
    kubectl.apply(&[binding]).await;
    until("the right to count", async || {
        let ran = run(&["status", &kubeconfig]).await;
        if ran.code == Some(0) { Ok(()) } else { Err(format!("{ran:?}")) }
    })
    .await;
    let ran = run(&["wait", "service/details", "--resource-version=1", &kubeconfig]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let names = ["rolebinding/operator", "serviceaccount/operator", "role/pilothouse-operator"];
    kubectl.run(&[&["-n", NAMESPACE, "delete"][..], &names].concat()).await;
}

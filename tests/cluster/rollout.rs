//! What is rolled, killed and restarted in a real cluster while real Envoys, one in each variant of
//! the protocol, are under constant load: no request may fail.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::common::load::{LoadedEnvoy, Wire};
use crate::common::{get, until};
use crate::deployed::{NAMESPACE, deployed, replica_of, rolled_out};
use crate::harness::Kubectl;

const URL: &str = "rolled:9080/details/0";

/// A Service and a Deployment `rolled`, made as bookinfo's are: readiness probe, a pause before the
/// end in which proxies hear of it, and new pods before old ones go.
async fn ten_pods(kubectl: &Kubectl) -> Vec<String> {
    let mut deployment = kubectl.json(&["get", "deployment", "details-v1"]).await;
    let labels = json!({ "app": "rolled" });
    deployment["metadata"] = json!({ "name": "rolled", "namespace": "default" });
    deployment["spec"]["selector"] = json!({ "matchLabels": labels });
    deployment["spec"]["template"]["metadata"] = json!({ "labels": labels });
    deployment["spec"]["replicas"] = json!(10);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "rolled", "namespace": "default" },
        "spec": { "selector": labels, "ports": [{ "name": "http", "port": 9080 }] },
    });
    kubectl.apply(&[service, deployment]).await;
    rolled_out(kubectl, "default", "rolled").await;
    pods(kubectl, 10).await
}

/// Waits until there are so many pods that are to stay.
async fn pods(kubectl: &Kubectl, count: usize) -> Vec<String> {
    until(&format!("{count} pods"), async || {
        let pods = kubectl.pods("default", "app=rolled").await;
        if pods.len() == count { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await
}

/// Of the control plane, whichever replica answers there.
async fn cluster_address(kubectl: &Kubectl) -> SocketAddr {
    let service = kubectl.json(&["-n", NAMESPACE, "get", "service", "istio-pilot"]).await;
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    SocketAddr::new(address.parse().unwrap(), 15010)
}

/// One in each variant of the protocol, both answered by all these pods.
async fn two_envoys(kubectl: &Kubectl, pods: &[String]) -> [LoadedEnvoy; 2] {
    let pilot = cluster_address(kubectl).await;
    let envoys = [
        LoadedEnvoy::start(pilot, Wire::Sotw, URL).await,
        LoadedEnvoy::start(pilot, Wire::Delta, URL).await,
    ];
    are_answered_by(&envoys, pods).await;
    envoys
}

async fn are_answered_by(envoys: &[LoadedEnvoy], pods: &[String]) {
    for envoy in envoys {
        envoy.is_answered_by(pods).await;
    }
}

async fn end(kubectl: &Kubectl, envoys: [LoadedEnvoy; 2]) {
    for envoy in &envoys {
        envoy.met_no_failure();
    }
    drop(envoys);
    kubectl.run(&["delete", "service/rolled", "deployment/rolled"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn ten_pods_are_rolled_under_load() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;

    kubectl.run(&["rollout", "restart", "deployment/rolled"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    let after = pods(&kubectl, 10).await;
    assert!(after.iter().all(|pod| !before.contains(pod)), "all are new: {before:?}, {after:?}");
    are_answered_by(&envoys, &after).await;

    // The old ones are gone for good, not only on their way out.
    let old: Vec<String> = before.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut wait = vec!["wait", "--for=delete", "--timeout=60s"];
    wait.extend(old.iter().map(String::as_str));
    kubectl.run(&wait).await;
    for envoy in &envoys {
        envoy.carries(100).await;
    }
    end(&kubectl, envoys).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_control_plane_is_rolled_under_load_while_the_mesh_changes() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;
    let old = kubectl.pods(NAMESPACE, "istio=pilot").await;
    assert_eq!(old.len(), 2, "{old:?}");

    kubectl.run(&["-n", NAMESPACE, "rollout", "restart", "deployment/istio-pilot"]).await;
    tokio::join!(rolled_out(&kubectl, NAMESPACE, "istio-pilot"), async {
        for replicas in [6, 9, 5] {
            let wanted = format!("--replicas={replicas}");
            kubectl.run(&["scale", "deployment/rolled", &wanted]).await;
            pods(&kubectl, replicas).await;
        }
    });
    until("two new replicas alone", async || {
        let new = kubectl.pods(NAMESPACE, "istio=pilot").await;
        let all_new = new.len() == 2 && new.iter().all(|pod| !old.contains(pod));
        if all_new { Ok(()) } else { Err(format!("{new:?} after {old:?}")) }
    })
    .await;
    // The streams have moved, and what they carry is the mesh as it is now.
    for id in ["loaded-sotw", "loaded-delta"] {
        let replica = replica_of(&kubectl, id).await;
        assert!(!old.contains(&replica), "{id} is on {replica}");
    }
    are_answered_by(&envoys, &pods(&kubectl, 5).await).await;
    // By a stream of the new replicas, not only of the old ones' last word.
    kubectl.run(&["scale", "deployment/rolled", "--replicas=7"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    are_answered_by(&envoys, &pods(&kubectl, 7).await).await;
    end(&kubectl, envoys).await;
}

#[tokio::test]
#[ignore = "needs the kit's cluster: make test-cluster"]
async fn the_api_server_and_etcd_are_killed_under_load() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;
    let replicas = Replicas::of(&kubectl).await;

    // Without an API server: both replicas say what is wrong and how old what they have is.
    let errors = replicas.watch_errors().await.unwrap();
    let server = Killed::kill("kube-apiserver");
    replicas.say_what_is_wrong(&errors).await;
    for envoy in &envoys {
        envoy.carries(600).await;
    }
    drop(server);
    serving(&kubectl).await;
    kubectl.run(&["scale", "deployment/rolled", "--replicas=6"]).await;
    let fewer = pods(&kubectl, 6).await;
    are_answered_by(&envoys, &fewer).await;

    let etcd = Killed::kill("etcd");
    for envoy in &envoys {
        envoy.carries(600).await;
    }
    drop(etcd);
    serving(&kubectl).await;
    kubectl.run(&["scale", "deployment/rolled", "--replicas=8"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    are_answered_by(&envoys, &pods(&kubectl, 8).await).await;

    replicas.were_ready_all_along(&kubectl).await;
    end(&kubectl, envoys).await;
}

async fn serving(kubectl: &Kubectl) {
    until("the API server", async || {
        kubectl.attempt(&["get", "--raw", "/readyz", "--request-timeout=5s"]).await.map(|_| ())
    })
    .await;
}

/// The replicas of the control plane, asked at their own addresses: `kubectl port-forward` needs
/// the API server.
struct Replicas {
    names: Vec<String>,
    monitoring: Vec<String>,
    unready: Arc<Mutex<Vec<String>>>,
    _watchers: JoinSet<()>,
}

impl Replicas {
    /// Asks each for `/ready` all the time from now on.
    async fn of(kubectl: &Kubectl) -> Self {
        let names = kubectl.pods(NAMESPACE, "istio=pilot").await;
        assert_eq!(names.len(), 2, "{names:?}");
        let (mut monitoring, unready) = (Vec::new(), Arc::<Mutex<Vec<String>>>::default());
        let mut watchers = JoinSet::new();
        for name in &names {
            let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", name]).await;
            let address = pod["status"]["podIP"].as_str().unwrap();
            let base = format!("http://{address}:15014");
            monitoring.push(base.clone());
            let unready = unready.clone();
            watchers.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(200));
                loop {
                    ticks.tick().await;
                    match get(&format!("{base}/ready")).await {
                        Ok((200, _)) => {}
                        other => unready.lock().unwrap().push(format!("{other:?}")),
                    }
                }
            });
        }
        Self { names, monitoring, unready, _watchers: watchers }
    }

    /// The values of a metric at each, one for each watch: what `/debug/sourcez` shows, for alerts.
    async fn metric(&self, name: &str) -> Result<Vec<Vec<f64>>, String> {
        let mut all = Vec::new();
        for base in &self.monitoring {
            let (_, page) = get(&format!("{base}/metrics")).await?;
            let samples = page.lines().filter(|line| line.starts_with(name));
            all.push(samples.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect());
        }
        Ok(all)
    }

    async fn watch_errors(&self) -> Result<Vec<f64>, String> {
        let values = self.metric("pilothouse_watch_errors_total{").await?;
        Ok(values.iter().map(|of_watches| of_watches.iter().sum()).collect())
    }

    /// Waits until each replica counted errors since `before`, and says of every watch that it has
    /// heard nothing for three seconds.
    async fn say_what_is_wrong(&self, before: &[f64]) {
        until("errors and age of the watches of every replica", async || {
            let now = self.watch_errors().await?;
            let ages = self.metric("pilothouse_watch_age_seconds{").await?;
            let failed = now.iter().zip(before).all(|(now, before)| now > before);
            let aged =
                ages.iter().all(|ages| !ages.is_empty() && ages.iter().all(|age| *age > 3.0));
            if failed && aged { Ok(()) } else { Err(format!("{now:?} after {before:?}, {ages:?}")) }
        })
        .await;
    }

    /// Never anything but 200 from `/ready`, and nobody was restarted.
    async fn were_ready_all_along(&self, kubectl: &Kubectl) {
        let unready = self.unready.lock().unwrap().clone();
        assert!(unready.is_empty(), "{unready:?}");
        assert_eq!(kubectl.pods(NAMESPACE, "istio=pilot").await, self.names);
        for name in &self.names {
            let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", name]).await;
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
        }
    }
}

/// A program of the kit's node that was ended by SIGKILL; dropped, it runs again as it was, to outlive
/// the test, also one that failed. The kit keeps its process ids beside the kubeconfig.
struct Killed {
    name: &'static str,
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Killed {
    fn kill(name: &'static str) -> Self {
        let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").unwrap());
        let folder = kubeconfig.parent().unwrap().to_owned();
        let file = folder.join(format!("{name}.pid"));
        let pid = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}; this needs the kit", file.display()));
        let pid = pid.trim();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let arguments: Vec<OsString> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect();
        assert!(arguments[0].as_bytes().ends_with(name.as_bytes()), "{arguments:?} is {name}");
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        Self { name, arguments, folder }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let log = self.folder.join(format!("log/{}.log", self.name));
        let log = File::options().append(true).open(log).unwrap();
        let mut child = Command::new("setsid")
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        std::fs::write(self.folder.join(format!("{}.pid", self.name)), child.id().to_string())
            .unwrap();
        // Taken note of should it end while this still runs.
        std::thread::spawn(move || child.wait());
    }
}

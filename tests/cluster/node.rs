//! What only the node itself can show and do: programs of the control plane of Kubernetes ended by
//! SIGKILL, and the replicas of ours asked without the API server's help.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::deployed::NAMESPACE;
use crate::harness::Kubectl;
use pilothouse_testkit::{get, until};

/// The replicas of the control plane, asked at their own addresses: `kubectl port-forward` needs
/// the API server.
pub(crate) struct Replicas {
    names: Vec<String>,
    monitoring: Vec<String>,
    /// The process of each, which opens the door to the loopback that its debug pages are on.
    processes: Vec<u32>,
    unready: Arc<Mutex<Vec<String>>>,
    _watchers: JoinSet<()>,
}

impl Replicas {
    /// Asks each for `/ready` all the time from now on.
    pub(crate) async fn watch(kubectl: &Kubectl) -> Self {
        let names = kubectl.pods(NAMESPACE, "istio=pilot").await;
        assert_eq!(names.len(), 2, "{names:?}");
        let (mut monitoring, mut processes) = (Vec::new(), Vec::new());
        let unready = Arc::<Mutex<Vec<String>>>::default();
        let mut watchers = JoinSet::new();
        for name in &names {
            let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", name]).await;
            let address = pod["status"]["podIP"].as_str().unwrap();
            let base = format!("http://{address}:15014");
            monitoring.push(base.clone());
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            processes.push(process_of(uid).expect("the node runs the replica"));
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
        Self { names, monitoring, processes, unready, _watchers: watchers }
    }

    /// The values of a metric at each, one for each watch.
    async fn metric(&self, name: &str) -> Result<Vec<Vec<f64>>, String> {
        let mut all = Vec::new();
        for base in &self.monitoring {
            let (_, page) = get(&format!("{base}/metrics")).await?;
            let samples = page.lines().filter(|line| line.starts_with(name));
            all.push(samples.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect());
        }
        Ok(all)
    }

    pub(crate) async fn watch_errors(&self) -> Result<Vec<f64>, String> {
        let values = self.metric("pilothouse_watch_errors_total{").await?;
        Ok(values.iter().map(|of_watches| of_watches.iter().sum()).collect())
    }

    /// Waits until each replica counted errors since `before`, and says of every watch, in its metrics
    /// and in `/debug/sourcez`, that it has heard nothing for three seconds, and there also why.
    pub(crate) async fn say_what_is_wrong(&self, before: &[f64]) {
        until("errors and age of the watches of every replica", async || {
            let now = self.watch_errors().await?;
            let ages = self.metric("pilothouse_watch_age_seconds{").await?;
            let failed = now.iter().zip(before).all(|(now, before)| now > before);
            let aged =
                ages.iter().all(|ages| !ages.is_empty() && ages.iter().all(|age| *age > 3.0));
            if !failed || !aged {
                return Err(format!("{now:?} after {before:?}, {ages:?}"));
            }
            for process in &self.processes {
                let page = sourcez(*process)?;
                let watches = page["watches"].as_array().into_iter().flatten();
                let mut watches = watches.filter(|watch| watch["absent"].is_null());
                let told = |watch: &Value| {
                    watch["lastError"].is_string()
                        && watch["ageSeconds"].as_f64().is_some_and(|age| age > 3.0)
                };
                if page["ready"] != true || !watches.all(told) {
                    return Err(page.to_string());
                }
            }
            Ok(())
        })
        .await;
    }

    /// Never anything but 200 from `/ready`, and nobody was restarted.
    pub(crate) async fn were_ready_all_along(&self, kubectl: &Kubectl) {
        let unready = self.unready.lock().unwrap().clone();
        assert!(unready.is_empty(), "{unready:?}");
        assert_eq!(kubectl.pods(NAMESPACE, "istio=pilot").await, self.names);
        for name in &self.names {
            let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", name]).await;
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
        }
    }
}

/// The program that runs in a pod, by the pod's uid.
pub(crate) fn process_of(uid: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let read = |file| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        read("cgroup").contains(uid) && read("cmdline").contains("pilothouse\0serve")
    })
}

/// `/debug/sourcez` on the loopback of a pod, by way of its network: `kubectl port-forward` needs the
/// API server.
fn sourcez(process: u32) -> Result<Value, String> {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/8080 \
               && printf 'GET /debug/sourcez HTTP/1.0\r\nhost: localhost\r\n\r\n' >&3 && cat <&3";
    let process = process.to_string();
    let output = Command::new("nsenter")
        .args(["--net", "--target", &process, "timeout", "10", "bash", "-c", ask])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
    let page = body.and_then(|body| serde_json::from_str(body).ok());
    page.ok_or_else(|| format!("{text} {}", String::from_utf8_lossy(&output.stderr)))
}

/// A program of the kit's node that was ended by SIGKILL; dropped, it runs again as it was, to outlive
/// the test, also one that failed. The kit keeps its process ids beside the kubeconfig.
pub(crate) struct Killed {
    name: &'static str,
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Killed {
    pub(crate) fn kill(name: &'static str) -> Self {
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

impl Killed {
    fn run_again(&self) -> io::Result<()> {
        let log = self.folder.join(format!("log/{}.log", self.name));
        let log = File::options().append(true).open(log)?;
        let mut child = Command::new("setsid")
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let id = child.id().to_string();
        // Taken note of should it end while this still runs.
        std::thread::spawn(move || child.wait());
        std::fs::write(self.folder.join(format!("{}.pid", self.name)), id)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Without a panic, as a test may be failing already; whoever needs it will say so.
        if let Err(error) = self.run_again() {
            eprintln!("{} could not be started again: {error}", self.name);
        }
    }
}

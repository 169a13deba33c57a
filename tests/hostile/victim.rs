//! The program that is attacked, and what is seen of it from outside.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pilothouse_testkit::control_plane::{ControlPlane, pilothouse_under};
pub(crate) use pilothouse_testkit::in_time;
use pilothouse_testkit::manifests::{self, http_service};
use pilothouse_testkit::{Process, get, until};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// What a replica of `manifests/` may use.
pub(crate) const LIMIT: usize = 512 << 20;

/// Services of a usual mesh, with ten endpoints each.
pub(crate) const SERVICES: usize = 1000;

pub(crate) struct Victim {
    pub(crate) grpc: SocketAddr,
    /// With TLS, if the arguments ask for it.
    pub(crate) secure_grpc: Option<SocketAddr>,
    pub(crate) monitoring: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Victim {
    /// Serves so many services of ten endpoints, `followed` and `web`, and is ready.
    pub(crate) async fn start(services: usize, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mesh = folder.path().join("mesh");
        std::fs::create_dir(&mesh).unwrap();
        let mut text = String::new();
        for number in 0..services {
            let name = format!("svc-{number}");
            let endpoints = (0..10).map(|at| format!("10.{}.{}.{at}", number / 250, number % 250));
            text.push_str(&http_service(&name, 8080, endpoints));
            text.push_str("---\n");
        }
        std::fs::write(mesh.join("all.yaml"), text).unwrap();
        let mut limited = Command::new("prlimit");
        // A hard limit on what it may allocate: beyond it the program dies.
        limited.arg(format!("--data={LIMIT}"));
        let serve = ["serve", "--manifests", mesh.to_str().unwrap()];
        let arguments = [&serve[..], &["--max-peer-memory", "134217728"], arguments].concat();
        let mut command = pilothouse_under(limited, &arguments);
        command.envs(deployed_environment());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ControlPlane { grpc, secure_grpc, monitoring, process, .. } =
            ControlPlane::start_command(command, any).await;
        let victim = Self { grpc, secure_grpc, monitoring, process, folder };
        victim.write("followed", "10.200.0.1", 80);
        victim.write("web", "10.200.0.2", 80);
        until("ready, and all services known", async || {
            let (status, body) = get(&victim.url("ready")).await?;
            if status != 200 {
                return Err(format!("{status} {body}"));
            }
            let known = victim.metric("pilot_services").await;
            if known == (services + 2) as f64 { Ok(()) } else { Err(format!("{known} services")) }
        })
        .await;
        victim
    }

    /// The service of this name has this one endpoint.
    pub(crate) fn write(&self, name: &str, address: &str, port: u16) {
        let mesh = self.folder.path().join("mesh");
        manifests::write(&mesh, &format!("{name}.yaml"), &http_service(name, port, [address]));
    }

    fn url(&self, page: &str) -> String {
        format!("http://{}/{page}", self.monitoring)
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = until("the metrics", async || get(&self.url("metrics")).await).await.1;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    pub(crate) fn resident(&self) -> usize {
        self.process.memory("VmRSS")
    }

    /// Waits until it has hardly anything to do any more.
    pub(crate) async fn is_idle(&self) {
        until("the program to be idle", async || {
            let before = self.process.cpu();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let used = self.process.cpu() - before;
            if used < 0.1 { Ok(()) } else { Err(format!("{used} s of CPU in half a second")) }
        })
        .await;
    }

    /// It has never used more than its limit, and gives back all but `kept` bytes of what it has
    /// used since `before`.
    pub(crate) async fn gives_back(&self, before: usize, kept: usize) {
        let peak = self.process.memory("VmHWM");
        assert!(peak <= LIMIT, "{} MiB at its highest", peak >> 20);
        until("memory to be given back", async || {
            let now = self.resident();
            if now <= before + kept {
                return Ok(());
            }
            Err(format!(
                "{} MiB before, {} MiB now, at most {}",
                before >> 20,
                now >> 20,
                peak >> 20
            ))
        })
        .await;
    }

    /// Asks `/live` and `/ready` all the time, from now on.
    pub(crate) fn probes(&self) -> Probes {
        let failed = Arc::new(AtomicBool::new(false));
        let (urls, seen) = ([self.url("live"), self.url("ready")], failed.clone());
        let task = tokio::spawn(async move {
            let mut answered = 0;
            loop {
                for url in &urls {
                    // `get` waits for ten seconds; the kubelet waits for one.
                    match get(url).await {
                        Ok((200, _)) => answered += 1,
                        other => {
                            eprintln!("{url}: {other:?}");
                            seen.store(true, Ordering::Relaxed);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                assert!(answered < 1_000_000);
            }
        });
        Probes { failed, task }
    }
}

/// Ends asking when dropped.
pub(crate) struct Probes {
    failed: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Probes {
    pub(crate) fn never_failed(self) {
        assert!(!self.task.is_finished(), "the probes have ended");
        self.task.abort();
        assert!(!self.failed.load(Ordering::Relaxed), "a probe was not answered in time");
    }
}

/// The environment variables of the container in `manifests/`: its allocator gives back what the
/// program frees.
fn deployed_environment() -> Vec<(&'static str, &'static str)> {
    let deployment = include_str!("../../manifests/base/deployment.yaml");
    let (_, environment) = deployment.split_once(" env:\n").expect("the container has variables");
    let mut lines = environment.lines().map(str::trim);
    let mut variables = Vec::new();
    while let Some(name) = lines.next().and_then(|line| line.strip_prefix("- name: ")) {
        let value = lines.next().and_then(|line| line.strip_prefix("value: ")).expect("a value");
        variables.push((name, value.trim_matches('"')));
    }
    assert!(!variables.is_empty(), "no variable in {deployment}");
    variables
}

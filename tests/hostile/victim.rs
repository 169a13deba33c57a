//! The program that is attacked, and what is seen of it from outside.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::common::{DEADLINE, Process, get, until};

/// What a replica of `manifests/` may use.
pub(crate) const LIMIT: usize = 512 << 20;

/// Services of a usual mesh, with ten endpoints each.
pub(crate) const SERVICES: usize = 1000;

pub(crate) struct Victim {
    pub(crate) grpc: SocketAddr,
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
            service(&mut text, &name, 8080, endpoints);
        }
        std::fs::write(mesh.join("all.yaml"), text).unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("prlimit");
        // A hard limit on what it may allocate: beyond it the program dies.
        command.arg(format!("--data={LIMIT}")).arg(env!("CARGO_BIN_EXE_pilothouse"));
        command.args(["serve", "--manifests", mesh.to_str().unwrap()]);
        command.args(["--max-peer-memory", "134217728"]);
        for door in ["--grpc-addr", "--http-addr", "--monitoring-addr"] {
            command.args([door, "127.0.0.1:0"]);
        }
        command.args(arguments).envs(deployed_environment()).env("NO_COLOR", "1");
        let process = Process::start(&mut command, log);
        let line = until("the program to listen", async || {
            let log = process.log();
            log.lines().find(|line| line.contains("listening")).map(str::to_owned).ok_or(log)
        })
        .await;
        let address = |name: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
        };
        let victim =
            Self { grpc: address("grpc="), monitoring: address("monitoring="), process, folder };
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
        let mut text = String::new();
        service(&mut text, name, port, [address.to_owned()].into_iter());
        let mesh = self.folder.path().join("mesh");
        // Renamed into its place, so that no half file is read.
        let draft = mesh.join(format!(".{name}"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, mesh.join(format!("{name}.yaml"))).unwrap();
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

    /// A line of the process' status in bytes: `VmRSS` now, `VmHWM` at its highest.
    fn memory(&self, line: &str) -> usize {
        let id = self.process.id().expect("it lives");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes = found.unwrap_or_else(|| panic!("no {line}: the process has ended"));
        let number: usize = kilobytes.trim().trim_end_matches(" kB").parse().unwrap();
        number << 10
    }

    pub(crate) fn resident(&self) -> usize {
        self.memory("VmRSS")
    }

    /// Seconds of processor time used so far.
    fn cpu(&self) -> f64 {
        let id = self.process.id().expect("it lives");
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    /// Waits until it has hardly anything to do any more.
    pub(crate) async fn is_idle(&self) {
        until("the program to be idle", async || {
            let before = self.cpu();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let used = self.cpu() - before;
            if used < 0.1 { Ok(()) } else { Err(format!("{used} s of CPU in half a second")) }
        })
        .await;
    }

    /// It has never used more than its limit, and gives back all but `kept` bytes of what it has
    /// used since `before`.
    pub(crate) async fn gives_back(&self, before: usize, kept: usize) {
        let peak = self.memory("VmHWM");
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

fn service(text: &mut String, name: &str, port: u16, endpoints: impl Iterator<Item = String>) {
    let endpoints: String =
        endpoints.map(|address| format!("  - addresses: [\"{address}\"]\n")).collect();
    write!(
        text,
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports:
    - {{name: http, port: 80}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
  - {{name: http, port: {port}}}
endpoints:
{endpoints}---
"
    )
    .unwrap();
}

/// Waits, but not for ever.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

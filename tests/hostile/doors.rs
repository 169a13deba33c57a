//! Connections that say nothing, or half of what they should, on every door: probes and new proxies
//! still get in.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use pilothouse_testkit::control_plane::{ControlPlane, pilothouse_under};
use pilothouse_testkit::{Process, free_port, get, in_time, until, xds_client};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  ports: [{name: http, port: 80}]
";

struct Victim {
    folder: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
    monitoring: SocketAddr,
    process: Process,
}

impl Victim {
    /// With no more than so many open files, the hard limit as well.
    async fn start(files: u32) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("web.yaml"), SERVICE).unwrap();
        let manifest = folder.path().join("web.yaml");
        let serve = ["serve", "--manifests", manifest.to_str().unwrap()];
        let command = pilothouse_under(limited(files), &serve);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ControlPlane { grpc, http, monitoring, process, .. } =
            ControlPlane::start_command(command, any).await;
        let victim = Self { folder, grpc, http, monitoring, process };
        until("pilothouse to be ready", async || victim.probe("ready").await).await;
        victim
    }

    /// One probe, which has a second as the kubelet's have.
    async fn probe(&self, page: &str) -> Result<(), String> {
        let url = format!("http://{}/{page}", self.monitoring);
        match tokio::time::timeout(Duration::from_secs(1), get(&url)).await {
            Ok(Ok((200, _))) => Ok(()),
            other => Err(format!("{page}: {other:?}")),
        }
    }

    async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.monitoring);
        let (_, page) = get(&url).await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {page}"))
    }

    /// A new proxy that asks for its clusters and gets them.
    async fn serves_a_new_proxy(&self) {
        in_time("a new proxy's clusters", async {
            let channel = xds_client::connect(self.grpc).await;
            let mut stream = xds_client::open_sotw(channel).await;
            stream.say(xds_client::sotw(xds_client::CDS, &[])).await;
            assert!(!stream.response().await.resources.is_empty());
        })
        .await;
    }
}

/// What starts another program with no more than so many open files, the hard limit as well.
fn limited(files: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]);
    shell
}

/// Connections on which only this is said. Those that the peer refuses are refused.
fn half(address: SocketAddr, count: usize, said: &[u8]) -> Vec<TcpStream> {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).ok()?;
        stream.write_all(said).ok()?;
        Some(stream)
    };
    (0..count).filter_map(|_| open()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_on_the_http_doors_keep_no_probe_out() {
    let victim = Victim::start(1024).await;
    let head = b"GET /ready HTTP/1.1\r\nhost: x\r\n";
    let held = half(victim.monitoring, 1200, head);
    assert!(held.len() > 1000, "the attack came about: {}", held.len());
    let silent = half(victim.http, 500, b"");
    for page in ["ready", "live"] {
        victim.probe(page).await.unwrap();
    }
    assert!(victim.metric("pilothouse_connections_cut_total{door=\"monitoring\"}").await > 1000.0);
    assert!(victim.metric("pilothouse_connections{door=\"monitoring\"}").await <= 128.0);
    assert!(victim.metric("pilothouse_connections{door=\"debug\"}").await <= 128.0);
    victim.serves_a_new_proxy().await;
    // Whoever is left is not left for ever: only the one that asks is there in the end.
    until("the half requests to time out", async || {
        let left = victim.metric("pilothouse_connections{door=\"monitoring\"}").await
            + victim.metric("pilothouse_connections{door=\"debug\"}").await;
        if left <= 1.0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    drop((held, silent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_on_the_grpc_door_keep_no_proxy_out() {
    let victim = Victim::start(1024).await;
    // This process needs descriptors for its own side.
    pilothouse::door::descriptors::raise_limit();
    let held = half(victim.grpc, 3000, b"");
    assert!(held.len() > 2000, "the attack came about: {}", held.len());
    for page in ["ready", "live"] {
        victim.probe(page).await.unwrap();
    }
    victim.serves_a_new_proxy().await;
    assert!(victim.metric("pilothouse_connections{door=\"gRPC\"}").await <= 768.0);
    until("the silent ones to be dropped", async || {
        // One is the good proxy's.
        let left = victim.metric("pilothouse_connections{door=\"gRPC\"}").await;
        if left <= 1.0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    let log = victim.process.log();
    let warnings = log.lines().filter(|line| line.contains("too many connections")).count();
    assert!((1..=10).contains(&warnings), "one a period, with a count: {warnings} in {log}");
    assert!(!log.contains("too many open files"), "{log}");
    drop(held);
    drop(victim.folder);
}

/// The limit is too low for what each door would take by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_descriptors_all_doors_together_keep_nobody_out() {
    let victim = Victim::start(128).await;
    pilothouse::door::descriptors::raise_limit();
    let doors = [victim.grpc, victim.http, victim.monitoring];
    let held = doors.map(|door| half(door, 400, b""));
    assert!(held.iter().all(|of| of.len() > 300), "the attack came about");
    for page in ["ready", "live", "ready", "live"] {
        victim.probe(page).await.unwrap();
    }
    victim.serves_a_new_proxy().await;
    let log = victim.process.log();
    // What is cut is open for another moment, so descriptors may be out for as long.
    let words = ["too many connections", "cannot take a connection"];
    let warnings = log.lines().filter(|line| words.iter().any(|word| line.contains(word))).count();
    assert!((3..=10).contains(&warnings), "one a door and period: {warnings} in {log}");
    drop(held);
}

/// The limit is lowered below what is open already, as an operator may do (`prlimit`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_that_are_taken_away_are_waited_for() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let victim = Victim::start(1024).await;
    let id = victim.process.id();
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64;
    let pid = Pid::from_raw(id.try_into().unwrap());
    let limit = |current| Rlimit { current: Some(current), maximum: Some(1024) };
    prlimit(pid, Resource::Nofile, limit(files.saturating_sub(5))).unwrap();
    let held = half(victim.grpc, 100, b"");
    assert_eq!(held.len(), 100, "the kernel takes them for it");
    until("it to say what it lacks", async || {
        let log = victim.process.log();
        if log.contains("Too many open files") { Ok(()) } else { Err(log) }
    })
    .await;
    // No less than ten failures of each door that is asked.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = victim.process.log();
    let lines = log.lines().filter(|line| line.contains("cannot take a connection")).count();
    assert!((1..=3).contains(&lines), "one a door and period: {lines} in {log}");

    prlimit(pid, Resource::Nofile, limit(1024)).unwrap();
    until("probes to be answered", async || victim.probe("live").await).await;
    victim.probe("ready").await.unwrap();
    victim.serves_a_new_proxy().await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_probes_get_in_as_well() {
    let folder = TempDir::new().unwrap();
    let status = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let agent = ["agent", "--envoy=/bin/sleep", "--instance-ip=10.1.2.3", "--pod-name=web-0"];
    let mut command = pilothouse_under(limited(1024), &agent);
    // An Envoy that does nothing.
    let envoy = folder.path().join("envoy");
    std::fs::write(&envoy, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&envoy, std::fs::Permissions::from_mode(0o755)).unwrap();
    command.arg(format!("--envoy={}", envoy.display()));
    command.arg(format!("--config-dir={}", folder.path().display()));
    command.arg(format!("--status-addr={status}"));
    let _agent = Process::start("agent", &mut command);
    let url = format!("http://{status}/healthz/live");
    let live = async || match get(&url).await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("the agent to answer", live).await;
    pilothouse::door::descriptors::raise_limit();
    let held = half(status, 2000, b"GET /healthz/ready HTTP/1.1\r\n");
    assert!(held.len() > 1500, "the attack came about: {}", held.len());
    live().await.unwrap();
    drop(held);
}

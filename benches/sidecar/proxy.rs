//! An Envoy with the bootstrap of the sidecar's agent.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::{LONG_DEADLINE, Process, envoy, http};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Mode, Options};

/// The agent's default.
const ADMIN: &str = "127.0.0.1:15000";

pub(crate) struct Proxy {
    pub(crate) process: Process,
    /// From its start until it was live.
    pub(crate) ready_after: Duration,
    _folder: TempDir,
}

impl Proxy {
    /// Starts it and waits until it is live, which it is once it has all that it asked for at its start.
    pub(crate) async fn start(
        options: &Options,
        mode: Mode,
        control: SocketAddr,
        uses: &str,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut agent = pilothouse(&["agent", "--bootstrap-only"]);
        agent.arg(format!("--discovery-address={control}"));
        let pod = [
            ("POD_NAME", "caller-0"),
            ("POD_NAMESPACE", "namespace-0"),
            ("INSTANCE_IP", "10.127.0.1"),
            ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
        ];
        agent.envs(pod);
        if mode != Mode::All {
            agent.env("ISTIO_META_DISCOVERY", "on-demand");
        }
        if mode == Mode::OnDemandUses {
            agent.env("ISTIO_META_USES", uses);
        }
        let printed = agent.output().unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        std::fs::write(folder.path().join("envoy.json"), printed.stdout).unwrap();

        let mut command = Command::new(envoy::program());
        command.current_dir(folder.path()).args(["-c", "envoy.json", "--disable-hot-restart"]);
        command.args(["--concurrency", &options.concurrency.to_string(), "--log-level", "warning"]);
        let begun = Instant::now();
        let mut process = Process::start("envoy", &mut command);
        loop {
            if http::get(&format!("http://{ADMIN}/ready"), None)
                .await
                .is_ok_and(|page| page.status == 200)
            {
                break;
            }
            assert_eq!(process.status(), None, "Envoy ended: {}", process.log());
            assert!(begun.elapsed() < LONG_DEADLINE, "Envoy is not ready: {}", process.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { process, ready_after: begun.elapsed(), _folder: folder }
    }

    /// Bytes that it holds for itself: not its program, and not what it shares with others.
    pub(crate) fn memory(&self) -> usize {
        self.process.memory("RssAnon")
    }

    /// Bytes that it received from the control plane.
    pub(crate) async fn received(&self) -> u64 {
        self.stat("cluster.xds-grpc.upstream_cx_rx_bytes_total").await
    }

    /// Clusters that it has, those of its bootstrap included.
    pub(crate) async fn clusters(&self) -> u64 {
        self.stat("cluster_manager.active_clusters").await
    }

    async fn stat(&self, name: &str) -> u64 {
        let url = format!("http://{ADMIN}/stats?format=json&filter=^{}$", name.replace('.', "\\."));
        let page = http::json(&url).await.unwrap();
        let stats: Vec<_> = page["stats"].as_array().into_iter().flatten().collect();
        let found =
            stats.iter().find(|one| one["name"] == name).and_then(|one| one["value"].as_u64());
        found.unwrap_or_else(|| panic!("no {name} in {}", Value::from(page.to_string())))
    }
}

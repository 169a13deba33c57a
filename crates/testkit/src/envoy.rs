//! A real Envoy with one of the project's own sample bootstraps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::{DEADLINE, eventually, http, places, repository, same};

/// How it speaks to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    Sotw,
    Delta,
}

/// Which clusters it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// All of them.
    All,
    /// Those that it uses.
    OnDemand,
}

impl Discovery {
    /// Where [`crate::in_both_discoveries!`] puts its tests.
    pub fn module(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on_demand",
        }
    }

    /// What a sample's metadata says for it, as pieces to replace.
    pub fn pieces(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::All => &[],
            Self::OnDemand => {
                &[("NAMESPACE: default", "NAMESPACE: default\n    DISCOVERY: on-demand")]
            }
        }
    }
}

/// Which bootstrap of `examples/envoy` it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    Standalone,
    Sidecar,
    Bound,
    Router,
}

#[derive(Debug)]
pub struct Envoy {
    pub process: Process,
    folder: TempDir,
    environment: Vec<(&'static str, &'static str)>,
    pub admin: SocketAddr,
    /// Where the standalone listener is.
    pub listener: SocketAddr,
}

impl Envoy {
    /// Starts and is live: it has what it waits for at its start.
    pub async fn start(sample: Sample, wire: Wire, control: SocketAddr) -> Self {
        Self::start_with(sample, wire, control, &[]).await
    }

    /// The same with pieces of the sample replaced; each must be there once.
    pub async fn start_with(
        sample: Sample,
        wire: Wire,
        control: SocketAddr,
        replace: &[(&str, &str)],
    ) -> Self {
        let envoy = Self::start_unready(sample, wire, control, replace).await;
        envoy.is_live().await;
        envoy
    }

    /// The same, but its start may still wait for something.
    pub async fn start_unready(
        sample: Sample,
        wire: Wire,
        control: SocketAddr,
        replace: &[(&str, &str)],
    ) -> Self {
        Self::start_in(&[], sample, wire, control, replace).await
    }

    /// The same with these environment variables.
    pub async fn start_in(
        environment: &[(&'static str, &'static str)],
        sample: Sample,
        wire: Wire,
        control: SocketAddr,
        replace: &[(&str, &str)],
    ) -> Self {
        let environment = environment.to_vec();
        let listener = SocketAddr::new(places::address(), places::port());
        let folder = TempDir::new().expect("a temporary folder");
        let bootstrap = bootstrap(sample, wire, control, listener, replace);
        std::fs::write(folder.path().join("envoy.yaml"), bootstrap).expect("it is writable");
        let process = run(folder.path(), &environment);
        let mut envoy = Self { process, folder, environment, admin: listener, listener };
        envoy.has_admin().await;
        envoy
    }

    /// Ends it and starts it with the same bootstrap.
    pub async fn restart(&mut self) {
        self.process.kill();
        std::fs::remove_file(self.folder.path().join("admin")).expect("it was written");
        self.process = run(self.folder.path(), &self.environment);
        self.has_admin().await;
        self.is_live().await;
    }

    async fn has_admin(&mut self) {
        let file = self.folder.path().join("admin");
        self.admin = eventually(DEADLINE, "Envoy's admin address", async || {
            if let Some(status) = self.process.status() {
                panic!("Envoy ended with {status}");
            }
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            text.parse().map_err(|_| format!("{text:?}"))
        })
        .await;
    }

    async fn is_live(&self) {
        eventually(DEADLINE, "Envoy to be live", async || {
            let answer = self.page("/ready").await?;
            same(answer.body.trim(), "LIVE")
        })
        .await;
    }

    /// Lets it stand still, or go on (`STOP`, `CONT`).
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub async fn page(&self, path: &str) -> Result<http::Answer, String> {
        http::get(&format!("http://{}{path}", self.admin), None).await
    }

    pub async fn json(&self, path: &str) -> Result<Value, String> {
        http::json(&format!("http://{}{path}", self.admin)).await
    }

    /// Its configuration with endpoints.
    pub async fn config_dump(&self) -> Result<Value, String> {
        self.json("/config_dump?include_eds").await
    }

    /// Statistics by name, those that `filter` (a regular expression) matches.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>, String> {
        let page = self.json(&format!("/stats?format=json&filter={filter}")).await?;
        let all = page["stats"].as_array().ok_or_else(|| format!("no stats: {page}"))?;
        let number = |one: &Value| Some((one["name"].as_str()?.to_owned(), one["value"].as_u64()?));
        Ok(all.iter().filter_map(number).collect())
    }

    pub async fn stat(&self, name: &str) -> Result<u64, String> {
        let stats = self.stats(&format!("^{}$", name.replace('.', "\\."))).await?;
        stats.get(name).copied().ok_or_else(|| format!("there is no {name}"))
    }

    /// The endpoints that each cluster of a service has in `/clusters`, as `address:port`.
    pub async fn clusters(&self) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
        let page = self.json("/clusters?format=json").await?;
        let all = page["cluster_statuses"].as_array().ok_or_else(|| format!("{page}"))?;
        let of = |cluster: &Value| {
            let name = cluster["name"].as_str().filter(|name| name.starts_with("outbound|"))?;
            let hosts = cluster["host_statuses"].as_array().into_iter().flatten();
            let addresses = hosts.filter_map(|host| crate::dump::address(&host["address"]));
            Some((name.to_owned(), addresses.collect()))
        };
        Ok(all.iter().filter_map(of).collect())
    }

    /// A GET through the listener at `at` for this Host.
    pub async fn fetch_at(&self, at: SocketAddr, host: &str) -> Result<http::Answer, String> {
        http::get(&format!("http://{at}/"), Some(host)).await
    }

    /// A GET through the standalone listener for this Host.
    pub async fn fetch(&self, host: &str) -> Result<http::Answer, String> {
        self.fetch_at(self.listener, host).await
    }

    /// Nothing happened that must never happen: nothing waits for what does not come, no fetch
    /// timed out, nothing was rejected, nothing deprecated was used.
    pub async fn assert_untroubled(&self) {
        eventually(DEADLINE, "nothing to be warming", async || {
            let warming = self.stats("(warming_clusters|total_listeners_warming)$").await?;
            same(warming.into_values().collect::<Vec<_>>(), vec![0, 0])
        })
        .await;
        let stats = self.stats("(init_fetch_timeout|update_rejected)$").await.expect("its stats");
        assert!(stats.contains_key("cluster_manager.cds.init_fetch_timeout"), "{stats:?}");
        assert!(stats.contains_key("listener_manager.lds.init_fetch_timeout"), "{stats:?}");
        let troubled: Vec<_> = stats.iter().filter(|(_, count)| **count != 0).collect();
        assert!(troubled.is_empty(), "{troubled:?}");
        let deprecated = self.stat("runtime.deprecated_feature_use").await;
        assert_eq!(deprecated, Ok(0), "deprecated features are used");
        let log = self.process.lines();
        let said: Vec<_> =
            log.iter().filter(|line| line.to_ascii_lowercase().contains("deprecated")).collect();
        assert!(said.is_empty(), "{said:#?}");
    }
}

pub(crate) fn run(folder: &Path, environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(program());
    command.current_dir(folder).envs(environment.iter().copied());
    command.args(["-c", "envoy.yaml", "--admin-address-path", "admin", "--disable-hot-restart"]);
    command.args(["--concurrency", "1", "--log-level", "warning"]);
    // As the agent runs it.
    command.args(["--drain-strategy", "immediate"]);
    // What this Envoy does not know is to be rejected, not passed over.
    command.arg("--reject-unknown-dynamic-fields");
    Process::start("envoy", &mut command)
}

/// The Envoy that `make envoy` installs, or the one that the environment names.
pub fn program() -> PathBuf {
    let installed = || repository().join(".tools/venv/bin/envoy");
    let program = std::env::var_os("PILOTHOUSE_ENVOY").map_or_else(installed, PathBuf::from);
    assert!(
        program.exists(),
        "there is no Envoy at {}: run `make envoy`, or let PILOTHOUSE_ENVOY name one",
        program.display()
    );
    program
}

pub(crate) fn bootstrap(
    sample: Sample,
    wire: Wire,
    control: SocketAddr,
    listener: SocketAddr,
    replace: &[(&str, &str)],
) -> String {
    let file = match sample {
        Sample::Standalone => "standalone",
        Sample::Sidecar => "sidecar",
        Sample::Bound => "bound",
        Sample::Router => "router",
    };
    let path = format!("examples/envoy/{file}.yaml");
    let text = std::fs::read_to_string(repository().join(&path)).expect("the sample is there");
    let upstream = format!("address: {}, port_value: {}", control.ip(), control.port());
    let address = format!("LISTEN_ADDRESS: {}", listener.ip());
    let port = format!("LISTEN_PORT: {}", listener.port());
    let mut pieces = vec![
        ("address: istio-pilot.istio-system, port_value: 15010", &*upstream),
        ("port_value: 15000", "port_value: 0"),
    ];
    if wire == Wire::Delta {
        pieces.push(("api_type: GRPC", "api_type: DELTA_GRPC"));
    }
    if sample == Sample::Standalone {
        pieces.push(("LISTEN_ADDRESS: 0.0.0.0", &address));
        pieces.push(("LISTEN_PORT: 15080", &port));
    }
    pieces.extend(replace);
    pieces.into_iter().fold(text, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{path} has {from:?} once");
        text.replace(from, to)
    })
}

/// The address of a workload as dumps have it.
pub fn endpoint(address: IpAddr) -> String {
    SocketAddr::new(address, crate::backends::target_port()).to_string()
}

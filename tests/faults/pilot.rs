//! The control plane as a process, seen by its pages.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::api::Api;

/// Long enough for a busy machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Pilot {
    pub(crate) grpc: u16,
    debug: u16,
    monitoring: u16,
    folder: TempDir,
    _child: Child,
}

impl Pilot {
    pub(crate) fn start(api: &Api) -> Self {
        Self::start_at(api.address)
    }

    /// The API server is, or is reached through, what listens there.
    pub(crate) fn start_at(api: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test",
                "cluster": { "server": format!("http://{api}") } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        let (kubeconfig, log) = (folder.path().join("kubeconfig"), folder.path().join("log"));
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let log = std::fs::File::create(log).unwrap();
        let (grpc, debug, monitoring) = (free_port(), free_port(), free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .args(["serve", "--source", "kube", "--watch-timeout", "1s"])
            .arg(format!("--grpc-addr=127.0.0.1:{grpc}"))
            .arg(format!("--http-addr=127.0.0.1:{debug}"))
            .arg(format!("--monitoring-addr=127.0.0.1:{monitoring}"))
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { grpc, debug, monitoring, folder, _child: child }
    }

    pub(crate) async fn ready(&self) -> Result<(), String> {
        match self.get(self.monitoring, "/ready").await? {
            (200, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        }
    }

    pub(crate) async fn metrics(&self) -> Result<String, String> {
        Ok(self.get(self.monitoring, "/metrics").await?.1)
    }

    pub(crate) async fn sourcez(&self) -> Result<Value, String> {
        self.json("/debug/sourcez").await
    }

    /// Waits until endpointz shows exactly these addresses.
    pub(crate) async fn serves(&self, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
        eventually(&format!("the endpoints {wanted:?}"), async || {
            let page = self.json("/debug/endpointz").await?;
            let mut shown = BTreeSet::new();
            collect_addresses(&page, &mut shown);
            if shown == wanted { Ok(()) } else { Err(format!("{shown:?}; {}", self.log())) }
        })
        .await;
    }

    /// Waits until the last list of each watch was made like this.
    pub(crate) async fn lists(&self, how: &str) {
        eventually(&format!("lists to be {how}"), async || {
            let page = self.sourcez().await?;
            let watches = page["watches"].as_array().into_iter().flatten();
            let so: Vec<bool> = watches.map(|one| one["listed"] == how).collect();
            if so == [true, true] { Ok(()) } else { Err(format!("{page}; {}", self.log())) }
        })
        .await;
    }

    /// Waits until this watch shows an error with these words.
    pub(crate) async fn complains(&self, watch: &str, words: &str) {
        eventually(&format!("{watch} to say {words:?}"), async || {
            let page = self.sourcez().await?;
            let watches = page["watches"].as_array().into_iter().flatten();
            let said = watches
                .filter(|one| one["name"] == watch)
                .any(|one| one["lastError"].as_str().is_some_and(|error| error.contains(words)));
            if said { Ok(()) } else { Err(format!("{page}; {}", self.log())) }
        })
        .await;
    }

    async fn json(&self, path: &str) -> Result<Value, String> {
        let (_, text) = self.get(self.debug, path).await?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
    }

    async fn get(&self, port: u16, path: &str) -> Result<(u16, String), String> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://127.0.0.1:{port}{path}").parse().unwrap();
        let failed = |error: &dyn std::fmt::Display| format!("{error}; its log: {}", self.log());
        let response = client.get(uri).await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| failed(&error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    /// How long ago a watch was heard from, in seconds: in sourcez, and in the metrics.
    pub(crate) async fn age(&self, watch: &str) -> Result<[f64; 2], String> {
        let page = self.sourcez().await?;
        let mut watches = page["watches"].as_array().into_iter().flatten();
        let shown = watches.find(|one| one["name"] == watch);
        let shown = shown.and_then(|one| one["ageSeconds"].as_f64());
        let metrics = self.metrics().await?;
        let sample = format!("pilothouse_watch_age_seconds{{watch=\"{watch}\"}} ");
        let metric = metrics.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
        shown.zip(metric).map(Into::into).ok_or_else(|| format!("{page} {metrics}"))
    }

    /// Waits until these words are in its log.
    pub(crate) async fn logs(&self, words: &str) {
        eventually(&format!("{words:?} in the log"), async || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn collect_addresses(value: &Value, into: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key == "Addresses" {
            let all = value.as_array().into_iter().flatten();
            into.extend(all.filter_map(Value::as_str).map(str::to_owned));
        }
        collect_addresses(value, into);
    }
    for value in value.as_array().into_iter().flatten() {
        collect_addresses(value, into);
    }
}

/// Looks again and again until `check` says yes; panics with what it said last.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(seen) = check().await {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}; last seen: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

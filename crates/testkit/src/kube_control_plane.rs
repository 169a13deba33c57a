//! The control plane as a process, seen by its pages.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use crate::control_plane::ControlPlane;
use crate::fake_api_server::Api;
use crate::process::Process;
use crate::{get, json, until};

#[derive(Debug)]
pub struct Pilot {
    control: ControlPlane,
    _folder: TempDir,
}

impl Pilot {
    pub async fn start(api: &Api) -> Self {
        Self::start_at(api.address).await
    }

    /// The API server is, or is reached through, what listens there.
    pub async fn start_at(api: SocketAddr) -> Self {
        Self::start_with(api, &["--watch-timeout=1s"]).await
    }

    pub async fn start_with(api: SocketAddr, flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test",
                "cluster": { "server": format!("http://{api}") } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let source = [&["--source", "kube"], flags].concat();
        let kubeconfig = kubeconfig.to_str().expect("a path in UTF-8");
        let control = ControlPlane::start_with(&source, &[("KUBECONFIG", kubeconfig)]).await;
        Self { control, _folder: folder }
    }

    /// Where proxies connect.
    pub fn grpc(&self) -> SocketAddr {
        self.control.grpc
    }

    /// Where probes and Prometheus ask.
    pub fn monitoring(&self) -> SocketAddr {
        self.control.monitoring
    }

    pub fn process(&self) -> &Process {
        &self.control.process
    }

    pub async fn ready(&self) -> Result<(), String> {
        match self.get("/ready").await? {
            (200, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        }
    }

    pub async fn metrics(&self) -> Result<String, String> {
        Ok(self.get("/metrics").await?.1)
    }

    pub async fn sourcez(&self) -> Result<Value, String> {
        self.json("/debug/sourcez").await
    }

    /// Waits until endpointz shows exactly these addresses.
    pub async fn serves(&self, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
        until(&format!("the endpoints {wanted:?}"), async || {
            let page = self.json("/debug/endpointz").await?;
            let mut shown = BTreeSet::new();
            collect_addresses(&page, &mut shown);
            if shown == wanted { Ok(()) } else { Err(format!("{shown:?}; {}", self.log())) }
        })
        .await;
    }

    /// Waits until the last list of each watch was made like this.
    pub async fn lists(&self, how: &str) {
        until(&format!("lists to be {how}"), async || {
            let page = self.sourcez().await?;
            let watches = page["watches"].as_array().into_iter().flatten();
            let there = watches.filter(|one| one["absent"].is_null());
            let so: Vec<bool> = there.map(|one| one["listed"] == how).collect();
            if so == [true, true] { Ok(()) } else { Err(format!("{page}; {}", self.log())) }
        })
        .await;
    }

    /// Waits until this watch shows an error with these words.
    pub async fn complains(&self, watch: &str, words: &str) {
        self.watch_says(&format!("{watch} to say {words:?}"), watch, "lastError", words).await;
    }

    /// Waits until this watch is absent, for a reason with these words.
    pub async fn misses(&self, watch: &str, words: &str) {
        self.watch_says(&format!("{watch} to be absent: {words:?}"), watch, "absent", words).await;
    }

    async fn watch_says(&self, what: &str, watch: &str, field: &str, words: &str) {
        until(what, async || {
            let page = self.sourcez().await?;
            let watches = page["watches"].as_array().into_iter().flatten();
            let said = watches
                .filter(|one| one["name"] == watch)
                .any(|one| one[field].as_str().is_some_and(|text| text.contains(words)));
            if said { Ok(()) } else { Err(format!("{page}; {}", self.log())) }
        })
        .await;
    }

    /// How many routes it knows.
    pub async fn routes(&self) -> Result<u64, String> {
        let page = self.sourcez().await?;
        page["routes"].as_u64().ok_or_else(|| page.to_string())
    }

    /// Waits until it knows that many routes.
    pub async fn knows_routes(&self, wanted: u64) {
        let what = format!("{wanted} routes");
        until(&what, async || match self.routes().await? {
            known if known == wanted => Ok(()),
            known => Err(format!("{known} routes; {}", self.log())),
        })
        .await;
    }

    async fn json(&self, path: &str) -> Result<Value, String> {
        let page = json(&format!("http://{}{path}", self.control.http)).await;
        page.map_err(|error| format!("{error}; its log: {}", self.log()))
    }

    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let answer = get(&format!("http://{}{path}", self.control.monitoring)).await;
        answer.map_err(|error| format!("{error}; its log: {}", self.log()))
    }

    /// How long ago a watch was heard from, in seconds: in sourcez, and in the metrics.
    pub async fn age(&self, watch: &str) -> Result<[f64; 2], String> {
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
    pub async fn logs(&self, words: &str) {
        until(&format!("{words:?} in the log"), async || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    pub fn log(&self) -> String {
        self.control.process.log()
    }
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

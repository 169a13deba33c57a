//! A real Prometheus: its own configuration, data and port, and questions as Grafana asks them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::rules;
use pilothouse_testkit::{Process, free_port, json, until};

/// Seconds between two scrapes, and between two evaluations of the rules.
pub(crate) const INTERVAL: u64 = 1;

/// The job under which the control plane is scraped.
pub(crate) const JOB: &str = "pilot";

#[derive(Debug)]
pub(crate) struct Prometheus {
    url: String,
    process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes one address, and is ready.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: {INTERVAL}s, evaluation_interval: {INTERVAL}s}}\n\
             rule_files: [{:?}]\n\
             scrape_configs:\n\
             - job_name: {JOB}\n  static_configs: [{{targets: ['{target}']}}]\n",
            rules::path()
        );
        std::fs::write(&config, text).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let process = Process::start("prometheus", &mut command);
        let prometheus = Self { url: format!("http://{address}"), process, _folder: folder };
        until("Prometheus to scrape", async || {
            let targets = prometheus.api("targets", &[]).await?;
            match targets["activeTargets"][0]["health"].as_str() {
                Some("up") => Ok(()),
                _ => Err(format!("{targets}; its log: {}", prometheus.process.log())),
            }
        })
        .await;
        prometheus
    }

    /// The `data` of an answer.
    pub(crate) async fn api(
        &self,
        what: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Value, String> {
        let query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let url = format!("{}/api/v1/{what}?{}", self.url, query.join("&"));
        let mut answer = json(&url).await?;
        match answer["status"].as_str() {
            Some("success") if answer["warnings"].is_null() => Ok(answer["data"].take()),
            _ => Err(answer.to_string()),
        }
    }

    /// All values of an expression over the last minute, by series, as a panel asks for them.
    pub(crate) async fn range(&self, expression: &str, step: u64) -> Result<Vec<Vec<f64>>, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (start, end, step) = ((now - 60).to_string(), now.to_string(), step.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        let data = self.api("query_range", &parameters).await?;
        let series = data["result"].as_array().ok_or_else(|| data.to_string())?;
        let values = series.iter().map(|one| {
            let values = one["values"].as_array().into_iter().flatten();
            values.filter_map(|pair| pair[1].as_str()?.parse().ok()).collect()
        });
        Ok(values.collect())
    }
}

/// Percent-encoded but for what is safe in a query.
fn encoded(text: &str) -> String {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes()
        .map(|byte| match safe(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

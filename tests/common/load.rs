//! Real Envoys on the node under constant load, every answer counted.
//!
//! An Envoy here is one of the sample's with a stream of its own kind to the control plane, and clients
//! that ask it all the time, each on a connection of its own. What answers other than by a pod is kept
//! word for word: Envoy's own replies say why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Process, free_port, json, until};

/// Clients of one Envoy and the pause between two requests of each: 200 requests a second.
const CLIENTS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);

/// Of ten endpoints one that is in use is missed by so many answers once in 10^9 times.
#[allow(dead_code)] // not every kind of tests asks
const IN_A_ROW: usize = 200;

/// How an Envoy speaks to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    #[allow(dead_code)] // not every kind of tests asks
    Sotw,
    Delta,
}

#[derive(Debug, Default)]
struct Seen {
    /// Answers by pod, since they were last forgotten.
    pods: BTreeMap<String, usize>,
    answers: usize,
    failures: Vec<String>,
}

/// An Envoy and those that ask it; both end when dropped.
#[derive(Debug)]
pub(crate) struct LoadedEnvoy {
    #[allow(dead_code)] // not every kind of tests asks
    pub(crate) id: String,
    pub(crate) wire: Wire,
    admin: u16,
    seen: Arc<Mutex<Seen>>,
    _clients: JoinSet<()>,
    process: Process,
    _dir: TempDir,
}

impl LoadedEnvoy {
    /// Starts an Envoy with this node id, waits until `url` (HOST:PORT/PATH) is answered through it by a pod, and puts
    /// it under load from then on.
    pub(crate) async fn start(pilot: SocketAddr, wire: Wire, id: &str, url: &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        let (port, admin) = (free_port(), free_port());
        let config = dir.path().join("envoy.yaml");
        std::fs::write(&config, bootstrap(wire, pilot, id, port, admin)).unwrap();
        let envoy =
            std::env::var("PILOTHOUSE_ENVOY").expect("PILOTHOUSE_ENVOY names an Envoy: make envoy");
        let process = Process::start(
            Command::new(envoy).arg("-c").arg(config).args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
            ]),
            dir.path().join("envoy.log"),
        );
        until("the first answer through Envoy", async || {
            ask(&client(), port, url).await.map_err(|e| format!("{e}; its log: {}", process.log()))
        })
        .await;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let seen = seen.clone();
            clients.spawn(async move {
                let client = client();
                let mut ticks = tokio::time::interval(EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let answer = ask(&client, port, url).await;
                    let mut seen = seen.lock().unwrap();
                    seen.answers += 1;
                    match answer {
                        Ok(pod) => *seen.pods.entry(pod).or_default() += 1,
                        Err(failure) => seen.failures.push(failure),
                    }
                }
            });
        }
        Self { id: id.to_owned(), wire, admin, seen, _clients: clients, process, _dir: dir }
    }

    /// Waits until these pods answer, all of them and no others, over so many answers in a row that
    /// no other can have been left out by chance.
    #[allow(dead_code)] // not every kind of tests asks
    pub(crate) async fn is_answered_by(&self, pods: &[String]) {
        let wanted: BTreeSet<&str> = pods.iter().map(String::as_str).collect();
        self.seen.lock().unwrap().pods.clear();
        until(&format!("answers by {wanted:?} alone ({:?})", self.wire), async || {
            let mut seen = self.seen.lock().unwrap();
            let by: BTreeSet<&str> = seen.pods.keys().map(String::as_str).collect();
            if by == wanted && seen.pods.values().sum::<usize>() >= IN_A_ROW {
                return Ok(());
            }
            let said = format!("{:?}; failures {:?}", seen.pods, seen.failures);
            if !by.is_subset(&wanted) {
                seen.pods.clear();
            }
            Err(said)
        })
        .await;
    }

    /// Waits until so many more requests were answered.
    pub(crate) async fn carries(&self, more: usize) {
        let before = self.seen.lock().unwrap().answers;
        until(&format!("{more} more answers ({:?})", self.wire), async || {
            let answers = self.seen.lock().unwrap().answers;
            if answers >= before + more { Ok(()) } else { Err(format!("{answers}")) }
        })
        .await;
    }

    /// One of Envoy's counters.
    #[allow(dead_code)] // not every kind of tests asks
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let page =
            json(&format!("http://127.0.0.1:{}/stats?format=json", self.admin)).await.unwrap();
        let mut stats = page["stats"].as_array().into_iter().flatten();
        let found = stats.find(|stat| stat["name"] == name).and_then(|stat| stat["value"].as_u64());
        found.unwrap_or_else(|| panic!("Envoy has no counter {name}: {page}"))
    }

    /// Not one request may have failed.
    pub(crate) fn met_no_failure(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(
            seen.failures.is_empty(),
            "{} of {} requests failed ({:?}): {:?}; Envoy's log: {}",
            seen.failures.len(),
            seen.answers,
            self.wire,
            seen.failures,
            self.process.log()
        );
        println!("{:?}: {} requests, no failure", self.wire, seen.answers);
    }
}

fn bootstrap(wire: Wire, pilot: SocketAddr, id: &str, port: u16, admin: u16) -> String {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/standalone.yaml");
    let text = std::fs::read_to_string(sample).unwrap();
    let control = format!("address: {}, port_value: {}", pilot.ip(), pilot.port());
    let listener = format!("LISTEN_PORT: {port}");
    let (id, admin) = (format!("id: {id}"), format!("port_value: {admin}"));
    let api_type = match wire {
        Wire::Sotw => "api_type: GRPC",
        Wire::Delta => "api_type: DELTA_GRPC",
    };
    [
        ("address: istio-pilot.istio-system, port_value: 15010", control.as_str()),
        ("port_value: 15000", admin.as_str()),
        ("LISTEN_ADDRESS: 0.0.0.0", "LISTEN_ADDRESS: 127.0.0.1"),
        ("LISTEN_PORT: 15080", &listener),
        ("id: sample-standalone", id.as_str()),
        ("api_type: GRPC", api_type),
    ]
    .into_iter()
    .fold(text, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "the sample has {from:?} once");
        text.replace(from, to)
    })
}

fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The pod that answered 200, or what came instead.
async fn ask(
    client: &Client<HttpConnector, Empty<Bytes>>,
    port: u16,
    url: &str,
) -> Result<String, String> {
    let (host, path) = url.split_once('/').unwrap();
    let request = Request::get(format!("http://127.0.0.1:{port}/{path}"))
        .header("host", host)
        .body(Empty::new())
        .unwrap();
    let answered = async {
        let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        match answer["pod"].as_str() {
            Some(pod) if status == 200 => Ok(pod.to_owned()),
            _ => Err(format!("{status} {body}")),
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

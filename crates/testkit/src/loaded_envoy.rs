//! Real Envoys on the node under constant load, every answer counted.
//!
//! An Envoy here is one of the sample's with a stream of its own kind to the control plane, and clients
//! that ask it all the time, each on a connection of its own. What answers other than by a pod is kept
//! word for word: Envoy's own replies say why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::envoy::{Envoy, Sample, Wire};
use crate::until;

/// Clients of one Envoy and the pause between two requests of each: 200 requests a second.
const CLIENTS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);

/// Of ten endpoints one that is in use is missed by so many answers once in 10^9 times.
const IN_A_ROW: usize = 200;

#[derive(Debug, Default)]
struct Seen {
    /// Answers by pod, since they were last forgotten.
    pods: BTreeMap<String, usize>,
    answers: usize,
    failures: Vec<String>,
}

/// An Envoy and those that ask it; both end when dropped.
#[derive(Debug)]
pub struct LoadedEnvoy {
    pub id: String,
    pub wire: Wire,
    envoy: Envoy,
    seen: Arc<Mutex<Seen>>,
    _clients: JoinSet<()>,
}

impl LoadedEnvoy {
    /// Starts an Envoy with this node id, waits until `url` (HOST:PORT/PATH) is answered through it by a pod, and puts
    /// it under load from then on.
    pub async fn start(pilot: SocketAddr, wire: Wire, id: &str, url: &'static str) -> Self {
        let named = [("id: sample-standalone", &*format!("id: {id}"))];
        let envoy = Envoy::start_with(Sample::Standalone, wire, pilot, &named).await;
        let at = envoy.listener;
        until("the first answer through Envoy", async || {
            let answer = get(&client(), at, url).await;
            answer.map_err(|e| format!("{e}; its log: {}", envoy.process.log()))
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
                    let answer = get(&client, at, url).await;
                    let mut seen = seen.lock().unwrap();
                    seen.answers += 1;
                    match answer {
                        Ok(pod) => *seen.pods.entry(pod).or_default() += 1,
                        Err(failure) => seen.failures.push(failure),
                    }
                }
            });
        }
        Self { id: id.to_owned(), wire, envoy, seen, _clients: clients }
    }

    /// Waits until these pods answer, all of them and no others, over so many answers in a row that
    /// no other can have been left out by chance.
    pub async fn is_answered_by(&self, pods: &[String]) {
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
    pub async fn carries(&self, more: usize) {
        let before = self.seen.lock().unwrap().answers;
        until(&format!("{more} more answers ({:?})", self.wire), async || {
            let answers = self.seen.lock().unwrap().answers;
            if answers >= before + more { Ok(()) } else { Err(format!("{answers}")) }
        })
        .await;
    }

    /// One of Envoy's counters.
    pub async fn counter(&self, name: &str) -> u64 {
        self.envoy.stat(name).await.unwrap()
    }

    /// Not one request may have failed.
    pub fn met_no_failure(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(
            seen.failures.is_empty(),
            "{} of {} requests failed ({:?}): {:?}; Envoy's log: {}",
            seen.failures.len(),
            seen.answers,
            self.wire,
            seen.failures,
            self.envoy.process.log()
        );
        println!("{:?}: {} requests, no failure", self.wire, seen.answers);
    }
}

fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The pod that answered 200, or what came instead.
async fn get(
    client: &Client<HttpConnector, Empty<Bytes>>,
    at: SocketAddr,
    url: &str,
) -> Result<String, String> {
    let (host, path) = url.split_once('/').unwrap();
    let request = Request::get(format!("http://{at}/{path}"))
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

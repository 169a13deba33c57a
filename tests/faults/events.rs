//! Kubernetes Events over an API server that refuses, asks to wait or hangs, and under a flood of NACKs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::api::{Api, SLICES, Writes};
use crate::pilot::Pilot;
use pilothouse_testkit::rejecting::Rejecting;
use pilothouse_testkit::xds_client::connect_from;
use pilothouse_testkit::{places, until};

/// Pods of namespace `default`, each with an address of its own.
struct Pods(Vec<(String, IpAddr)>);

impl Pods {
    async fn served(count: usize, flags: &[&str]) -> (Api, Pilot, Self) {
        let pods: Vec<_> = (0..count).map(|n| (format!("web-{n}"), places::address())).collect();
        let api = Api::start().await;
        api.change(|now| {
            now.service("web", &[]);
            now.put(SLICES, slice(&pods));
        });
        let flags = [&["--watch-timeout=1s"], flags].concat();
        let pilot = Pilot::start_with(api.address, &flags).await;
        until("ready", async || pilot.ready().await).await;
        (api, pilot, Self(pods))
    }

    /// The proxy of a pod rejects everything.
    async fn rejects(
        &self,
        pilot: &Pilot,
        pod: usize,
        words: impl Fn(usize) -> String + Send + 'static,
    ) -> Rejecting {
        let (name, address) = &self.0[pod];
        let node = format!("sidecar~{address}~{name}.default~default.svc.cluster.local");
        Rejecting::start(connect_from(*address, pilot.grpc()).await, &node, words).await
    }
}

fn slice(pods: &[(String, IpAddr)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, address)| {
            json!({ "addresses": [address], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "name": name, "namespace": "default" } })
        })
        .collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-pods", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints })
}

async fn outcome(pilot: &Pilot, result: &str) -> Result<u64, String> {
    let page = pilot.metrics().await?;
    let sample = format!("pilothouse_events_total{{result=\"{result}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
    value.ok_or(page)
}

async fn reaches(pilot: &Pilot, result: &str, wanted: u64) {
    until(&format!("{wanted} {result} events"), async || {
        let seen = outcome(pilot, result).await?;
        if seen >= wanted { Ok(()) } else { Err(format!("{seen}; {}", pilot.log())) }
    })
    .await;
}

#[tokio::test]
async fn a_rejection_is_told_once_and_counted_then_and_only_if_asked_for() {
    let (api, pilot, pods) = Pods::served(1, &["--events"]).await;
    let (silent_api, silent, its_pods) = Pods::served(1, &[]).await;
    let _proxies = [
        pods.rejects(&pilot, 0, |_| "no\u{202e} room".to_owned()).await,
        its_pods.rejects(&silent, 0, |_| "no room".to_owned()).await,
    ];
    reaches(&pilot, "written", 1).await;
    let [event] = &api.events()[..] else { panic!("{:?}", api.events()) };
    assert_eq!(event["note"], "Envoy rejected CDS and goes on with what it had: no\\u{202e} room");
    assert_eq!(event["regarding"]["name"], "web-0");
    // The same again: no second event.
    api.change(|now| now.service("other", &["10.0.0.9"]));
    reaches(&pilot, "written", 2).await;
    let [event] = &api.events()[..] else { panic!("{:?}", api.events()) };
    assert_eq!(event["series"]["count"], 2, "{event}");
    assert_eq!((silent_api.event_requests(), outcome(&silent, "written").await), (0, Ok(0)));
}

#[tokio::test]
async fn whoever_is_not_where_the_pod_is_writes_no_event() {
    let (api, pilot, pods) = Pods::served(2, &["--events"]).await;
    // It claims to be the other pod, and has no event of its own either.
    let (name, _) = &pods.0[0];
    let node = format!("sidecar~{}~{name}.default~default.svc.cluster.local", pods.0[0].1);
    let channel = connect_from(pods.0[1].1, pilot.grpc()).await;
    let _proxy = Rejecting::start(channel, &node, |_| "lies".to_owned()).await;
    reaches(&pilot, "unverified", 1).await;
    assert_eq!(api.event_requests(), 0);
}

#[tokio::test]
async fn a_missing_right_is_said_once_and_not_asked_for_again_and_again() {
    let (api, pilot, pods) = Pods::served(8, &["--events"]).await;
    api.treat_events(Writes::Refused(403, 0));
    let mut proxies = Vec::new();
    for pod in 0..8 {
        proxies.push(pods.rejects(&pilot, pod, |_| "no room".to_owned()).await);
    }
    reaches(&pilot, "failed", 8).await;
    assert_eq!(api.event_requests(), 1, "the first refusal is one for all");
    let log = pilot.log();
    let warnings = log.lines().filter(|line| line.contains("cannot write Kubernetes Events"));
    assert_eq!(warnings.count(), 1, "{log}");
    assert!(log.contains("manifests/events"), "it says what to do: {log}");
    pilot.ready().await.unwrap();
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_asked_again() {
    let (api, pilot, pods) = Pods::served(1, &["--events"]).await;
    api.treat_events(Writes::Refused(429, 1));
    let _proxy = pods.rejects(&pilot, 0, |_| "no room".to_owned()).await;
    pilot.logs("429 TooManyRequests").await;
    api.treat_events(Writes::Taken);
    reaches(&pilot, "written", 1).await;
    assert_eq!(api.events().len(), 1);
    pilot.logs("written again").await;
}

#[tokio::test]
async fn an_api_server_that_hangs_holds_up_nothing_else() {
    let (api, pilot, pods) = Pods::served(2, &["--events"]).await;
    api.treat_events(Writes::Hang);
    let _proxy = pods.rejects(&pilot, 0, |_| "no room".to_owned()).await;
    until("the request that hangs", async || match api.event_requests() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    // Configuration goes on, and so does what is read of it.
    api.change(|now| now.service("new", &["10.0.0.7"]));
    let addresses: BTreeSet<String> =
        pods.0.iter().map(|(_, address)| address.to_string()).chain(["10.0.0.7".into()]).collect();
    pilot.serves(&addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    api.treat_events(Writes::Taken);
    reaches(&pilot, "written", 1).await;
}

/// A thousand proxies of twenty pods, each of which rejects ten responses, each time with other words.
#[tokio::test]
async fn a_flood_of_rejections_makes_few_events() {
    const PODS: usize = 20;
    const PROXIES: usize = 1000;
    let (api, pilot, pods) = Pods::served(PODS, &["--events"]).await;
    let mut proxies = Vec::new();
    for n in 0..PROXIES {
        let words = move |response| format!("proxy {n} has no room for response {response}");
        proxies.push(pods.rejects(&pilot, n % PODS, words).await);
    }
    for round in 1..=10_u64 {
        let wanted = PROXIES as u64 * round;
        until(&format!("{wanted} rejections"), async || {
            let page = pilot.metrics().await?;
            let sample = "pilot_total_xds_rejects{type=\"cds\"} ";
            let seen = page.lines().find_map(|line| line.strip_prefix(sample)?.parse().ok());
            if seen.is_some_and(|seen: u64| seen >= wanted) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await;
        api.change(|now| now.service(&format!("more-{round}"), &[]));
    }
    reaches(&pilot, "limited", PROXIES as u64 / 2).await;
    // 100 at once and one in three seconds, for as long as this may have taken at most.
    let (events, requests) = (api.events().len(), api.event_requests());
    assert!((20..=150).contains(&events) && requests <= 300, "{events} {requests}");
    let mut by_pod = BTreeMap::<String, usize>::new();
    for event in api.events() {
        *by_pod.entry(event["regarding"]["name"].to_string()).or_default() += 1;
    }
    assert!(by_pod.len() > 2, "{by_pod:?}");
    // Every event stands for itself alone or says that it stands for many.
    assert!(by_pod.values().all(|events| *events <= 11), "{by_pod:?}");
    pilot.ready().await.unwrap();
}

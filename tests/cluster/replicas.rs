//! Two replicas of the control plane, several real Envoys under load on each, and replicas that are
//! killed by force: everybody moves, no request fails, and what a proxy has it is not sent again.

use std::collections::{BTreeMap, BTreeSet};

use pilothouse::names::ResourceType;
use serde_json::Value;

use crate::deployed::{NAMESPACE, debug_pages, deployed, rolled_out};
use crate::harness::Kubectl;
use crate::rollout::{URL, are_answered_by, cluster_address, end, pods, ten_pods};
use pilothouse_testkit::envoy::Wire;
use pilothouse_testkit::loaded_envoy::LoadedEnvoy;
use pilothouse_testkit::until;

/// Connections are spread by chance: with so many, none of a kind on one replica is one chance in
/// 10^4.
const MOST: usize = 16;

/// Envoy's name for a counter of the cluster of `details`.
const OTHER: &str = "cluster.outbound|9080||details.default.svc.cluster.local;.update_success";

/// What a replica's `/debug/syncz` says of an Envoy, and which replica that is.
struct Place {
    replica: String,
    synced: Value,
}

/// Where each Envoy is, once each is somewhere and has accepted all that it was sent.
async fn places(kubectl: &Kubectl, envoys: &[LoadedEnvoy]) -> BTreeMap<String, Place> {
    until("each Envoy on a replica, all accepted", async || {
        let mut places = BTreeMap::new();
        for (replica, page) in &debug_pages(kubectl).await? {
            let page = page.json("/debug/syncz").await?;
            for synced in page.as_array().into_iter().flatten() {
                let id = synced["proxy"].as_str().unwrap_or_default();
                let accepted = ["cluster", "endpoint", "listener", "route"]
                    .iter()
                    .all(|kind| synced[format!("{kind}_sent")] == synced[format!("{kind}_acked")]);
                if accepted {
                    let place = Place { replica: replica.clone(), synced: synced.clone() };
                    places.insert(id.to_owned(), place);
                }
            }
        }
        places.retain(|id, _| envoys.iter().any(|envoy| envoy.id == *id));
        if places.len() == envoys.len() { Ok(places) } else { Err(format!("{:?}", places.keys())) }
    })
    .await
}

/// Waits until no namespace is on its way out: its services would go while what changes is counted.
async fn nothing_else_changes(kubectl: &Kubectl) {
    until("namespaces that are to go to be gone", async || {
        let all = kubectl.json(&["get", "namespaces"]).await;
        let going: Vec<&Value> = all["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["status"]["phase"] == "Terminating")
            .map(|one| &one["metadata"]["name"])
            .collect();
        if going.is_empty() { Ok(()) } else { Err(format!("{going:?}")) }
    })
    .await;
}

/// Envoys until there is one in each variant of the protocol on each replica.
async fn on_both(kubectl: &Kubectl, replicas: &[String]) -> Vec<LoadedEnvoy> {
    let pilot = cluster_address(kubectl).await;
    let mut envoys = Vec::new();
    loop {
        for (wire, name) in [(Wire::Sotw, "sotw"), (Wire::Delta, "delta")] {
            let id = format!("moving-{name}-{}", envoys.len());
            envoys.push(LoadedEnvoy::start(pilot, wire, &id, URL).await);
        }
        let places = places(kubectl, &envoys).await;
        let kinds: BTreeSet<_> =
            envoys.iter().map(|envoy| (envoy.wire, &places[&envoy.id].replica)).collect();
        if kinds.len() == 2 * replicas.len() && envoys.len() >= 4 {
            return envoys;
        }
        assert!(envoys.len() < MOST, "{kinds:?}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn envoys_move_between_replicas_that_are_killed_by_force() {
    let kubectl = deployed().await;
    nothing_else_changes(&kubectl).await;
    let before = ten_pods(&kubectl).await;
    let old = kubectl.pods(NAMESPACE, "istio=pilot").await;
    assert_eq!(old.len(), 2, "{old:?}");
    let envoys = on_both(&kubectl, &old).await;
    are_answered_by(&envoys, &before).await;

    for (killed, replicas) in old.iter().zip([6, 9]) {
        let at = places(&kubectl, &envoys).await;
        let mut told = BTreeMap::new();
        for envoy in &envoys {
            told.insert(&envoy.id, Told::so_far(envoy).await);
        }
        let force = ["-n", NAMESPACE, "delete", "pod", killed, "--grace-period=0", "--force"];
        kubectl.run(&force).await;
        let wanted = format!("--replicas={replicas}");
        kubectl.run(&["scale", "deployment/rolled", &wanted]).await;
        rolled_out(&kubectl, "default", "rolled").await;
        are_answered_by(&envoys, &pods(&kubectl, replicas).await).await;

        let now = places(&kubectl, &envoys).await;
        let mut moved = BTreeSet::new();
        for envoy in &envoys {
            let (was, is) = (&at[&envoy.id], &now[&envoy.id]);
            assert_ne!(&is.replica, killed, "{}", envoy.id);
            if was.replica == *killed {
                was_told_only_what_changed(envoy, &told[&envoy.id], &is.synced).await;
                moved.insert(envoy.wire);
            }
        }
        assert_eq!(moved.len(), 2, "of each kind one had to move: {moved:?}");
        // The other one must not be killed before there are two again.
        rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;
    }
    let new = kubectl.pods(NAMESPACE, "istio=pilot").await;
    assert!(new.len() == 2 && new.iter().all(|pod| !old.contains(pod)), "{new:?} after {old:?}");
    end(&kubectl, envoys).await;
}

/// What an Envoy counts of what it was told.
#[derive(Debug)]
struct Told {
    streams: u64,
    clusters: u64,
    listeners: u64,
    /// Of a service whose endpoints never change here.
    other_endpoints: u64,
}

impl Told {
    async fn so_far(envoy: &LoadedEnvoy) -> Self {
        Self {
            streams: envoy.counter("cluster.xds-grpc.upstream_rq_total").await,
            clusters: envoy.counter("cluster_manager.cds.update_success").await,
            listeners: envoy.counter("listener_manager.lds.update_success").await,
            other_endpoints: envoy.counter(OTHER).await,
        }
    }
}

/// On its new stream; by its own counters, and by what its new replica says that it sent. In SotW a
/// subscription by names is answered in any case, as Envoy names no version that could tell what of
/// it it has.
async fn was_told_only_what_changed(envoy: &LoadedEnvoy, before: &Told, synced: &Value) {
    let now = Told::so_far(envoy).await;
    assert!(now.streams > before.streams, "{}: {before:?} {now:?}", envoy.id);
    assert_eq!(now.clusters, before.clusters, "{}", envoy.id);
    assert_eq!(now.listeners, before.listeners, "{}", envoy.id);
    let responses = |of: ResourceType| synced["resources"][of.type_url()]["responses"].as_u64();
    assert_eq!(responses(ResourceType::Cluster), Some(0), "{synced}");
    assert_eq!(responses(ResourceType::Listener), Some(0), "{synced}");
    assert!(responses(ResourceType::Endpoint) > Some(0), "{synced}");
    if envoy.wire == Wire::Delta {
        assert_eq!(responses(ResourceType::Route), Some(0), "{synced}");
        assert_eq!(now.other_endpoints, before.other_endpoints, "{}", envoy.id);
    }
}

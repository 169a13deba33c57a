//! Kubernetes Events, as `kubectl get events` shows what the real API server took.

use std::net::IpAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::{ApiServer, Pilot, until};
use pilothouse_testkit::rejecting::Rejecting;
use pilothouse_testkit::xds_client::connect_from;
use pilothouse_testkit::{get, repository};

/// An address of this machine that EndpointSlices may have: the API server refuses loopback. Connections from
/// it to itself do not leave the machine; those to loopback a node's kube-proxy drops. Asked of the system, since
/// the kit's node has no route to elsewhere.
fn own_address() -> IpAddr {
    let listed =
        Command::new("ip").args(["-json", "-4", "address", "show", "scope", "global"]).output();
    let listed: Value = serde_json::from_slice(&listed.expect("iproute2 is there").stdout).unwrap();
    let addresses = listed.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array());
    let address = addresses.flatten().find_map(|one| one["local"].as_str());
    address.expect("the machine has an address besides loopback").parse().unwrap()
}

impl ApiServer {
    /// Allows `pilot` what manifests/events allows.
    async fn allow_events(&self) {
        let path = repository().join("manifests/events/cluster-role.yaml");
        self.admin.run(&["apply", "-f", &path.display().to_string()]).await;
        let patch = json!([{ "op": "replace", "path": "/subjects",
            "value": [{ "kind": "User", "name": "pilot", "apiGroup": "rbac.authorization.k8s.io" }] }]);
        let role = "istio-pilot-events-istio-system";
        let patch = patch.to_string();
        self.admin.run(&["patch", "clusterrolebinding", role, "--type=json", "-p", &patch]).await;
    }

    /// The events that this project wrote, of the API group that it writes.
    async fn events(&self, namespace: &str) -> Vec<Value> {
        let list = self.admin.json(&["-n", namespace, "get", "events.events.k8s.io"]).await;
        let all = list["items"].as_array().cloned().unwrap_or_default().into_iter();
        all.filter(|event| event["reportingController"] == "pilothouse.io/control-plane").collect()
    }

    /// The pod `shop/web-1` at an address, ready, behind a headless Service with a port of the sidecar's own.
    async fn shop(&self, address: IpAddr) {
        self.admin.run(&["create", "namespace", "shop"]).await;
        let labels = json!({ "kubernetes.io/service-name": "web" });
        let target = json!({ "kind": "Pod", "name": "web-1", "namespace": "shop" });
        self.admin
            .apply(&[
                json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": { "name": "web", "namespace": "shop" },
                    "spec": { "clusterIP": "None",
                        "ports": [{ "name": "http", "port": 80 }, { "name": "http-own", "port": 15021 }] },
                }),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": { "name": "web-1", "namespace": "shop", "labels": labels },
                    "ports": [{ "name": "http", "port": 8080 }],
                    "endpoints": [{ "addresses": [address], "conditions": { "ready": true },
                        "targetRef": target }],
                }),
            ])
            .await;
    }
}

async fn metric(pilot: &Pilot, result: &str) -> Result<u64, String> {
    let (_, page) = get(&format!("{}/metrics", pilot.monitoring)).await?;
    let sample = format!("pilothouse_events_total{{result=\"{result}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
    value.ok_or(page)
}

async fn rejecting(pilot: &Pilot, address: IpAddr, words: &'static str) -> Rejecting {
    let node = format!("sidecar~{address}~web-1.shop~shop.svc.cluster.local");
    Rejecting::start(connect_from(address, pilot.grpc).await, &node, move |_| words.to_owned())
        .await
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn rejections_and_unserved_ports_are_events_of_their_objects() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.allow_events().await;
    let address = own_address();
    server.shop(address).await;
    // Two replicas: each sees the Service, and the proxy is connected to one.
    let pilot = Pilot::start_at(&server, address, &["--events"]).await;
    let other = Pilot::start_at(&server, address, &["--events"]).await;
    pilot.ready(200, |_| true).await;
    other.ready(200, |_| true).await;
    let proxy = rejecting(&pilot, address, "no <b>\u{202e}room</b>\n").await;

    let events = until("an event about the pod and one about the Service", async || {
        let written = (metric(&pilot, "written").await?, metric(&other, "written").await?);
        let events = server.events("shop").await;
        if written == (2, 1) { Ok(events) } else { Err(format!("{written:?} {events:?}")) }
    })
    .await;
    assert_eq!(events.len(), 2, "{events:?}");
    let of = |kind: &str| events.iter().find(|event| event["regarding"]["kind"] == kind).unwrap();
    let (pod, service) = (of("Pod"), of("Service"));
    assert_eq!(pod["reason"], "ConfigRejected");
    let note = "Envoy rejected CDS and goes on with what it had: no <b>\\u{202e}room</b>\\n";
    assert_eq!(pod["note"], note);
    assert_eq!(pod["regarding"]["name"], "web-1");
    assert_eq!((&pod["type"], &service["type"]), (&"Warning".into(), &"Warning".into()));
    assert_eq!(service["reason"], "PortNotServed");
    assert!(service["note"].as_str().unwrap().contains("15021"), "{service}");
    // Both replicas told it, by one event that is not even counted twice.
    assert_eq!(service["series"], Value::Null, "{service}");
    let shown = server.admin.run(&["-n", "shop", "get", "events"]).await;
    for words in ["pod/web-1", "ConfigRejected", "service/web", "PortNotServed"] {
        assert!(shown.contains(words), "{shown}");
    }
    let of_pod = server.admin.run(&["-n", "shop", "events", "--for", "pod/web-1"]).await;
    assert!(of_pod.contains("ConfigRejected"), "{of_pod}");
    // kubectl describe asks by the UID, which we do not know (docs/events.md).
    let container = json!({ "name": "web", "image": "web" });
    server
        .admin
        .apply(&[json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "web-1", "namespace": "shop" },
            "spec": { "containers": [container] } })])
        .await;
    let described = server.admin.run(&["-n", "shop", "describe", "pod", "web-1"]).await;
    assert!(described.contains("Events:") && !described.contains("ConfigRejected"), "{described}");

    // The same words again, by the other replica: counted, not doubled.
    drop(proxy);
    let _proxy = rejecting(&other, address, "no <b>\u{202e}room</b>\n").await;
    until("the event to be counted", async || {
        let events = server.events("shop").await;
        let pods: Vec<_> =
            events.iter().filter(|event| event["regarding"]["kind"] == "Pod").collect();
        match pods.as_slice() {
            [one] if one["series"]["count"].as_u64().is_some_and(|count| count >= 2) => Ok(()),
            _ => Err(format!("{pods:?}")),
        }
    })
    .await;
    assert_eq!(metric(&other, "failed").await, Ok(0));
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn without_the_right_nothing_is_written_and_everything_else_goes_on() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    let address = own_address();
    server.shop(address).await;
    let pilot = Pilot::start_at(&server, address, &["--events"]).await;
    pilot.ready(200, |_| true).await;
    let _proxy = rejecting(&pilot, address, "no room").await;
    until("both to have failed", async || match metric(&pilot, "failed").await? {
        2 => Ok(()),
        seen => Err(seen.to_string()),
    })
    .await;
    let log = pilot.process.log();
    assert_eq!(log.matches("cannot write Kubernetes Events").count(), 1, "{log}");
    assert!(log.contains("403 Forbidden"), "{log}");
    assert!(server.events("shop").await.is_empty());
    pilot.ready(200, |_| true).await;
}

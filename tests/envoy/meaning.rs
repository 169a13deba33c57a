//! What Services and EndpointSlices mean, in traffic: headless services and their pods, aliases and
//! names outside, endpoints on their way out, two address families, affinity and tuning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::envoy::{Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, on_both_wires, places, same};

on_both_wires!(
    a_headless_service_is_its_pods_and_each_of_them,
    a_pod_without_a_hostname_is_called_by_its_address,
    an_alias_is_what_it_stands_for,
    a_service_changes_its_type,
);

/// A Service in namespace `default` with the port `http`, 80.
pub(crate) fn service(name: &str, spec: &Value, annotations: &Value) -> Value {
    let mut whole = json!({ "ports": [{ "name": "http", "port": 80 }] });
    for (key, value) in spec.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "spec": whole,
        "metadata": { "name": name, "namespace": "default", "annotations": annotations } })
}

/// Its slice, with these endpoints.
pub(crate) fn slice(service: &str, family: &str, endpoints: &[Value]) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("{service}-{}", family.to_lowercase()), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": family, "endpoints": endpoints,
        "ports": [{ "name": "http", "port": target_port() }] })
}

pub(crate) fn apply_objects(lab: &Lab, name: &str, items: &[Value]) {
    put_objects(&lab.manifests, name, items);
}

pub(crate) fn put_objects(manifests: &Manifests, name: &str, items: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    manifests.put_raw(&format!("{name}.json"), &list.to_string());
}

/// Puts a service with these endpoints, all ready.
pub(crate) fn put_service(
    lab: &Lab,
    name: &str,
    spec: &Value,
    annotations: &Value,
    backends: &[&Backend],
) {
    let endpoints: Vec<_> =
        backends.iter().map(|one| json!({ "addresses": [one.address] })).collect();
    apply_objects(lab, name, &[service(name, spec, annotations), slice(name, "IPv4", &endpoints)]);
}

pub(crate) fn pods(backends: &[&Backend]) -> Vec<Value> {
    let pod = |one: &&Backend| json!({ "addresses": [one.address], "hostname": one.name });
    backends.iter().map(pod).collect()
}

async fn a_headless_service_is_its_pods_and_each_of_them(wire: Wire) {
    let [zero, one, two] =
        [Backend::http("db-0").await, Backend::http("db-1").await, Backend::http("db-2").await];
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    let headless = service("db", &json!({ "clusterIP": "None" }), &Value::Null);
    apply_objects(&lab, "db", &[headless.clone(), slice("db", "IPv4", &pods(&[&zero, &one]))]);
    lab.answered_by("db", &["db-0", "db-1"]).await;
    for form in ["db", "db.default", "db.default.svc", "db.default.svc.cluster.local"] {
        lab.answered_by(&format!("db-0.{form}"), &["db-0"]).await;
        lab.answered_by(&format!("db-1.{form}:80"), &["db-1"]).await;
    }
    lab.answers("db-2.db", 503).await;

    // A new pod with a new name: endpoints and nothing else.
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    let pushes = async || {
        let sync = lab.control.sync().await.unwrap();
        ["cds", "lds", "rds"].map(|of| sync.count(of, "responses").unwrap())
    };
    let before = pushes().await;
    apply_objects(&lab, "db", &[headless, slice("db", "IPv4", &pods(&[&zero, &one, &two]))]);
    lab.answered_by("db-2.db", &["db-2"]).await;
    lab.answered_by("db", &["db-0", "db-1", "db-2"]).await;
    assert_eq!(pushes().await, before);
    lab.assert_untroubled().await;
}

async fn a_pod_without_a_hostname_is_called_by_its_address(wire: Wire) {
    let (one, two) = (Backend::http("one").await, Backend::http("two").await);
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    put_service(&lab, "nats", &json!({ "clusterIP": "None" }), &Value::Null, &[&one, &two]);
    lab.answered_by("nats", &["one", "two"]).await;
    for pod in [&one, &two] {
        let dashed = pod.address.to_string().replace('.', "-");
        for form in ["nats.default.svc.cluster.local", "nats.default.svc.cluster.local.", "nats"] {
            lab.answered_by(&format!("{dashed}.{form}"), &[&pod.name]).await;
            lab.answered_by(&format!("{dashed}.{form}:80"), &[&pod.name]).await;
        }
        // One label more is no pod's name, and nobody's.
        lab.answers(&format!("{dashed}.leaf.nats"), 404).await;
    }
    lab.answers("10-10-0-4.nats.default.svc.cluster.local", 503).await;
    lab.assert_untroubled().await;
}

async fn an_alias_is_what_it_stands_for(wire: Wire) {
    let backend = Backend::http("one").await;
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    let alias = |name: &str, of: &str| {
        let spec = json!({ "type": "ExternalName", "externalName": of, "ports": null });
        apply_objects(&lab, name, &[service(name, &spec, &Value::Null)]);
    };
    alias("near", "far.default.svc.cluster.local");
    alias("far", "web.default.svc.cluster.local");
    alias("loop", "loop.default.svc.cluster.local");
    lab.answers("near", 404).await;
    put_service(&lab, "web", &json!({}), &Value::Null, &[&backend]);
    for host in ["near", "near:80", "near.default", "far.default.svc.cluster.local", "web"] {
        lab.answered_by(host, &["one"]).await;
    }
    lab.answers("loop", 404).await;
    let page = lab.control.debug("push_status").await.unwrap();
    let flaws = &page["pilothouse_service_flaws"];
    let said = flaws["default/loop: spec.externalName"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("an alias of itself"), "{page}");
    assert_eq!(lab.control.metric("pilothouse_service_flaws").await, Ok(1.0));
    let registry = lab.control.debug("registryz").await.unwrap();
    let own = registry.as_array().unwrap().iter().find(|one| one["Attributes"]["Name"] == "loop");
    assert_eq!(own.unwrap()["Flaws"][0]["field"], "spec.externalName");
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_service_changes_its_type(wire: Wire) {
    let (old, new) = (Backend::http("old").await, Backend::http("new").await);
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    put_service(&lab, "other", &json!({}), &Value::Null, &[&new]);
    let alias =
        json!({ "type": "ExternalName", "externalName": "other.default.svc.cluster.local" });
    let outside = json!({ "type": "ExternalName", "externalName": "nothing.invalid" });
    for _ in 0..2 {
        put_service(&lab, "web", &json!({ "clusterIP": "10.96.3.3" }), &Value::Null, &[&old]);
        lab.answered_by("web", &["old"]).await;
        put_service(&lab, "web", &alias, &Value::Null, &[&old]);
        lab.answered_by("web", &["new"]).await;
        put_service(&lab, "web", &json!({ "clusterIP": "None" }), &Value::Null, &[&old]);
        lab.answered_by("web", &["old"]).await;
        put_service(&lab, "web", &outside, &Value::Null, &[&old]);
        lab.answers("web", 503).await;
    }
    lab.assert_untroubled().await;
}

#[tokio::test]
async fn endpoints_on_their_way_out_serve_where_nothing_else_does() {
    let (old, new) = (Backend::http("old").await, Backend::http("new").await);
    let lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    let web = service("web", &json!({}), &Value::Null);
    let conditions = |ready: bool, serving: bool, terminating: bool| json!({ "ready": ready, "serving": serving, "terminating": terminating });
    let with = |endpoints: &[(&Backend, Value)]| {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(
                |(one, conditions)| json!({ "addresses": [one.address], "conditions": conditions }),
            )
            .collect();
        apply_objects(&lab, "web", &[web.clone(), slice("web", "IPv4", &endpoints)]);
    };
    with(&[(&old, conditions(false, true, true)), (&new, conditions(false, false, false))]);
    lab.answered_by("web", &["old"]).await;
    with(&[(&old, conditions(false, true, true)), (&new, json!({}))]);
    lab.answered_by("web", &["new"]).await;
    // What publishNotReadyAddresses makes of a pod that terminates and is not ready.
    with(&[(&old, conditions(true, false, true))]);
    lab.answered_by("web", &["old"]).await;
    with(&[(&old, conditions(false, false, true))]);
    lab.answers("web", 503).await;
    lab.assert_untroubled().await;
}

#[tokio::test]
async fn the_second_family_of_a_pod_is_tried_where_the_first_does_not_answer() {
    let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, target_port()));
    let listener = tokio::net::TcpListener::bind(six).await.expect("nobody else is there");
    let router = axum::Router::new().fallback(|| std::future::ready("six"));
    let server = tokio::spawn(async move { _ = axum::serve(listener, router).await });
    let lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    let target = json!({ "kind": "Pod", "namespace": "default", "name": "web-1", "uid": "1" });
    let endpoint = |address: IpAddr| json!({ "addresses": [address], "targetRef": target });
    // Nobody listens at the first address.
    let nobody = places::address();
    let services = [("both", ["IPv4", "IPv6"].as_slice()), ("four", &["IPv4"]), ("six", &["IPv6"])];
    for (name, families) in services {
        let items = [
            service(name, &json!({ "ipFamilies": families }), &Value::Null),
            slice(name, "IPv4", &[endpoint(nobody)]),
            slice(name, "IPv6", &[endpoint(six.ip())]),
        ];
        apply_objects(&lab, name, &items);
    }
    lab.answered_by("both", &["six"]).await;
    lab.answered_by("six", &["six"]).await;
    lab.answers("four", 503).await;
    let hosts = lab.envoy.clusters().await.unwrap();
    for (name, _) in services {
        let cluster = format!("outbound|80||{name}.default.svc.cluster.local");
        assert_eq!(hosts[&cluster].len(), 1, "a pod is one endpoint: {hosts:?}");
    }
    server.abort();
    lab.assert_untroubled().await;
}

/// The workload that answers a client with this address.
async fn answer_to(client: IpAddr, envoy: SocketAddr, host: &str) -> Result<String, String> {
    let asked = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((client, 0).into())?;
        let mut stream = socket.connect(envoy).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.map_err(|error| error.to_string())?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer);
    }
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let names = body.split_whitespace().find(|word| word.starts_with('v'));
    names.map(str::to_owned).ok_or(answer.clone())
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint() {
    let backends =
        [Backend::http("v1").await, Backend::http("v2").await, Backend::http("v3").await];
    let all: Vec<_> = backends.iter().collect();
    let lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    let sticky = json!({ "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 600 } } });
    put_service(&lab, "plain", &sticky, &Value::Null, &all);
    let maglev = json!({ "pilothouse.io/load-balancing": "maglev" });
    put_service(&lab, "even", &json!({}), &maglev, &all);
    let clients: Vec<_> = (0..96).map(|_| places::address()).collect();
    for host in ["plain", "even"] {
        let chosen = eventually(VISIBLE, &format!("{host} to answer"), async || {
            let mut chosen = BTreeMap::new();
            for client in &clients {
                chosen.insert(*client, answer_to(*client, lab.envoy.listener, host).await?);
            }
            Ok(chosen)
        })
        .await;
        let used: BTreeSet<_> = chosen.values().collect();
        assert_eq!(used.len(), 3, "96 clients are spread: {chosen:?}");
        for _ in 0..3 {
            for (client, workload) in &chosen {
                let again = answer_to(*client, lab.envoy.listener, host).await;
                assert_eq!(again.as_ref(), Ok(workload));
            }
        }
        // One endpoint goes: its clients move, the others stay.
        put_service(
            &lab,
            host,
            &sticky,
            &if host == "even" { maglev.clone() } else { Value::Null },
            &all[..2],
        );
        eventually(VISIBLE, "v3 to be left", async || {
            let mut moved = 0;
            for (client, workload) in &chosen {
                let now = answer_to(*client, lab.envoy.listener, host).await?;
                same(now == "v3", false)?;
                moved += usize::from(workload != "v3" && now != *workload);
            }
            // Both move some of the others: a ring gives the endpoints that are left more of its
            // points. Without consistency it would be half of them.
            let others = chosen.values().filter(|workload| *workload != "v3").count();
            if moved * 3 < others { Ok(()) } else { Err(format!("{moved} moved")) }
        })
        .await;
    }
    lab.assert_untroubled().await;
}

#[tokio::test]
async fn annotations_tune_and_a_bad_one_costs_itself_alone() {
    let (backend, silent) = (Backend::http("one").await, Backend::silent("silent").await);
    let lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    let none = json!({});
    let timed = json!({ "pilothouse.io/request-timeout": "200ms" });
    put_service(&lab, "slow", &none, &timed, &[&silent]);
    let closed =
        json!({ "pilothouse.io/max-requests": "0", "pilothouse.io/max-pending-requests": "0" });
    put_service(&lab, "closed", &none, &closed, &[&backend]);
    let bad = json!({ "pilothouse.io/retries": "many", "pilothouse.io/connect-timeout": "2s" });
    put_service(&lab, "bad", &none, &bad, &[&backend]);
    let errors = json!({ "pilothouse.io/outlier-consecutive-errors": "1",
        "pilothouse.io/outlier-max-ejected-percent": "100", "pilothouse.io/retries": "0" });
    // One of the two refuses connections.
    let dead = json!({ "addresses": [places::address()] });
    let alive = json!({ "addresses": [backend.address] });
    apply_objects(
        &lab,
        "half",
        &[service("half", &none, &errors), slice("half", "IPv4", &[dead, alive])],
    );

    lab.answers("slow", 504).await;
    lab.answers("closed", 503).await;
    lab.answered_by("bad", &["one"]).await;
    // Once ejected it gets no request, and without retries nothing else would hide it.
    lab.answered_by("half", &["one"]).await;
    let overflow =
        "cluster.outbound|80||closed.default.svc.cluster.local;.upstream_rq_pending_overflow";
    eventually(DEADLINE, "Envoy to count the overflow", async || {
        let stats = lab.envoy.stats("upstream_rq_pending_overflow$").await?;
        let count = stats.get(overflow).copied().unwrap_or_default();
        if count > 0 { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    let registry = lab.control.debug("registryz").await.unwrap();
    let find = |name: &str| {
        registry.as_array().unwrap().iter().find(|one| one["Attributes"]["Name"] == name).unwrap()
    };
    let flaws = find("bad")["Flaws"].as_array().unwrap();
    assert_eq!(flaws.len(), 1, "{flaws:?}");
    assert_eq!(flaws[0]["field"], "metadata.annotations[pilothouse.io/retries]");
    assert_eq!(find("slow")["Flaws"], Value::Null);
    assert_eq!(lab.control.metric("pilothouse_service_flaws").await, Ok(1.0));
    lab.assert_untroubled().await;
}

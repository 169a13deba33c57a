//! Is a change everywhere: what the control plane says of it, with a real Envoy that accepts it, one that
//! rejects it, and one that is stopped.

use std::net::{Ipv4Addr, TcpListener};

use rustix::process::Signal;
use serde_json::Value;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, places, same};

on_both_wires!(
    a_change_is_everywhere_once_envoy_has_it,
    a_rejection_holds_a_change_up_and_is_named,
    a_stopped_proxy_holds_a_change_up_and_is_named
);

async fn a_change_is_everywhere_once_envoy_has_it(wire: Wire) {
    let (v1, v2) = (Backend::http("v1").await, Backend::http("v2").await);
    let service = Service::new("web", "http", 80);
    let lab = Lab::start(Sample::Standalone, wire, &[service.clone().with([&v1])]).await;
    lab.answered_by(&service.host(), &["v1"]).await;
    let before = lab.control.debug("changes").await.unwrap();

    lab.manifests.apply(&service.clone().with([&v2]));
    let change = acknowledged(&lab, "EndpointSlice", &before).await;
    lab.answered_by(&service.host(), &["v2"]).await;
    assert_eq!(change["action"], "applied", "{change}");
    assert!(change["last_acknowledged"].is_string(), "{change}");
    let times = ["seen", "published", "last_acknowledged"].map(|field| change[field].as_str());
    assert!(times.is_sorted(), "{times:?}");

    // The same by the questions that `wait` asks.
    let name = change["name"].as_str().unwrap();
    let asked = format!("convergence?kind=EndpointSlice&namespace=default&name={name}");
    let published = lab.control.debug(&asked).await.unwrap();
    assert_eq!(
        (&published["state"], &published["generation"]),
        (&"published".into(), &change["generation"])
    );
    let everywhere = convergence(&lab, &change["generation"]).await.unwrap();
    same((&everywhere["proxies"], &everywhere["acknowledged"]), (&1.into(), &1.into())).unwrap();

    // What proxies are not sent is everywhere at once.
    let listed = lab.control.debug("changes?search=relisted&limit=1").await.unwrap();
    let instance = &listed["instance"];
    assert_eq!(*instance, before["instance"]);

    // What was sent and answered stands in the proxy's history, newest first.
    let proxies = lab.control.debug("proxies").await.unwrap();
    let row = &proxies["proxies"][0];
    assert_eq!(row["generation_acknowledged"], proxies["generation"]);
    let page = format!("proxies/{}", row["key"].as_str().unwrap());
    let page = lab.control.debug(&page).await.unwrap();
    let history = page["history"].as_array().unwrap();
    let last: Vec<_> = history.iter().take(2).map(|one| (&one["type"], &one["what"])).collect();
    assert_eq!(last, [(&"EDS".into(), &"ack".into()), (&"EDS".into(), &"response".into())]);
    assert_eq!(history[0]["nonce"], history[1]["nonce"]);
    assert_eq!(history[1]["generation"], change["generation"]);
    assert!(history[1]["bytes"].as_u64().unwrap() > 0 && history[1]["resources"] == 1);
}

async fn a_rejection_holds_a_change_up_and_is_named(wire: Wire) {
    let [good, taken] = [(); 2].map(|()| (Ipv4Addr::LOCALHOST, places::port()));
    let occupant = TcpListener::bind(taken).expect("a free port");
    let backend = Backend::http("one").await;
    let service = |name, port| Service::new(name, "http", port).with([&backend]);
    let lab = Lab::start(Sample::Bound, wire, &[service("good", good.1)]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;

    let before = lab.control.debug("changes").await.unwrap();
    lab.manifests.apply(&service("shut", taken.1));
    let mut generation = Value::Null;
    eventually(DEADLINE, "the rejection to be named", async || {
        let change = newest(&lab, "Service", &before).await?;
        generation = change["generation"].clone();
        let straggler = &change["stragglers"][0];
        same((&straggler["type"], &straggler["state"]), (&"LDS".into(), &"REJECTED".into()))?;
        let error = straggler["error"].as_str().unwrap_or_default();
        same(error.contains("Address already in use"), true).map_err(|_| change.to_string())
    })
    .await;
    let held_up = convergence(&lab, &generation).await.unwrap();
    same((&held_up["acknowledged"], &held_up["stragglers_total"]), (&0.into(), &1.into())).unwrap();
    assert_eq!(held_up["stragglers"][0]["state"], "REJECTED");

    // The next change of listeners brings what was rejected along, and its ACK is one of both.
    drop(occupant);
    lab.manifests.apply(&service("late", places::port()));
    eventually(DEADLINE, "the change to be everywhere", async || {
        same(&convergence(&lab, &generation).await?["acknowledged"], &1.into())
    })
    .await;
    lab.answered_at(taken.into(), "shut", &["one"]).await;
}

async fn a_stopped_proxy_holds_a_change_up_and_is_named(wire: Wire) {
    let (v1, v2) = (Backend::http("v1").await, Backend::http("v2").await);
    let service = Service::new("web", "http", 80);
    let lab = Lab::start(Sample::Standalone, wire, &[service.clone().with([&v1])]).await;
    lab.answered_by(&service.host(), &["v1"]).await;
    let before = lab.control.debug("changes").await.unwrap();

    lab.envoy.signal(Signal::STOP);
    lab.manifests.apply(&service.clone().with([&v2]));
    let mut generation = Value::Null;
    eventually(DEADLINE, "the stopped proxy to be named", async || {
        let change = newest(&lab, "EndpointSlice", &before).await?;
        generation = change["generation"].clone();
        let straggler = &change["stragglers"][0];
        same((&straggler["type"], &straggler["state"]), (&"EDS".into(), &"STALE".into()))?;
        same((&change["sent"], &change["acknowledged"]), (&1.into(), &0.into()))
    })
    .await;
    // And changes after it, too, although nothing of them can be sent to it.
    lab.manifests.apply(&Service::new("other", "http", 81).with([&v1]));
    eventually(DEADLINE, "a later change to be held up, too", async || {
        let change = newest(&lab, "Service", &before).await?;
        same((change["generation"].is_u64(), &change["acknowledged"]), (true, &0.into()))
    })
    .await;

    lab.envoy.signal(Signal::CONT);
    let change = acknowledged(&lab, "Service", &before).await;
    assert!(change["generation"].as_u64() > generation.as_u64(), "{change}");
    same(&convergence(&lab, &generation).await.unwrap()["stragglers_total"], &0.into()).unwrap();
    lab.answered_by(&service.host(), &["v2"]).await;
}

/// The newest change of an object of this kind since `before`.
async fn newest(lab: &Lab, kind: &str, before: &Value) -> Result<Value, String> {
    let seen = before["changes"][0]["id"].as_u64().unwrap_or_default();
    let page = lab.control.debug("changes").await?;
    let changes = page["changes"].as_array().ok_or("no list")?;
    let is_it = |one: &&Value| one["kind"] == kind && one["name"].is_string();
    let newest = changes.iter().find(is_it).filter(|one| one["id"].as_u64() > Some(seen));
    newest.cloned().ok_or_else(|| format!("no change of a {kind}: {page}"))
}

/// Waits until every proxy has acknowledged the newest change of this kind since `before`.
async fn acknowledged(lab: &Lab, kind: &str, before: &Value) -> Value {
    eventually(DEADLINE, "the change to be everywhere", async || {
        let change = newest(lab, kind, before).await?;
        let counts = ["proxies", "sent", "acknowledged", "stragglers_total"];
        let counts = counts.map(|field| change[field].as_u64());
        same(counts, [1, 1, 1, 0].map(Some)).map_err(|_| change.to_string())?;
        Ok(change)
    })
    .await
}

async fn convergence(lab: &Lab, generation: &Value) -> Result<Value, String> {
    lab.control.debug(&format!("convergence?generation={generation}")).await
}

//! A real NACK: a listener for a port that somebody else has.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, places, same, throughout};

on_both_wires!(a_taken_port_is_said_and_harms_nothing_else, it_may_come_later);

const REJECTS: &str = r#"pilot_total_xds_rejects{type="lds"}"#;

async fn a_taken_port_is_said_and_harms_nothing_else(wire: Wire) {
    let [good, taken, late] = [(); 3].map(|()| local());
    let occupant = TcpListener::bind(taken).expect("a free port");
    let (v1, v2) = (Backend::http("v1").await, Backend::http("v2").await);
    let service = Service::new("good", "http", good.port());
    let services =
        [service.clone().with([&v1]), Service::new("shut", "http", taken.port()).with([&v1])];
    let lab = Lab::start(Sample::Bound, wire, &services).await;

    eventually(DEADLINE, "the NACK to show in syncz", async || rejected(&lab, taken).await).await;
    let before = lab.control.sync().await.unwrap();
    let nacks = before.count("lds", "nacks").unwrap();
    assert_eq!(lab.control.metric(REJECTS).await, Ok(nacks as f64));
    let status = lab.control.debug("push_status").await.unwrap();
    assert!(status["pilot_xds_lds_reject"].is_object(), "{status}");

    // The rest is served, and goes on to be.
    lab.answered_at(good, "good", &["v1"]).await;
    lab.manifests.apply(&service.clone().with([&v2]));
    lab.answered_at(good, "good", &["v2"]).await;

    // Nothing new to say about listeners, so nothing is said: no loop of response and NACK.
    throughout(Duration::from_secs(3), "silence about listeners", async || {
        let now = lab.control.sync().await?;
        let responses =
            |sync: &pilothouse_testkit::control_plane::Sync| sync.count("lds", "responses");
        same(responses(&now)?, responses(&before)?)
    })
    .await;
    lab.control.sync().await.unwrap().is_synced(&["cds", "eds"]).unwrap();

    // The port becomes free. The next change of listeners brings the rejected one along.
    drop(occupant);
    lab.manifests.apply(&Service::new("late", "http", late.port()).with([&v1]));
    lab.answered_at(late, "late", &["v1"]).await;
    lab.answered_at(taken, "shut", &["v1"]).await;
    eventually(DEADLINE, "syncz to forget the NACK", async || {
        let sync = lab.control.sync().await?;
        let status = sync.type_status("lds")?;
        same((&status["state"], status.get("lastError")), (&"SYNCED".into(), None))
    })
    .await;
    assert!(lab.control.sync().await.unwrap().count("lds", "nacks").unwrap() >= nacks);
    lab.agrees().await;
}

async fn it_may_come_later(wire: Wire) {
    let [good, taken, late] = [(); 3].map(|()| local());
    let backend = Backend::http("one").await;
    let service = |name, at: SocketAddr| Service::new(name, "http", at.port()).with([&backend]);
    let lab = Lab::start(Sample::Bound, wire, &[service("good", good)]).await;
    lab.answered_at(good, "good", &["one"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;

    let _occupant = TcpListener::bind(taken).expect("a free port");
    let shut = service("shut", taken);
    lab.manifests.apply(&shut);
    eventually(DEADLINE, "the NACK to show in syncz", async || rejected(&lab, taken).await).await;
    // Other listeners come all the same, although what was rejected comes with them.
    lab.manifests.apply(&service("late", late));
    lab.answered_at(late, "late", &["one"]).await;
    lab.answered_at(good, "good", &["one"]).await;
    // Taking the cause away ends the trouble.
    lab.manifests.delete(&shut);
    eventually(DEADLINE, "listeners to be synced again", async || {
        same(&lab.control.sync().await?.type_status("lds")?["state"], &"SYNCED".into())
    })
    .await;
    lab.agrees().await;
}

/// A port of the address that a sidecar without capture binds.
fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, places::port()).into()
}

/// Syncz shows that the listener for `taken` was rejected, and in Envoy's own words why.
async fn rejected(lab: &Lab, taken: SocketAddr) -> Result<(), String> {
    let sync = lab.control.sync().await?;
    let status = sync.type_status("lds")?;
    let error = status["lastError"].as_str().ok_or_else(|| status.to_string())?;
    let name = format!("127.0.0.1_{}", taken.port());
    if error.contains(&name) && error.contains("Address already in use") {
        same((&status["state"], sync.count("lds", "nacks")? > 0), (&"ERROR".into(), true))
    } else {
        Err(format!("another error: {error}"))
    }
}

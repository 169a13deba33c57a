//! istioctl as it is.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tempfile::TempDir;

use crate::tool::{Printed, file, istioctl, run};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::xds_client::{CDS, connect, open_sotw, sotw};
use pilothouse_testkit::{DEADLINE, eventually, places, same};

/// The word below a column of `proxy-status -v 1`; cells have an age behind their word.
fn cell<'a>(printed: &'a Printed, proxy: &str, column: &str) -> &'a str {
    let line = |first: &str| {
        let found = printed.text.lines().find(|line| line.starts_with(first));
        found.unwrap_or_else(|| panic!("no line {first} in\n{}", printed.text))
    };
    let at = line("NAME").find(column).expect(column);
    line(proxy)[at..].split_whitespace().next().unwrap()
}

/// A proxy that is in sync, one that has rejected its listeners, one that has answered nothing.
#[tokio::test]
#[ignore = "needs istioctl: make test-tools"]
async fn proxy_status_shows_who_is_in_sync_who_rejects_and_who_is_silent() {
    let taken = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), places::port());
    let _occupant = TcpListener::bind(taken).expect("a free port");
    let backend = Backend::http("v1").await;
    let services = [Service::new("shut", "http", taken.port()).with([&backend])];
    let lab = Lab::start(Sample::Router, Wire::Sotw, &services).await;
    let rejecting = [("sample-0.default", "bound-0.default")];
    let _bound =
        Envoy::start_unready(Sample::Bound, Wire::Sotw, lab.control.grpc, &rejecting).await;
    let mut silent = open_sotw(connect(lab.control.grpc).await).await;
    silent.say(sotw(CDS, &[])).await;
    silent.response().await;

    let ask = |arguments: &'static [&'static str]| istioctl(lab.control.grpc, arguments);
    eventually(DEADLINE, "proxy-status to show all three", async || {
        let shown = ask(&["proxy-status", "-v", "1"]).await;
        if shown.text.lines().count() != 4 {
            return Err(format!("not three proxies: {shown:?}"));
        }
        let all = lab.control.debug("syncz").await?;
        let router = all.as_array().unwrap().iter().find(|one| one["proxy_type"] == "router");
        let router = router.ok_or("no router")?["proxy"].as_str().unwrap().to_owned();
        same(
            [
                cell(&shown, &router, "CDS"),
                cell(&shown, &router, "EDS"),
                cell(&shown, "bound-0.default", "CDS"),
                cell(&shown, "bound-0.default", "LDS"),
                cell(&shown, "test ", "CDS"),
                cell(&shown, "test ", "LDS"),
            ],
            ["SYNCED", "SYNCED", "SYNCED", "ERROR", "STALE", "IGNORED"],
        )
        .map_err(|seen| format!("{seen}\n{}", shown.text))
    })
    .await;
    let shown = ask(&["proxy-status"]).await;
    let row = shown.row("bound-0.default");
    assert_eq!(row[1], "Kubernetes");
    assert!(row[3].starts_with("envoy/1."), "{shown:?}");
    assert!(shown.text.contains("(CDS,LDS,EDS"), "{shown:?}");
    let json = ask(&["proxy-status", "-o", "json", "-n", "default"]).await.text;
    let json: serde_json::Value = serde_json::from_str(&json).expect(&json);
    let details = json["resources"].to_string();
    assert!(details.contains("bound-0.default") && details.contains("cannot bind"), "{details}");
}

#[tokio::test]
#[ignore = "needs istioctl: make test-tools"]
async fn one_proxys_configuration_is_compared_and_read() {
    let backend = Backend::http("v1").await;
    let services = [Service::new("web", "http", 9080).with_cluster_ip("10.0.0.1").with([&backend])];
    let lab = Lab::start(Sample::Sidecar, Wire::Delta, &services).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    let proxy = lab.control.sync().await.unwrap().0["proxy"].as_str().unwrap().to_owned();
    let folder = TempDir::new().unwrap();
    let dump = lab.envoy.page("/config_dump").await.unwrap().body;
    let dump = file(folder.path(), "dump.json", &dump);
    let control = lab.control.grpc;

    let compared = istioctl(control, &["proxy-status", &proxy, "--file", &dump]).await;
    for same in ["Clusters Match", "Listeners Match", "Routes Match"] {
        assert!(compared.text.contains(same), "{compared:?}");
    }
    let unknown = istioctl(control, &["proxy-status", "no.where", "--file", &dump]).await;
    assert!(!unknown.succeeded && unknown.text.contains("Proxy not connected"), "{unknown:?}");
    // What the proxy does not have yet is a difference.
    lab.envoy.signal(rustix::process::Signal::STOP);
    lab.manifests.apply(&Service::new("late", "http", 9080).with([&backend]));
    eventually(DEADLINE, "a difference", async || {
        let compared = istioctl(control, &["proxy-status", &proxy, "--file", &dump]).await.text;
        let differs =
            compared.contains("Clusters Don't Match") && compared.contains("late.default");
        same(differs, true).map_err(|_| compared)
    })
    .await;
    lab.envoy.signal(rustix::process::Signal::CONT);

    // proxy-config reads Envoy's own dump: names and shapes are those that it knows.
    for (what, said) in [
        ("clusters", "web.default.svc.cluster.local"),
        ("listeners", "Route: 9080"),
        ("routes", "web.default.svc.cluster.local:9080"),
        ("bootstrap", "xds-grpc"),
    ] {
        let shown = run("istioctl", &["proxy-config", what, "--file", &dump]).await;
        assert!(shown.succeeded && shown.text.contains(said), "{what}: {shown:?}");
    }
    let shown = run("istioctl", &["proxy-config", "clusters", "--file", &dump]).await;
    let row = shown.row("web.default.svc.cluster.local");
    assert_eq!(row[1..], ["9080", "-", "outbound", "EDS"]);
    let endpoints = lab.envoy.page("/clusters?format=json").await.unwrap().body;
    let endpoints = file(folder.path(), "clusters.json", &endpoints);
    let shown = run("istioctl", &["proxy-config", "endpoints", "--file", &endpoints]).await;
    let endpoint = pilothouse_testkit::envoy::endpoint(backend.address);
    let cluster = services[0].cluster();
    let row = [&*endpoint, "HEALTHY", "OK", &*cluster];
    let mut rows = shown.text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(rows.any(|one| one == row), "no {row:?} in\n{}", shown.text);
}

#[tokio::test]
#[ignore = "needs istioctl: make test-tools"]
async fn internal_debug_shows_every_page() {
    let lab = Lab::start(Sample::Router, Wire::Sotw, &[Service::new("web", "http", 80)]).await;
    lab.is_synced(&["cds"]).await;
    let control = lab.control.grpc;
    let ask = async |page: &str| istioctl(control, &["x", "internal-debug", page]).await;
    let list = istioctl(control, &["x", "internal-debug", "--list"]).await.text;
    let pages: Vec<String> = serde_json::from_str(&list).expect(&list);
    assert!(pages.iter().any(|page| page == "syncz"), "{pages:?}");
    let syncz = ask("syncz").await.text;
    let syncz: serde_json::Value = serde_json::from_str(&syncz).expect(&syncz);
    let proxy = syncz[0]["proxy"].as_str().unwrap();
    let dump = ask(&format!("config_dump?proxyID={proxy}")).await.text;
    assert!(dump.contains("dynamicActiveClusters"), "{dump}");
    let refused = ask("edsz").await;
    assert!(refused.text.contains("You must provide a proxyID"), "{refused:?}");
    let unknown = ask("nosuch").await;
    assert!(unknown.text.contains("check all supported internal debug commands"), "{unknown:?}");
}

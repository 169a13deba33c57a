//! Which services a proxy knows of by its namespace, and by which names.

use serde_json::json;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::dump::Config;
use pilothouse_testkit::envoy::{Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{VISIBLE, eventually, on_both_wires, same};

on_both_wires!(a_service_is_seen_where_it_is_exported_to, every_name_of_a_service_leads_to_it);

/// The sample lives in namespace `default`.
async fn a_service_is_seen_where_it_is_exported_to(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = Service::new("secret", "http", 8000).in_namespace("shop").with([&backend]);
    let with = |export_to: &str| {
        service.clone().with_annotation("networking.istio.io/exportTo", export_to)
    };
    let public = Service::new("public", "http", 80).in_namespace("shop").with([&backend]);
    let lab = Lab::start(Sample::Standalone, wire, &[with("."), public]).await;
    let has_any = async || {
        let config = Config::read(&lab.envoy.config_dump().await?);
        let text = format!("{:?} {:?} {:?}", config.clusters, config.routes, config.endpoints);
        Ok::<_, String>(text.contains("secret.shop"))
    };
    lab.answered_by("public.shop", &["one"]).await;
    lab.answers("secret.shop:8000", 404).await;
    assert_eq!(has_any().await, Ok(false));

    for (export_to, status) in [("edge, default", 200), ("~", 404), ("*", 200), ("shop,edge", 404)]
    {
        lab.manifests.apply(&with(export_to));
        lab.answers("secret.shop:8000", status).await;
        eventually(VISIBLE, &format!("everything to follow {export_to}"), async || {
            same(has_any().await?, status == 200)
        })
        .await;
    }

    // What cannot be read is shown, and is as if it was not there.
    lab.manifests.apply(&with("not/a/namespace"));
    lab.answers("secret.shop:8000", 200).await;
    let registry = lab.control.debug("registryz").await.unwrap();
    let flaws: Vec<_> =
        registry.as_array().unwrap().iter().map(|one| &one["Flaws"][0]["field"]).collect();
    let field = json!("metadata.annotations[networking.istio.io/exportTo]");
    assert!(flaws.contains(&&field), "{flaws:?}");
    assert_eq!(lab.control.metric("pilothouse_service_flaws").await, Ok(1.0));
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn every_name_of_a_service_leads_to_it(wire: Wire) {
    let (own, other) = (Backend::http("own").await, Backend::http("other").await);
    let services = [
        Service::new("web", "http", 80).with_cluster_ip("10.96.1.4").with([&own]),
        Service::new("web", "http", 80)
            .in_namespace("shop")
            .with_cluster_ip("fd00::9")
            .with([&other]),
    ];
    let lab = Lab::start(Sample::Standalone, wire, &services).await;
    for (host, answering) in [
        ("web", "own"),
        ("web.default", "own"),
        ("web.default.svc", "own"),
        ("web.default.svc.cluster.local", "own"),
        ("web.default.svc.cluster.local.", "own"),
        ("10.96.1.4", "own"),
        ("web.shop", "other"),
        ("web.shop.svc", "other"),
        ("web.shop.svc.cluster.local", "other"),
        ("web.shop.svc.cluster.local.", "other"),
        ("[fd00::9]", "other"),
    ] {
        lab.answered_by(host, &[answering]).await;
        lab.answered_by(&format!("{host}:80"), &[answering]).await;
    }
    lab.answers("web.default:81", 404).await;
    lab.answers("shop", 404).await;
    lab.assert_untroubled().await;
}

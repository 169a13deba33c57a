use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus_client::encoding::text;
use tokio::sync::watch;

use super::scrape::Scrape;
use super::tls::TlsScrape;
use super::*;
use crate::certificates::Certificates;
use crate::model::{Model, RouteKey, RouteKind, Scope, ServiceKey};
use crate::proxies::Proxies;
use crate::source::health::Health;

fn page(registry: &Registry) -> String {
    let mut page = String::new();
    text::encode(&mut page, registry).unwrap();
    page
}

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|own| own == line), "no {line} in\n{page}");
}

#[test]
fn counts_under_istios_names() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    has(&page(&registry), "pilot_xds_pushes{type=\"rds\"} 0");

    metrics.server.push_sent(ResourceType::Endpoint, 20_000);
    metrics.server.observe_push_time(ResourceType::Endpoint, Duration::from_millis(2));
    metrics.server.observe_ack_time(ResourceType::Cluster, Duration::from_millis(20));
    metrics.server.nack_received(ResourceType::Listener);
    metrics.server.stale_nonce_received(ResourceType::Route);
    metrics.server.request_received(ResourceType::Cluster);
    metrics.server.stream_opened();
    metrics.server.stream_opened();
    metrics.server.stream_closed();
    metrics.snapshot_published(Duration::from_millis(3));
    metrics.server.observe_convergence(Duration::from_millis(300));
    metrics.change_received(&Change::ServiceGone(ServiceKey::new("a", "b")));
    metrics.change_received(&Change::Slices(Scope::All, Vec::new()));
    metrics.change_received(&Change::Routes(Scope::All, RouteKind::Http, Vec::new()));
    metrics.change_received(&Change::RouteGone(RouteKey::new(RouteKind::Grpc, "a", "b")));
    metrics.change_received(&Change::Synced);

    let page = page(&registry);
    for line in [
        "# TYPE pilot_xds_pushes unknown",
        "pilot_xds_pushes{type=\"eds\"} 1",
        "pilot_xds_config_size_bytes_bucket{le=\"10000.0\",type=\"eds\"} 0",
        "pilot_xds_config_size_bytes_bucket{le=\"100000.0\",type=\"eds\"} 1",
        "pilot_xds_push_time_count{type=\"eds\"} 1",
        "pilothouse_ack_seconds_bucket{le=\"0.01\",type=\"cds\"} 0",
        "pilothouse_ack_seconds_bucket{le=\"0.025\",type=\"cds\"} 1",
        "pilot_total_xds_rejects{type=\"lds\"} 1",
        "pilot_xds_expired_nonce{type=\"rds\"} 1",
        "pilothouse_xds_requests_total{type=\"cds\"} 1",
        "pilothouse_streams_opened_total 2",
        "pilothouse_streams_closed_total 1",
        "pilot_k8s_cfg_events{type=\"GRPCRoute\"} 1",
        "pilot_k8s_cfg_events{type=\"HTTPRoute\"} 0",
        "pilothouse_snapshots_total 1",
        "pilothouse_snapshot_seconds_count 1",
        "pilot_proxy_convergence_time_sum 0.3",
        "pilot_inbound_updates{type=\"svcdelete\"} 1",
        "pilot_inbound_updates{type=\"eds\"} 0",
    ] {
        has(&page, line);
    }
}

#[test]
fn a_flood_of_version_names_ends_in_other() {
    let proxies = Arc::new(Proxies::new(ResourceType::TABLE));
    let streams: Vec<_> = (0..100)
        .map(|number| {
            let stream = proxies.register(None, false, 1000).unwrap();
            stream.stream.update(|status| {
                status.identity = Some(crate::proxies::ProxyIdentity {
                    node_id: "x".into(),
                    name: "x".into(),
                    cluster: "x".into(),
                    view: crate::view::ViewKey::new(
                        crate::view::ProxyKind::DEFAULT_STANDALONE,
                        None,
                    ),
                    user_agent: format!("made-up/{number}").into(),
                    locality: "".into(),
                    probe: false,
                    labels: Default::default(),
                    principal: None,
                    uses: None,
                });
            });
            stream
        })
        .collect();
    let page = page(&registry_of(proxies));
    let lines: Vec<_> = page.lines().filter(|line| line.starts_with("pilot_xds{")).collect();
    assert_eq!(lines.len(), 17);
    assert!(lines.contains(&"pilot_xds{version=\"other\"} 84"), "{lines:?}");
    has(&page, &format!("pilothouse_proxies{{kind=\"standalone\"}} {}", streams.len()));
}

#[test]
fn the_documentation_lists_what_there_is() {
    let page = page(&registry_of(Arc::new(Proxies::new(ResourceType::TABLE))));
    let mut served = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        assert!(served.insert(name, help.to_owned()).is_none(), "{name} twice");
    }
    let documented: BTreeMap<&str, String> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        // The other table is of alerts, which begin with a capital.
        .filter(|row| row.starts_with('p'))
        .map(|row| {
            let cells: Vec<_> = row.split(" | ").collect();
            let name = cells[0].trim_end_matches('`');
            // Counters of our own are served with the suffix, and described without it.
            let name = name.strip_suffix("_total").unwrap_or(name);
            (name, cells[2].trim_end_matches(" |").to_owned())
        })
        .collect();
    assert_eq!(documented, served, "docs/metrics.md and the help texts differ");
}

/// Everything that the program registers, with one watch.
fn registry_of(proxies: Arc<Proxies>) -> Registry {
    let mut registry = Registry::default();
    let _ = Metrics::new(&mut registry);
    let health = Arc::new(Health::default());
    health.expect("Service");
    registry.register_collector(Box::new(Scrape {
        proxies,
        health,
        model: watch::channel(Model::default()).1,
        snapshot: watch::channel(None).1,
        frames: Arc::new(pilothouse_xds::FrameBuilder::new("test")),
        domain: crate::names::DEFAULT_DOMAIN.into(),
        started: SystemTime::now(),
        listeners: Vec::new(),
        memory_limit: 1 << 30,
    }));
    let (_folder, files) = crate::certificates::tests::folder();
    let (certificates, _) = Certificates::load(files).unwrap();
    registry.register_collector(Box::new(TlsScrape(certificates)));
    registry
}

//! Readiness: not before the control plane's configuration is there, and from then on whatever becomes
//! of the control plane.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::Signal;

use crate::agent::Agent;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::balancer::Balancer;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, http, places, same, throughout};

const NOTHING_YET: &str = "Envoy proxy is NOT ready: config not received from Pilot (is Pilot \
    running?): cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected";

#[tokio::test]
async fn delta_carries_load_through_an_outage() {
    carries_load_through_an_outage("delta").await;
}

#[tokio::test]
async fn sotw_carries_load_through_an_outage() {
    carries_load_through_an_outage("sotw").await;
}

async fn carries_load_through_an_outage(xds: &str) {
    let backend = Backend::http("one").await;
    let bound = SocketAddr::from((Ipv4Addr::LOCALHOST, places::port()));
    let service = Service::new("steady", "http", bound.port()).with([&backend]);
    let manifests = Manifests::new(&[service]);
    let mut control = ControlPlane::start(manifests.path()).await;
    control.stop(Signal::KILL).await;

    let agent = Agent::start(control.grpc, &[&format!("--xds={xds}")]);
    agent.answers(503, NOTHING_YET).await;
    agent.says(NOTHING_YET).await;
    // The doctor was there meanwhile.
    agent.answers(503, "; cause: ").await;
    agent.answers(503, &format!("{}", control.grpc)).await;
    agent.answers(503, "; fix: ").await;
    agent.says("; cause: ").await;
    assert_eq!(agent.page("/healthz/live").await.unwrap().status, 200);
    // Envoy's own listener, which asks the agent, opens once there is something to be ready for.
    let through_envoy = agent.url(15021, "/healthz/ready");
    let refused = http::get(&through_envoy, None).await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");

    control.start_again().await;
    agent.becomes_ready().await;
    assert_eq!(http::get(&through_envoy, None).await.unwrap().status, 200);
    agent.says("Envoy proxy is ready").await;
    assert_eq!(control.sync().await.unwrap().0["protocol"], xds);

    let load = Load::start(bound, "steady", &[200]);
    load.goes_on(20).await;
    for signal in [Signal::KILL, Signal::TERM] {
        control.stop(signal).await;
        connection(&agent, 0).await;
        load.goes_on(50).await;
        throughout(Duration::from_millis(300), "readiness", async || {
            same(agent.page("/healthz/ready").await?.status, 200)
        })
        .await;
        control.start_again().await;
        connection(&agent, 1).await;
        load.goes_on(20).await;
    }
    load.assert_flawless();
    assert_eq!(agent.page("/healthz/ready").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_rejection_is_said_in_envoys_words() {
    let taken = SocketAddr::from((Ipv4Addr::LOCALHOST, places::port()));
    let occupant = TcpListener::bind(taken).expect("a free port");
    let backend = Backend::http("one").await;
    let manifests = Manifests::new(&[Service::new("shut", "http", taken.port()).with([&backend])]);
    let control = ControlPlane::start(manifests.path()).await;
    let agent = Agent::start(control.grpc, &[]);

    let sentence = "Envoy proxy is NOT ready: config received from Pilot, but was rejected: cds \
                    updates: 1 successful, 0 rejected; lds updates: 0 successful, 1 rejected";
    agent.answers(503, sentence).await;
    // Envoy's own words, and whose they are.
    let name = format!("127.0.0.1_{}", taken.port());
    for words in [&*name, "Address already in use", "fix: "] {
        agent.answers(503, words).await;
    }
    agent.says("Address already in use").await;

    drop(occupant);
    manifests.apply(&Service::new("other", "http", places::port()).with([&backend]));
    agent.becomes_ready().await;
}

#[tokio::test]
async fn both_statistics_are_one_page() {
    let port = places::port();
    let cluster = format!("outbound|{port}||steady.default.svc.cluster.local");
    let manifests = Manifests::new(&[Service::new("steady", "http", port)]);
    let control = ControlPlane::start(manifests.path()).await;
    let agent = Agent::start(control.grpc, &[]);
    agent.becomes_ready().await;
    for path in ["/stats/prometheus", "/metrics"] {
        let page = agent.page(path).await.unwrap().body;
        for sample in [
            "pilothouse_agent_ready 1\n",
            // OpenMetrics' type `info` would make Prometheus refuse the whole page.
            "# TYPE pilothouse_agent_build_info gauge\n",
            "# TYPE pilothouse_agent_failed_scrapes_total counter\n",
            "envoy_server_live{} 1\n",
            "envoy_cluster_upstream_cx_total{envoy_cluster_name=\"xds-grpc\"} 1\n",
        ] {
            assert!(page.contains(sample), "no {sample} in {path}:\n{page}");
        }
        // The name as a whole, with the dots in it.
        assert!(page.contains(&format!("{{envoy_cluster_name=\"{cluster}\"}}")), "{page}");
        assert!(!page.contains("# EOF"), "it is not the end");
    }
    let filtered = agent.page("/stats/prometheus?filter=server.live").await.unwrap().body;
    assert!(filtered.contains("envoy_server_live{} 1\n"), "{filtered}");
    assert!(!filtered.contains("envoy_cluster_upstream_cx_total"), "{filtered}");
    let envoys = http::get(&agent.url(15090, "/stats/prometheus"), None).await.unwrap();
    assert!(envoys.status == 200 && envoys.body.contains("envoy_server_live{} 1\n"));
    assert_eq!(http::get(&agent.url(15090, "/quitquitquit"), None).await.unwrap().status, 404);
    let log = agent.process.log();
    assert!(!log.contains("[warning]"), "nothing to warn of in a start without trouble: {log}");
}

#[tokio::test]
async fn a_replica_that_refuses_is_left_for_one_that_serves() {
    // It refuses every stream and keeps the connection, as a port of another server does.
    let listener = tokio::net::TcpListener::bind((places::address(), 0)).await.unwrap();
    let refusing = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;

    let service = Balancer::start(vec![refusing, control.grpc]).await;
    let agent = Agent::start(service.address, &[]);
    agent.becomes_ready().await;
}

#[tokio::test]
async fn an_envoy_that_hangs_is_unready_and_in_the_end_not_live() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let agent = Agent::start(control.grpc, &[]);
    agent.becomes_ready().await;
    let live = async || agent.page("/healthz/live").await.map(|answer| answer.status);
    let envoy = agent.envoy().await;

    envoy.signal(Signal::STOP);
    let hung = "Envoy proxy is NOT ready: Envoy's admin";
    agent.answers(503, hung).await;
    agent.says(hung).await;
    assert_eq!(live().await, Ok(200), "it may be busy, so it is not restarted at once");
    // It goes on, and so does the pod.
    envoy.signal(Signal::CONT);
    agent.becomes_ready().await;
    agent.says("Envoy answers again").await;

    envoy.signal(Signal::STOP);
    eventually(Duration::from_secs(60), "liveness to fail", async || same(live().await?, 503))
        .await;
    agent.says("/healthz/live fails").await;
    agent.answers(503, hung).await;
    envoy.signal(Signal::CONT);
}

#[tokio::test]
async fn the_log_says_the_cause_and_probes_are_marked() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    // The agent's Envoy never asks, so that the agent goes on to look for the cause.
    let agent = Agent::start_with_script(control.grpc, "exec sleep 600", &[]);
    agent.says("; cause: ").await;
    drop(agent);

    // One that is refused, so that its agent has reason to probe.
    let taken = SocketAddr::from((Ipv4Addr::LOCALHOST, places::port()));
    let _occupant = TcpListener::bind(taken).expect("a free port");
    let backend = Backend::http("one").await;
    manifests.apply(&Service::new("shut", "http", taken.port()).with([&backend]));
    let agent = Agent::start(control.grpc, &[]);
    agent.says("; cause: ").await;
    let probes = control.metric("pilothouse_probes_total").await.unwrap();
    assert!(probes >= 1.0, "{probes}");
    let log = control.process.log();
    let line = log.lines().find(|line| line.contains("probe connected"));
    assert!(line.is_some_and(|line| line.contains("pilothouse-agent")), "{log}");
    let proxies = log.lines().filter(|line| line.contains("proxy connected")).count();
    assert_eq!(proxies, 1, "the proxy alone is one: {log}");
}

/// Waits until Envoy's stream to the control plane is open (1) or closed (0).
async fn connection(agent: &Agent, wanted: u64) {
    eventually(DEADLINE, &format!("control_plane.connected_state {wanted}"), async || {
        same(agent.stat("control_plane.connected_state").await?, wanted)
    })
    .await;
}

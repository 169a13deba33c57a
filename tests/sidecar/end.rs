//! How it ends: with Envoy, by a signal, by a request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::agent::Agent;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, http, listener, places, same};

/// For agents that need no control plane.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[tokio::test]
async fn an_envoy_that_is_killed_takes_the_agent_along() {
    let mut agent = Agent::start(NOBODY, &[]);
    agent.answers(503, "cds updates: 0 successful").await;
    agent.envoy().await.signal(Signal::KILL);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(128 + 9));
    let log = agent.process.log();
    assert!(log.contains("Envoy ended by signal 9 (SIGKILL"), "{log}");
}

#[tokio::test]
async fn an_agent_that_is_killed_takes_envoy_along() {
    let mut agent = Agent::start(NOBODY, &[]);
    agent.answers(503, "cds updates: 0 successful").await;
    let envoy = agent.envoy().await;
    agent.process.kill();
    envoy.is_gone().await;
}

#[tokio::test]
async fn an_envoy_that_ends_at_once_is_given_through() {
    let mut agent = Agent::start_with_script(NOBODY, "echo its own words >&2; exit 3", &[]);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(3));
    let log = agent.process.log();
    assert!(log.contains("its own words") && log.contains("Envoy ended with exit code 3"), "{log}");
    // A bootstrap that the real one refuses.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wrong.yaml");
    std::fs::write(&file, "no_such_field: 1").unwrap();
    let mut agent = Agent::start(NOBODY, &[&format!("--template={}", file.display())]);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(1));
    let log = agent.process.log();
    assert!(log.contains("no_such_field") && log.contains("Envoy ended with exit code 1"), "{log}");
}

#[tokio::test]
async fn an_envoy_that_hangs_before_its_admin_port_is_not_ready() {
    let flags = ["--termination-drain-duration=100ms"];
    let mut agent = Agent::start_with_script(NOBODY, "exec sleep 1000", &flags);
    agent.answers(503, "Envoy proxy is NOT ready: Envoy's admin (").await;
    agent.answers(503, "does not answer: Connection refused").await;
    agent.says("does not answer: Connection refused").await;
    assert_eq!(agent.page("/healthz/live").await.unwrap().status, 200);
    let metrics = agent.page("/stats/prometheus").await.unwrap().body;
    assert!(metrics.contains("pilothouse_agent_ready 0\n"), "{metrics}");
    let envoy = agent.envoy().await;
    agent.process.signal(Signal::TERM);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
    envoy.is_gone().await;
}

#[tokio::test]
async fn an_envoy_that_does_not_hear_is_killed() {
    let flags = ["--termination-drain-duration=100ms"];
    let deaf = "trap '' TERM\nwhile :; do sleep 0.1; done";
    let mut agent = Agent::start_with_script(NOBODY, deaf, &flags);
    agent.answers(503, "does not answer").await;
    let envoy = agent.envoy().await;
    agent.process.signal(Signal::TERM);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
    envoy.is_gone().await;
    assert!(agent.process.log().contains("killed"), "{}", agent.process.log());
}

/// A workload whose answers take a while if the path says so, behind an inbound listener of the
/// agent's Envoy.
struct Inbound {
    listener: SocketAddr,
    template: String,
    _folder: TempDir,
}

const SLOW: Duration = Duration::from_millis(1500);

impl Inbound {
    /// The agent is ended while a request is answered slowly, and the answer comes whole.
    async fn finishes_what_is_under_way(&self, mut agent: Agent) {
        self.is_served().await;
        let slow = self.begin_slow_request(&agent).await;
        agent.process.signal(Signal::TERM);
        assert_eq!(slow.await.unwrap().map(|answer| answer.body).as_deref(), Ok("slow"));
        assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
    }

    async fn new() -> Self {
        let workload = TcpListener::bind((places::address(), 0)).await.unwrap();
        let address = workload.local_addr().unwrap();
        let slow = async || {
            tokio::time::sleep(SLOW).await;
            "slow"
        };
        let endless = async || {
            let bytes = futures::stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, std::io::Error>("more"), ()))
            });
            axum::body::Body::from_stream(bytes)
        };
        let router = axum::Router::new()
            .route("/slow", axum::routing::get(slow))
            .route("/endless", axum::routing::get(endless))
            .fallback(async || "quick");
        tokio::spawn(async move { axum::serve(workload, router).await });
        let listener = SocketAddr::new(places::address(), 15006);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("inbound.yaml");
        std::fs::write(&file, inbound(listener, address)).unwrap();
        Self { listener, template: format!("--template={}", file.display()), _folder: folder }
    }

    /// Returns once the workload has the request.
    async fn begin_slow_request(&self, agent: &Agent) -> JoinHandle<Result<http::Answer, String>> {
        let url = format!("http://{}/slow", self.listener);
        let slow = tokio::spawn(async move { http::get(&url, None).await });
        eventually(DEADLINE, "the slow request to be under way", async || {
            let active = agent.stat("cluster.workload.upstream_rq_active").await?;
            if active > 0 { Ok(()) } else { Err("none active".to_owned()) }
        })
        .await;
        slow
    }

    async fn is_served(&self) {
        eventually(DEADLINE, "the inbound listener", async || {
            let url = format!("http://{}/", self.listener);
            same(http::get(&url, None).await?.body.as_str(), "quick")
        })
        .await;
    }
}

fn inbound(listener: SocketAddr, workload: SocketAddr) -> String {
    let at = |address: SocketAddr| {
        format!(
            "{{ socket_address: {{ address: {}, port_value: {} }} }}",
            address.ip(),
            address.port()
        )
    };
    format!(
        r#"
static_resources:
  clusters:
    - name: workload
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: workload
        endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {} }} }}] }}]
  listeners:
    - name: inbound
      traffic_direction: INBOUND
      address: {}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: inbound
                route_config:
                  name: inbound
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: workload }} }}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#,
        at(workload),
        at(listener)
    )
}

/// An agent that is ready and whose Envoy serves the inbound listener.
struct Serving {
    agent: Agent,
    inbound: Inbound,
    _control: ControlPlane,
    _manifests: Manifests,
}

impl Serving {
    async fn start(flags: &[&str]) -> Self {
        let manifests = Manifests::new(&[]);
        let control = ControlPlane::start(manifests.path()).await;
        let inbound = Inbound::new().await;
        let agent = Agent::start(control.grpc, &[&[&*inbound.template], flags].concat());
        agent.becomes_ready().await;
        inbound.is_served().await;
        Self { agent, inbound, _control: control, _manifests: manifests }
    }
}

#[tokio::test]
async fn sigterm_cuts_no_request_that_fits_the_drain_time() {
    let Serving { mut agent, inbound, .. } =
        Serving::start(&["--termination-drain-duration=4s"]).await;
    let load = Load::start(inbound.listener, "workload", &[200]);
    load.goes_on(20).await;
    let slow = inbound.begin_slow_request(&agent).await;

    agent.process.signal(Signal::TERM);
    // Readiness goes first; Envoy still takes what comes, until clients have heard.
    agent.answers(503, "server is not live, current state is: DRAINING").await;
    load.goes_on(50).await;
    load.assert_flawless();
    drop(load);
    let answer = slow.await.unwrap().expect("it is answered");
    assert_eq!((answer.status, &*answer.body), (200, "slow"));
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
}

/// By default, with nothing said about how long: README, `docs/agent.md`.
#[tokio::test]
async fn the_drain_lasts_five_seconds_and_takes_new_connections_for_four() {
    let Serving { mut agent, inbound, .. } = Serving::start(&[]).await;
    let address = inbound.listener;
    let mut endless = TcpStream::connect(address).await.unwrap();
    endless.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    endless.read_u8().await.expect("the answer begins");

    let begun = Instant::now();
    agent.process.signal(Signal::TERM);
    let cut = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while endless.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        begun.elapsed()
    });
    let refused = tokio::spawn(async move {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    });
    let refused = refused.await.unwrap();
    assert!(refused >= Duration::from_secs(4), "new connections were refused after {refused:?}");
    let cut = cut.await.unwrap();
    assert!(cut >= Duration::from_secs(5), "an answer was cut after {cut:?}");
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
}

/// The real Envoy hears of it, drains, and is ended.
#[tokio::test]
async fn an_agent_that_loses_its_port_drains_and_ends_envoy() {
    let Serving { mut agent, inbound, .. } =
        Serving::start(&["--termination-drain-duration=4s"]).await;
    let envoy = agent.envoy().await;
    let slow = inbound.begin_slow_request(&agent).await;
    listener::lose(agent.process.id(), SocketAddr::new(agent.address, 15020));
    assert_eq!(slow.await.unwrap().map(|answer| answer.body).as_deref(), Ok("slow"));
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(1));
    envoy.is_gone().await;
    let log = agent.process.log();
    assert!(log.contains("the part \"status listener\" ended"), "{log}");
    assert!(log.contains("draining, to end with exit code 1"), "{log}");
}

#[tokio::test]
async fn it_may_end_as_soon_as_nobody_is_there() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let inbound = Inbound::new().await;
    let flags = [
        &*inbound.template,
        "--exit-on-zero-active-connections",
        "--minimum-drain-duration=100ms",
        "--drain-time=1h",
    ];
    let agent = Agent::start(control.grpc, &flags);
    inbound.finishes_what_is_under_way(agent).await;
}

#[tokio::test]
async fn with_a_grace_period_what_is_under_way_is_finished() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let inbound = Inbound::new().await;
    // Whether anything on this machine looks like an application that is still there makes no
    // difference to the request; the cluster's tests have a pod for that.
    let flags =
        [&*inbound.template, "--termination-grace-period=8s", "--minimum-drain-duration=100ms"];
    let agent = Agent::start(control.grpc, &flags);
    inbound.finishes_what_is_under_way(agent).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut agent = Agent::start(NOBODY, &["--termination-drain-duration=1h"]);
    agent.answers(503, "cds updates: 0 successful").await;
    let envoy = agent.envoy().await;
    agent.process.signal(Signal::TERM);
    agent.says("SIGTERM: draining").await;
    agent.process.signal(Signal::INT);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(1));
    envoy.is_gone().await;
    assert!(agent.process.log().contains("SIGINT again: ended at once"));
}

#[tokio::test]
async fn a_request_ends_it_or_only_drains_it() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let mut agent = Agent::start(control.grpc, &["--termination-drain-duration=100ms"]);
    agent.becomes_ready().await;
    for path in ["/drain", "/quitquitquit"] {
        assert_eq!(agent.page(path).await.unwrap().status, 405, "GET {path}");
    }
    assert_eq!(agent.page("/healthz/ready").await.unwrap().status, 200);

    assert_eq!(post(&agent.url(15020, "/drain")).await, 200);
    agent.answers(503, "current state is: DRAINING").await;
    assert_eq!(agent.process.status(), None, "it only drains");
    assert_eq!(post(&agent.url(15020, "/quitquitquit")).await, 200);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(0));
}

async fn post(url: &str) -> u16 {
    use hyper_util::client::legacy::Client;
    let client = Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let request = ::http::Request::post(url).body(Default::default()).unwrap();
    client.request(request).await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn what_is_not_for_people_says_so_by_failing() {
    // Started by somebody other than the process it is to be tied to, it becomes nothing.
    let mut command = pilothouse_testkit::control_plane::pilothouse(&[
        "parent-death-exec",
        "1",
        "--",
        "/bin/true",
    ]);
    let mut process = Process::start("parent-death-exec", &mut command);
    assert_eq!(process.end(DEADLINE).await.code(), Some(1));
}

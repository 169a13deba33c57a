//! Clusters on demand: what the agent tells of it, when it goes on without, and that a container that is
//! restarted begins with what the one before it used.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::agent::{Agent, command, executable};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::program;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, http, namespace, places, same};

const ON_DEMAND: &str = "--discovery=on-demand";
/// The end is not what is looked at here.
const AT_ONCE: &str = "--termination-drain-duration=0s";
const CAPTURED: (&str, &str) = ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT");
/// The file is written every 10 s.
const WRITTEN: Duration = Duration::from_secs(30);

/// What `--bootstrap-only` prints, or the sentence that is said instead.
fn bootstrap(folder: &Path, more: &[&str], environment: &[(&str, &str)]) -> Result<Value, String> {
    let nobody = ([127, 0, 0, 1], 1).into();
    let mut command = command([127, 0, 0, 1].into(), folder, nobody, more);
    command.arg("--bootstrap-only").envs([CAPTURED]).envs(environment.iter().copied());
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn the_node_says_the_mode_and_what_is_used() {
    let folder = TempDir::new().unwrap();
    let metadata = |more: &[&str], environment: &[(&str, &str)]| {
        let bootstrap = bootstrap(folder.path(), more, environment).unwrap();
        let metadata = &bootstrap["node"]["metadata"];
        ["DISCOVERY", "USES"].map(|key| metadata[key].as_str().unwrap_or_default().to_owned())
    };
    let file = folder.path().join("uses.json");
    std::fs::write(&file, r#"{"uses": ["ratings.shop", "reviews"]}"#).unwrap();
    assert_eq!(metadata(&[], &[]), ["", ""]);
    let on_demand = "on-demand".to_owned();
    assert_eq!(metadata(&[ON_DEMAND], &[]), [&*on_demand, "ratings.shop,reviews"]);
    let by_environment =
        [("PILOTHOUSE_DISCOVERY", "on-demand"), ("PILOTHOUSE_USES", "reviews cart")];
    assert_eq!(metadata(&[], &by_environment), [&*on_demand, "reviews,cart,ratings.shop"]);
    // Whatever is wrong with the file, the proxy starts.
    for wrong in ["", "{", "{\"uses\": [\"a b\"]}", "\u{0}\u{0}"] {
        std::fs::write(&file, wrong).unwrap();
        assert_eq!(metadata(&[ON_DEMAND, "--uses=cart"], &[]), [&*on_demand, "cart"], "{wrong:?}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_at_the_start() {
    let said = |more: &[&str]| {
        bootstrap(Path::new("/none"), &[&[ON_DEMAND], more].concat(), &[]).unwrap_err()
    };
    assert!(said(&["--xds=sotw"]).contains("--discovery on-demand needs --xds delta"));
    assert!(said(&["--proxy-type=router"]).contains("--discovery on-demand is for sidecars"));
    assert!(said(&["--uses=*"]).contains("\"*\" is neither a Service's host"));
    // Without capture there are no clusters on demand, which is no reason not to start.
    let none = [("ISTIO_META_INTERCEPTION_MODE", "NONE")];
    let bootstrap = bootstrap(Path::new("/none"), &[ON_DEMAND], &none).unwrap();
    let metadata = &bootstrap["node"]["metadata"];
    assert_eq!(metadata["DISCOVERY"], Value::Null);
    assert!(metadata["DISCOVERY_FALLBACK"].as_str().unwrap().contains("not captured"));
}

#[tokio::test]
async fn an_envoy_that_is_too_old_has_all_clusters_and_that_is_said() {
    if !namespace::entered("on_demand::an_envoy_that_is_too_old_has_all_clusters_and_that_is_said")
    {
        return;
    }
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let folder = TempDir::new().unwrap();
    let version = "old  version: 0123abc/1.35.2/Clean/RELEASE/BoringSSL";
    let script = format!(
        "if [ \"$1\" = --version ]; then echo '{version}'; else exec {} \"$@\"; fi",
        program().display()
    );
    let envoy = format!("--envoy={}", executable(folder.path(), &script));
    let agent = Agent::start_with_env(control.grpc, &[ON_DEMAND, &envoy], &[CAPTURED]);
    let why = "discovery all, not on-demand: this is Envoy 1.35, and Envoy can ask for clusters on demand \
               over ADS since 1.36";
    agent.answers(200, why).await;
    agent.says(why).await;
    let page: Value = http::json(&agent.url(15020, "/discovery")).await.unwrap();
    let (mode, fallback) = (&page["discovery"], page["fallback"].as_str().unwrap());
    assert!(*mode == "all" && why.ends_with(fallback), "{page}");
    let metrics = agent.page("/metrics").await.unwrap().body;
    assert!(metrics.contains("pilothouse_agent_discovery_info{mode=\"all\"} 1\n"), "{metrics}");
    assert!(!agent.file("uses.json").exists());
}

/// What a server says to a client whose connections are captured.
async fn heard(client: IpAddr, to: SocketAddr) -> std::io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    let mut said = String::new();
    socket.connect(to).await?.read_to_string(&mut said).await?;
    Ok(said)
}

/// A request of such a client; its status.
async fn get(client: IpAddr, to: SocketAddr, host: &str) -> Result<String, String> {
    let asked = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((client, 0).into())?;
        let mut stream = socket.connect(to).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = asked.await.map_err(|error| error.to_string())?;
    answer.split(' ').nth(1).map(str::to_owned).ok_or(answer)
}

fn kept(agent: &Agent) -> Vec<String> {
    let text = std::fs::read_to_string(agent.file("uses.json")).unwrap_or_default();
    let content: Value = serde_json::from_str(&text).unwrap_or_default();
    let uses = content["uses"].as_array().into_iter().flatten();
    let mut uses: Vec<_> = uses.map(|one| one.as_str().unwrap().to_owned()).collect();
    uses.sort();
    uses
}

/// The clusters of services that Envoy has, as their statistics call them.
async fn clusters(agent: &Agent) -> Result<Vec<String>, String> {
    let page = http::json(&agent.url(15000, "/clusters?format=json")).await?;
    let all = page["cluster_statuses"].as_array().into_iter().flatten();
    let names = all.filter_map(|one| one["observability_name"].as_str());
    let names = names.filter(|name| name.starts_with("outbound|"));
    let mut names: Vec<_> = names.map(|name| name.trim_end_matches(';').to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[tokio::test]
async fn what_was_used_is_there_after_a_restart() {
    if !namespace::entered("on_demand::what_was_used_is_there_after_a_restart") {
        return;
    }
    let (one, two) = (Backend::http("one").await, Backend::tcp("two").await);
    // Cluster IPs that the namespace has a way to.
    let ips = [(); 5].map(|()| places::address());
    let http = |name, at: usize| {
        Service::new(name, "http", 80).with([&one]).with_cluster_ip(&ips[at].to_string())
    };
    let services = [
        http("named", 0),
        http("called", 1),
        http("late", 2),
        Service::new("stored", "tcp", 81).with([&two]).with_cluster_ip(&ips[3].to_string()),
        http("other", 4),
    ];
    let manifests = Manifests::new(&services);
    let control = ControlPlane::start(manifests.path()).await;
    let flags = [ON_DEMAND, "--uses=named", AT_ONCE];
    let agent = Agent::start_with_env(control.grpc, &flags, &[CAPTURED]);
    agent.becomes_ready().await;
    let cluster =
        |name: &str, port: u16| format!("outbound|{port}||{name}.default.svc.cluster.local");
    // What is named is there before it is called, and nothing else.
    assert_eq!(clusters(&agent).await.unwrap(), [cluster("named", 80)]);
    agent.says("clusters come on demand").await;

    let client = places::address();
    namespace::capture_outbound(client);
    let at = |service: usize, port| SocketAddr::new(ips[service], port);
    assert_eq!(get(client, at(1, 80), "called").await.unwrap(), "200");
    let used = |more: &[&str]| {
        let mut used: Vec<String> = ["called.default", "named.default"]
            .iter()
            .chain(more)
            .map(|one| (*one).into())
            .collect();
        used.sort();
        used
    };
    assert_eq!(heard(client, at(3, 81)).await.unwrap(), "two");
    let stored = &*cluster("stored", 81);
    eventually(WRITTEN, "the file", async || same(kept(&agent), used(&[stored]))).await;
    let line = "ready\ndiscovery on-demand: ";
    agent.answers(200, line).await;
    agent.answers(200, "0 of them warming; connected to Pilot").await;

    // What came last is in it as well, since the end writes it.
    assert_eq!(get(client, at(2, 80), "late").await.unwrap(), "200");
    let agent = agent.start_again(Signal::TERM, control.grpc, &flags, &[CAPTURED]).await;
    assert_eq!(kept(&agent), used(&["late.default", stored]));
    agent.becomes_ready().await;
    let mut warm =
        [cluster("called", 80), cluster("late", 80), cluster("named", 80), stored.to_owned()];
    warm.sort();
    assert_eq!(clusters(&agent).await.unwrap(), warm);
    let page: Value = http::json(&agent.url(15020, "/discovery")).await.unwrap();
    assert_eq!(page["named"], json!(["named"]));
    assert_eq!(page["remembered"].as_array().unwrap().len(), 4, "{page}");
    assert_eq!((&page["connected"], &page["withoutCluster"]), (&json!(true), &json!(0)), "{page}");
    // Once more, killed: the file is what it was.
    let agent = agent.start_again(Signal::KILL, control.grpc, &flags, &[CAPTURED]).await;
    agent.becomes_ready().await;
    assert_eq!(clusters(&agent).await.unwrap(), warm);
}

#[tokio::test]
async fn while_the_control_plane_is_away_it_is_said_what_waits() {
    if !namespace::entered("on_demand::while_the_control_plane_is_away_it_is_said_what_waits") {
        return;
    }
    let one = Backend::http("one").await;
    let ips = [(); 2].map(|()| places::address());
    let service = |name, at: usize| {
        Service::new(name, "http", 80).with([&one]).with_cluster_ip(&ips[at].to_string())
    };
    let manifests = Manifests::new(&[service("used", 0), service("unused", 1)]);
    let mut control = ControlPlane::start_with(
        &["--manifests", manifests.path().to_str().unwrap(), "--on-demand-timeout=500ms"],
        &[],
    )
    .await;
    let agent = Agent::start_with_env(control.grpc, &[ON_DEMAND, AT_ONCE], &[CAPTURED]);
    agent.becomes_ready().await;
    let client = places::address();
    namespace::capture_outbound(client);
    let at = |service: usize| SocketAddr::new(ips[service], 80);
    assert_eq!(get(client, at(0), "used").await.unwrap(), "200");
    control.stop(Signal::KILL).await;
    assert_eq!(get(client, at(0), "used").await.unwrap(), "200");
    assert_eq!(get(client, at(1), "unused").await.unwrap(), "503");
    eventually(DEADLINE, "the page to say it", async || {
        let page: Value = http::json(&agent.url(15020, "/discovery")).await?;
        let said = (page["connected"].as_bool(), page["withoutCluster"].as_u64());
        same(said, (Some(false), Some(1))).map_err(|_| page.to_string())
    })
    .await;
    let line = "not connected to Pilot, so that what was not called before is answered 503 (NC); requests \
                and connections without a cluster so far: 1";
    eventually(WRITTEN, "the readiness page to say it", async || {
        let page = agent.page("/healthz/ready").await?;
        same((page.status, page.body.contains(line)), (200, true)).map_err(|_| page.body)
    })
    .await;
    // A container that is restarted meanwhile keeps what it knew, and is ready with the control plane.
    let agent =
        agent.start_again(Signal::TERM, control.grpc, &[ON_DEMAND, AT_ONCE], &[CAPTURED]).await;
    agent.answers(503, "discovery on-demand").await;
    assert_eq!(kept(&agent), ["used.default"]);
    control.start_again().await;
    agent.becomes_ready().await;
    assert_eq!(get(client, at(1), "unused").await.unwrap(), "200");
    let known =
        ["used", "unused"].map(|name| format!("outbound|80||{name}.default.svc.cluster.local"));
    let found = clusters(&agent).await.unwrap();
    assert!(known.iter().all(|name| found.contains(name)), "{found:?}");
}

//! How the program starts, fails to start, and ends.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tonic::Code;

use crate::wire::Client;
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, http, places};

/// Exit status and everything that was said.
async fn ended(command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::start("pilothouse", command);
    let status = process.end(DEADLINE).await;
    (status.code(), process.log())
}

#[tokio::test]
async fn without_a_source_it_says_what_to_give() {
    let (code, said) = ended(&mut pilothouse(&["serve"])).await;
    assert_eq!(code, Some(2), "{said}");
    for word in ["--source kube", "--manifests PATH", "serve --manifests ./examples/bookinfo"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    let (code, said) =
        ended(&mut pilothouse(&["serve", "--source", "kube", "--manifests", "x"])).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("exclude each other"), "{said}");
    let (code, said) = ended(&mut pilothouse(&["serve", "--manifests", "/no/such/folder"])).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--manifests /no/such/folder"), "{said}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let manifests = Manifests::new(&[]);
    let folder = manifests.path().to_str().unwrap();
    let taken = TcpListener::bind((places::address(), 0)).unwrap().local_addr().unwrap();
    let _occupant = TcpListener::bind(taken).unwrap();
    let flags = ["--grpc-addr", "--http-addr", "--monitoring-addr"];
    for flag in flags {
        let mut arguments = vec!["serve".to_owned(), "--manifests".to_owned(), folder.to_owned()];
        for other in flags {
            let port = if other == flag { taken.port() } else { 0 };
            arguments.extend([other.to_owned(), format!("{}:{port}", taken.ip())]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, said) = ended(&mut pilothouse(&arguments)).await;
        assert_eq!(code, Some(1), "{said}");
        let error = said.lines().last().unwrap_or_default();
        assert!(error.contains(flag) && error.contains(&taken.to_string()), "{error}");
    }
}

#[tokio::test]
async fn sigterm_ends_it_and_streams_are_told() {
    let manifests = Manifests::new(&[]);
    let mut control = ControlPlane::start(manifests.path()).await;
    let mut client = Client::open(control.grpc).await;
    client.subscribe("type.googleapis.com/envoy.config.cluster.v3.Cluster").await;
    client.response().await.expect("an answer");

    control.process.signal(Signal::TERM);
    let status = client.end().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("shutting down"), "{status:?}");
    // Its own limit is 5 s, and the client has not even hung up.
    let ended = control.process.end(Duration::from_secs(6)).await;
    assert_eq!(ended.code(), Some(0));
}

/// A kubeconfig whose server is not there.
pub(crate) const NOWHERE: &str = "
apiVersion: v1
kind: Config
current-context: nowhere
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
users: [{name: nobody, user: {token: none}}]
clusters: [{name: nowhere, cluster: {server: 'http://127.0.0.1:1'}}]
";

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("config");
    std::fs::write(&kubeconfig, NOWHERE).unwrap();
    let environment = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let mut control = ControlPlane::start_with(&["--source", "kube"], &environment).await;

    let ready = format!("http://{}/ready", control.monitoring);
    eventually(DEADLINE, "/ready to say why not", async || {
        let answer = http::get(&ready, None).await?;
        let said = answer.body.contains("127.0.0.1:1") && answer.body.contains("refused");
        if answer.status == 503 && said { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    // Nothing is served, which is said; an empty mesh would be a lie.
    let mut client = Client::open(control.grpc).await;
    client.subscribe("type.googleapis.com/envoy.config.cluster.v3.Cluster").await;
    let status = client.end().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("/ready"), "{status:?}");

    eventually(DEADLINE, "more than one attempt", async || {
        let page = control.debug("sourcez").await?;
        let tried = page["watches"].as_array().into_iter().flatten();
        let errors: u64 = tried.filter_map(|watch| watch["errors"].as_u64()).sum();
        if errors > 1 { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    assert_eq!(control.process.status(), None, "it is still there");
    assert_eq!(control.monitoring("live").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_named() {
    let environment = [("KUBECONFIG", "/no/such/kubeconfig")];
    let mut control = ControlPlane::start_with(&["--source", "kube"], &environment).await;
    let ready = format!("http://{}/ready", control.monitoring);
    eventually(DEADLINE, "/ready to name the file", async || {
        let answer = http::get(&ready, None).await?;
        let said = answer.body.contains("/no/such/kubeconfig");
        if answer.status == 503 && said { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(control.process.status(), None, "it waits for the file");
}

//! The agent over TLS: a real Envoy, the real control plane, and everything rotated under load.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tonic::Status;

use crate::agent::Agent;
use crate::stand_in::{PILOT, Refusing};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::certificates::{Authority, SecretVolume, Validity};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, http, places, same};

const OWN: &str = "spiffe://cluster.local/ns/default/sa/details";

/// What proxies and control plane have in their pods.
struct Mesh {
    authority: Authority,
    server: SecretVolume,
    proxy: SecretVolume,
}

impl Mesh {
    fn new() -> Self {
        let authority = Authority::new("the mesh's CA");
        let server = SecretVolume::new(&authority.server(&[PILOT]), &authority.pem());
        let proxy = SecretVolume::new(&authority.client(OWN), &authority.pem());
        Self { authority, server, proxy }
    }

    async fn control_plane(&self, manifests: &Manifests, more: &[&str]) -> ControlPlane {
        ControlPlane::start_secure(manifests.path(), &self.server, more).await
    }

    /// Starts the agent; `token` is a file, else its certificate is used.
    fn agent(&self, control: SocketAddr, token: Option<&Path>, more: &[&str]) -> Agent {
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let mut flags = vec![
            file("tls-ca", &self.proxy.path("ca.crt")),
            file("tls-cert", &self.proxy.path("tls.crt")),
            file("tls-key", &self.proxy.path("tls.key")),
            format!("--tls-server-name={PILOT}"),
        ];
        flags.push(format!("--tls={}", if token.is_some() { "token" } else { "certificate" }));
        flags.extend(token.map(|token| file("token-file", token)));
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Agent::start(control, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// The URI name of the certificate that Envoy shows.
async fn shown(agent: &Agent) -> Result<Value, String> {
    let page = http::json(&agent.url(15000, "/certs")).await?;
    let all = page["certificates"].as_array().cloned().unwrap_or_default();
    let mut names = all.iter().map(|one| &one["cert_chain"][0]["subject_alt_names"][0]["uri"]);
    names.find(|name| name.is_string()).cloned().ok_or_else(|| format!("no certificate: {page}"))
}

#[tokio::test]
async fn delta_with_a_certificate_that_is_rotated_under_load() {
    rotates_under_load("delta").await;
}

#[tokio::test]
async fn sotw_with_a_certificate_that_is_rotated_under_load() {
    rotates_under_load("sotw").await;
}

async fn rotates_under_load(xds: &str) {
    let backends = [Backend::http("one").await, Backend::http("two").await];
    let bound = SocketAddr::from((Ipv4Addr::LOCALHOST, places::port()));
    let service = Service::new("steady", "http", bound.port());
    let manifests = Manifests::new(&[service.clone().with(&backends[..1])]);
    let mesh = Mesh::new();
    let control = mesh.control_plane(&manifests, &[]).await;
    let secure = control.secure_grpc.unwrap();
    let agent = mesh.agent(secure, None, &[&format!("--xds={xds}")]);
    agent.becomes_ready().await;
    let envoy = agent.envoy().await;
    let load = Load::start(bound, "steady", &[200]);
    load.goes_on(20).await;

    // To another authority, step by step, with another account to see it by.
    let next = Authority::new("the next CA");
    let both = mesh.authority.pem() + &next.pem();
    let renewed = "spiffe://cluster.local/ns/default/sa/renewed";
    let steps = [
        (mesh.authority.server(&[PILOT]), mesh.authority.client(OWN), both.clone()),
        (next.server(&[PILOT]), next.client(renewed), both),
        (next.server(&[PILOT]), next.client(renewed), next.pem()),
    ];
    for (at, (of_server, of_proxy, trusted)) in steps.iter().enumerate() {
        mesh.server.swap(of_server, trusted);
        mesh.proxy.swap(of_proxy, trusted);
        eventually(DEADLINE, "the control plane to have the new files", async || {
            let page = control.debug("sourcez").await?;
            same(page["certificates"]["reloads"].as_u64(), Some(at as u64 + 1))
        })
        .await;
        load.goes_on(20).await;
    }
    eventually(DEADLINE, "Envoy to have the new certificate", async || {
        same(shown(&agent).await?, Value::from(renewed))
    })
    .await;
    // The stream of the beginning goes on: no configuration came by another.
    assert_eq!(control.metric("pilothouse_streams_opened_total").await, Ok(1.0));
    manifests.apply(&service.with(&backends[1..]));
    eventually(DEADLINE, "the new endpoint", async || {
        let answer = http::get(&format!("http://{bound}/"), Some("steady")).await?;
        if answer.body.starts_with("two") { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    load.assert_flawless();
    assert_eq!(agent.envoy().await, envoy, "it is the same Envoy");
}

#[tokio::test]
async fn a_token_that_is_rotated_is_used_by_the_next_stream() {
    let mesh = Mesh::new();
    let tokens = TempDir::new().unwrap();
    let token = tokens.path().join("istio-token");
    let write = |text: &str| {
        std::fs::write(tokens.path().join("new"), text).unwrap();
        std::fs::rename(tokens.path().join("new"), &token).unwrap();
    };
    // {} and {"a":1}
    let (first, second) = ("e30.e30.b25l", "e30.eyJhIjoxfQ.dHdv");
    write(first);
    let status = Status::unauthenticated("the token is for somebody else");
    let issued = mesh.authority.server(&[PILOT]);
    let (server, address) = Refusing::start(status, Some(&issued)).await;
    let agent = mesh.agent(address, Some(&token), &[]);
    let says = async |token: &str| {
        let wanted = Some(format!("Bearer {token}"));
        eventually(DEADLINE, "Envoy to show its token", async || {
            same(server.last_bearer(), wanted.clone())
        })
        .await;
    };
    says(first).await;
    let envoy = agent.envoy().await;
    // Why it does not become ready is said, in the control plane's words.
    agent.answers(503, "the token is for somebody else").await;
    write(second);
    says(second).await;
    assert_eq!(agent.envoy().await, envoy, "it is the same Envoy");
}

#[tokio::test]
async fn readiness_names_what_is_wrong_with_tls() {
    let manifests = Manifests::new(&[]);
    let mesh = Mesh::new();
    let control = mesh.control_plane(&manifests, &[]).await;
    let secure = control.secure_grpc.unwrap();
    mesh.proxy.swap(&mesh.authority.client_valid(OWN, Validity::Expired), &mesh.authority.pem());
    let agent = mesh.agent(secure, None, &[]);
    agent.says("has expired at").await;
    agent.answers(503, "one that is out of its time").await;
    mesh.proxy.swap(&mesh.authority.client(OWN), &mesh.authority.pem());
    agent.becomes_ready().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_its_own_is_refused_and_said() {
    let manifests = Manifests::new(&[]);
    let mesh = Mesh::new();
    let control = mesh.control_plane(&manifests, &[]).await;
    let agent = mesh.agent(control.secure_grpc.unwrap(), None, &["--pod-namespace=bank"]);
    for words in ["does not let this proxy be", "bank", OWN] {
        agent.answers(503, words).await;
    }
}

#[tokio::test]
async fn files_that_come_late_are_waited_for() {
    let manifests = Manifests::new(&[]);
    let mesh = Mesh::new();
    let control = mesh.control_plane(&manifests, &[]).await;
    let late = TempDir::new().unwrap();
    let certificate = late.path().join("late.crt");
    let flag = format!("--tls-cert={}", certificate.display());
    let agent = mesh.agent(control.secure_grpc.unwrap(), None, &[&flag]);
    agent.answers(503, "late.crt is not there").await;
    agent.says("late.crt is not there: waiting for it").await;
    assert_eq!(agent.page("/healthz/live").await.unwrap().status, 200);
    std::fs::copy(mesh.proxy.path("tls.crt"), &certificate).unwrap();
    agent.becomes_ready().await;
}

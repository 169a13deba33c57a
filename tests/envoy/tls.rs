//! A real Envoy with TLS to its control plane: certificates from files, as a Secret is mounted, and both
//! sides' replaced while requests run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::certificates::{Authority, SecretVolume, Validity};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::xds_client::PILOT;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, on_both_wires, same};

on_both_wires!(envoy_is_served_and_both_sides_certificates_change_under_load);

const PROXY: &str = "spiffe://cluster.local/ns/default/sa/default";

/// Secrets for file-based SDS: the proxy's certificate and the CA, watched where the Secret is mounted.
fn secrets(folder: &Path, proxy: &SecretVolume) {
    let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let watched = json!({ "path": proxy.folder() });
    let own = json!({
        "@type": type_url, "name": "own",
        "tls_certificate": {
            "certificate_chain": { "filename": proxy.path("tls.crt") },
            "private_key": { "filename": proxy.path("tls.key") },
            "watched_directory": watched,
        },
    });
    let ca = json!({
        "@type": type_url, "name": "ca",
        "validation_context": {
            "trusted_ca": { "filename": proxy.path("ca.crt") },
            "match_typed_subject_alt_names": [
                { "san_type": "DNS", "matcher": { "exact": PILOT } },
            ],
            "watched_directory": watched,
        },
    });
    for (name, secret) in [("own", own), ("ca", ca)] {
        let text = json!({ "resources": [secret] }).to_string();
        fs::write(folder.join(format!("{name}.json")), text).unwrap();
    }
}

/// What stands in the bootstrap of a sample for TLS to the control plane.
fn transport_socket(folder: &Path) -> String {
    let sds = |name: &str| {
        json!({
            "name": name,
            "sds_config": {
                "path_config_source": { "path": folder.join(format!("{name}.json")) },
                "resource_api_version": "V3",
            },
        })
    };
    let socket = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": PILOT,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [sds("own")],
                "validation_context_sds_secret_config": sds("ca"),
            },
        },
    });
    format!("connect_timeout: 1s\n      transport_socket: {socket}")
}

async fn start(wire: Wire, control: SocketAddr, folder: &Path) -> Envoy {
    let socket = transport_socket(folder);
    Envoy::start_with(Sample::Standalone, wire, control, &[("connect_timeout: 1s", &socket)]).await
}

async fn answered_by(envoy: &Envoy, name: &str) {
    eventually(VISIBLE, &format!("an answer of {name}"), async || {
        let answer = envoy.fetch("steady").await?;
        if answer.body.starts_with(name) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

async fn envoy_is_served_and_both_sides_certificates_change_under_load(wire: Wire) {
    let backends = [Backend::http("one").await, Backend::http("two").await];
    let service = Service::new("steady", "http", 80);
    let manifests = Manifests::new(&[service.clone().with(&backends[..1])]);
    let first = Authority::new("first CA");
    let server = SecretVolume::new(&first.server(&[PILOT]), &first.pem());
    let proxy = SecretVolume::new(&first.client(PROXY), &first.pem());
    let folder = TempDir::new().unwrap();
    secrets(folder.path(), &proxy);
    let control = ControlPlane::start_secure(manifests.path(), &server, &[]).await;
    let secure = control.secure_grpc.unwrap();
    let envoy = start(wire, secure, folder.path()).await;
    answered_by(&envoy, "one").await;
    let load = Load::start(envoy.listener, "steady", &[200]);
    load.goes_on(10).await;

    // Step by step to another CA: both sides trust both, then both show the new one's, then trust it alone.
    let next = Authority::new("next CA");
    let both = first.pem() + &next.pem();
    let (old_server, old_proxy) = (first.server(&[PILOT]), first.client(PROXY));
    let (new_server, new_proxy) = (next.server(&[PILOT]), next.client(PROXY));
    for (at, (of_server, of_proxy, trusted)) in [
        (&old_server, &old_proxy, &both),
        (&new_server, &new_proxy, &both),
        (&new_server, &new_proxy, &next.pem()),
    ]
    .into_iter()
    .enumerate()
    {
        server.swap(of_server, trusted);
        proxy.swap(of_proxy, trusted);
        eventually(DEADLINE, "the new files to be served", async || {
            let page = control.debug("sourcez").await?;
            same(&page["certificates"]["reloads"], &json!(at + 1))
        })
        .await;
        load.goes_on(20).await;
    }
    // The stream of the beginning is still the only one, and carries changes.
    manifests.apply(&service.with(&backends[1..]));
    answered_by(&envoy, "two").await;
    let opened = control.metric("pilothouse_streams_opened_total").await;
    assert_eq!(opened, Ok(1.0));
    // What connects now shows, and trusts, what is new.
    let other = start(wire, secure, folder.path()).await;
    answered_by(&other, "two").await;
    let complete = "pilothouse_tls_handshakes_total{result=\"complete\"}";
    assert_eq!(control.metric(complete).await, Ok(2.0));
    load.assert_flawless();
    envoy.assert_untroubled().await;
}

/// The control plane counts it and says why, and Envoy is served once it is right.
#[tokio::test]
async fn an_expired_certificate_of_a_proxy_is_refused_until_it_is_renewed() {
    let backend = Backend::http("one").await;
    let manifests = Manifests::new(&[Service::new("steady", "http", 80).with([&backend])]);
    let authority = Authority::new("test CA");
    let server = SecretVolume::new(&authority.server(&[PILOT]), &authority.pem());
    let expired = authority.client_valid(PROXY, Validity::Expired);
    let proxy = SecretVolume::new(&expired, &authority.pem());
    let folder = TempDir::new().unwrap();
    secrets(folder.path(), &proxy);
    let control = ControlPlane::start_secure(manifests.path(), &server, &[]).await;
    let socket = transport_socket(folder.path());
    let replaced = [("connect_timeout: 1s", &*socket)];
    let secure = control.secure_grpc.unwrap();
    let envoy = Envoy::start_unready(Sample::Standalone, Wire::Delta, secure, &replaced).await;
    let refused = "pilothouse_tls_handshakes_total{result=\"client_certificate\"}";
    eventually(DEADLINE, "the refusal to be counted", async || {
        let count = control.metric(refused).await?;
        if count > 0.0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    let log = control.process.log();
    assert!(log.contains("the client's certificate is refused: certificate expired"), "{log}");
    proxy.swap(&authority.client(PROXY), &authority.pem());
    answered_by(&envoy, "one").await;
}

//! With a real Envoy: sound, gone, hung, somebody else in its place, and what it does not accept.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::process::Signal;

use super::{Said, doctor};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, places, same};

/// Everything as it is: the control plane is found by Envoy's own bootstrap.
pub(super) async fn examine(envoy: &Envoy, control: &ControlPlane, more: &[&str]) -> Said {
    let (admin, monitoring, debug) =
        (envoy.admin.to_string(), control.monitoring.to_string(), control.http.to_string());
    let arguments = ["--admin-address", &admin, "--monitoring-address", &monitoring];
    doctor(&[&arguments[..], &["--debug-address", &debug], more].concat()).await
}

async fn admin_at(address: SocketAddr) -> Said {
    doctor(&["--admin-address", &address.to_string()]).await
}

#[tokio::test]
async fn all_is_well() {
    let backend = Backend::http("one").await;
    let service = Service::new("good", "http", places::port()).with([&backend]);
    let lab = Lab::start(Sample::Bound, Wire::Delta, &[service]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    let said = examine(&lab.envoy, &lab.control, &[]).await;
    said.is("all_well", 0);
    for link in ["Envoy", "TCP", "HTTP/2", "gRPC", "Pilot", "ADS", "Pilot's view", "configuration"]
    {
        assert_eq!(said.link(link), Some("well"), "{link}: {:#}", said.json);
    }
    // It asked under the proxy's own name, and has gone again.
    eventually(DEADLINE, "the probe to be gone", async || lab.control.sync().await.map(drop)).await;
    lab.assert_untroubled().await;
}

#[tokio::test]
async fn no_envoy() {
    let nobody = SocketAddr::new(places::address(), places::port());
    let said = admin_at(nobody).await;
    said.is("envoy_not_running", 1);
    said.names(&[&nobody.to_string()]);
}

#[tokio::test]
async fn somebody_else_on_the_admin_port() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    admin_at(control.http).await.is("admin_port_taken", 1);
}

#[tokio::test]
async fn a_stopped_envoy() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let envoy = Envoy::start(Sample::Bound, Wire::Sotw, control.grpc).await;
    envoy.process.signal(Signal::STOP);
    let said = admin_at(envoy.admin).await;
    envoy.process.signal(Signal::CONT);
    said.is("envoy_silent", 1);
}

#[tokio::test]
async fn a_rejected_listener_by_its_name_and_envoys_words() {
    let port = places::port();
    let _occupant = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let backend = Backend::http("one").await;
    let shut = Service::new("shut", "http", port).with([&backend]);
    let lab = Lab::start(Sample::Bound, Wire::Sotw, &[shut]).await;
    eventually(DEADLINE, "Envoy to reject it", async || {
        same(lab.envoy.stat("listener_manager.lds.update_rejected").await? > 0, true)
    })
    .await;
    let name = format!("127.0.0.1_{port}");
    let said = examine(&lab.envoy, &lab.control, &[]).await;
    said.is("config_rejected", 1);
    said.names(&[&name, "Address already in use"]);
    // The same from Envoy alone, where the control plane's pages cannot be had.
    let nobody = SocketAddr::new(places::address(), places::port()).to_string();
    let admin = lab.envoy.admin.to_string();
    let said = doctor(&["--admin-address", &admin, "--debug-address", &nobody]).await;
    said.is("config_rejected", 1);
    said.names(&[&name, "Address already in use"]);
}

#[tokio::test]
async fn every_rejected_listener_is_named() {
    let ports = [(); 3].map(|()| places::port());
    let _occupants = ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    let backend = Backend::http("one").await;
    let shut = ports.map(|port| Service::new(&format!("s{port}"), "http", port).with([&backend]));
    let lab = Lab::start(Sample::Bound, Wire::Sotw, &shut).await;
    eventually(DEADLINE, "Envoy to reject them", async || {
        same(lab.envoy.stat("listener_manager.lds.update_rejected").await? > 0, true)
    })
    .await;
    let names = ports.map(|port| format!("127.0.0.1_{port}"));
    let names = names.each_ref().map(String::as_str);
    let said = examine(&lab.envoy, &lab.control, &[]).await;
    said.is("config_rejected", 1);
    said.names(&names);
    let admin = lab.envoy.admin.to_string();
    let said = doctor(&["--admin-address", &admin, "--debug-address", "127.0.0.1:1"]).await;
    said.is("config_rejected", 1);
    said.names(&names);
    assert!(!said.json["cause"].to_string().contains("\\n"), "a sentence has one line");
}

#[tokio::test]
async fn an_envoy_that_is_elsewhere_leaves_it_open_whether_all_is_well() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let (grpc, monitoring) = (control.grpc.to_string(), control.monitoring.to_string());
    let arguments = ["--discovery-address", &grpc, "--monitoring-address", &monitoring];
    // Neither in a pod nor told that there is none: nobody is on 127.0.0.1:15000 in these tests.
    let said = doctor(&arguments).await;
    said.is("not_all_examined", 3);
    said.names(&["Envoy (none here"]);
    assert_eq!(said.link("ADS"), Some("well"));
    doctor(&[&["--no-envoy"], &arguments[..]].concat()).await.is("all_well", 0);
}

#[tokio::test]
async fn mistakes_in_the_arguments_have_an_exit_code_of_their_own() {
    for arguments in [
        &["--timeout", "0"][..],
        &["--timeout", "0s"],
        &["--timeout", "18446744073709551615s"],
        &["--service", ""],
        &["--no-such-flag"],
    ] {
        let mut command = pilothouse(&[&["doctor"], arguments].concat());
        let mut process = Process::start("doctor", &mut command);
        let status = process.end(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{arguments:?}: {}", process.log());
    }
}

#[tokio::test]
async fn workers_that_wait_for_a_target() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    // Routes from somewhere that never answers, waited for without end.
    let silent = TcpListener::bind((places::address(), 0)).expect("a free port");
    let silent = silent.local_addr().expect("it is bound");
    let listener = format!(
        r#"static_resources:
  listeners:
    - name: waiting
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: waiting
                rds:
                  route_config_name: never
                  config_source:
                    resource_api_version: V3
                    initial_fetch_timeout: 0s
                    api_config_source:
                      api_type: GRPC
                      transport_api_version: V3
                      grpc_services: [{{ envoy_grpc: {{ cluster_name: silent }} }}]
                http_filters:
                  - name: router
                    typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
    - name: silent
      type: STATIC
      load_assignment:
        cluster_name: silent
        endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ http2_protocol_options: {{}} }}
"#,
        places::port(),
        silent.ip(),
        silent.port(),
    );
    let pieces = [("static_resources:\n  clusters:\n", &*listener)];
    let envoy = Envoy::start_unready(Sample::Bound, Wire::Sotw, control.grpc, &pieces).await;
    eventually(DEADLINE, "Envoy to have clusters", async || {
        same(envoy.stat("listener_manager.lds.update_success").await? > 0, true)
    })
    .await;
    let said = examine(&envoy, &control, &[]).await;
    said.is("workers_not_started", 1);
    said.names(&["never"]);
}

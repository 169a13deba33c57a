//! Name servers that are silent, refuse, err, or know no such name.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::{Said, doctor, resolv_conf};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::places;

/// Answers every question by what a function makes of its name and type; `None` keeps silent.
struct NameServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

type Answer = Result<Vec<IpAddr>, ResponseCode>;

impl NameServer {
    async fn start(answer: impl Fn(&str, RecordType) -> Option<Answer> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((places::address(), 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { return };
                let asked = Message::from_vec(&buffer[..length]).expect("a question");
                let query = asked.queries[0].clone();
                let name = query.name().to_utf8();
                let Some(answer) = answer(name.trim_end_matches('.'), query.query_type()) else {
                    continue;
                };
                let mut reply = asked.clone();
                reply.metadata.message_type = MessageType::Response;
                match answer {
                    Err(code) => reply.metadata.response_code = code,
                    Ok(addresses) => {
                        for address in addresses {
                            let IpAddr::V4(v4) = address else { continue };
                            let data = RData::A(A(v4));
                            reply.add_answer(Record::from_rdata(query.name().clone(), 5, data));
                        }
                    }
                }
                socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        Self { address, task }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn diagnose(server: SocketAddr, discovery: &str) -> Said {
    let folder = TempDir::new().unwrap();
    let conf = resolv_conf(&folder, server.ip());
    let port = server.port().to_string();
    let arguments = ["--no-envoy", "--resolv-conf", &conf, "--dns-port", &port];
    doctor(&[&arguments[..], &["--discovery-address", discovery]].concat()).await
}

const PILOT: &str = "istio-pilot.istio-system:15010";

#[tokio::test]
async fn a_silent_name_server() {
    let server = NameServer::start(|_, _| None).await;
    let said = diagnose(server.address, PILOT).await;
    said.is("name_server_silent", 1);
    said.names(&[&server.address.ip().to_string(), "resolv.conf"]);
    assert_eq!((said.link("name server"), said.link("name")), (Some("broken"), None));
}

#[tokio::test]
async fn a_name_server_that_is_refused() {
    let nobody = SocketAddr::new(places::address(), places::port());
    let said = diagnose(nobody, PILOT).await;
    said.is("name_server_refused", 1);
    said.names(&[&nobody.ip().to_string()]);
}

#[tokio::test]
async fn a_name_server_that_speaks_no_dns() {
    let socket = UdpSocket::bind((places::address(), 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    // It ends with the test's runtime.
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            _ = socket.send_to(b"what?", peer).await;
        }
    });
    let said = diagnose(address, PILOT).await;
    said.is("name_server_unreachable", 1);
    said.names(&[&address.ip().to_string()]);
}

#[tokio::test]
async fn a_name_server_that_refuses_to_answer() {
    for code in [ResponseCode::Refused, ResponseCode::ServFail] {
        let server = NameServer::start(move |_, _| Some(Err(code))).await;
        diagnose(server.address, PILOT).await.is("name_server_failed", 1);
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let server = NameServer::start(|_, _| Some(Err(ResponseCode::NXDomain))).await;
    let said = diagnose(server.address, PILOT).await;
    said.is("name_not_found", 1);
    said.names(&["istio-pilot.istio-system.svc.cluster.local", "namespace istio-system"]);
    assert_eq!((said.link("name server"), said.link("name")), (Some("well"), Some("broken")));
}

#[tokio::test]
async fn a_resolv_conf_without_name_servers() {
    let folder = TempDir::new().unwrap();
    let conf = folder.path().join("missing").display().to_string();
    let arguments = ["--no-envoy", "--discovery-address", PILOT, "--resolv-conf", &conf];
    doctor(&arguments).await.is("resolv_conf_unreadable", 1);
}

#[tokio::test]
async fn a_laptop_far_from_any_cluster_cannot_tell() {
    let server = NameServer::start(|_, _| Some(Err(ResponseCode::NXDomain))).await;
    let folder = TempDir::new().unwrap();
    let conf = resolv_conf(&folder, server.address.ip());
    let port = server.address.port().to_string();
    let said = doctor(&["--no-envoy", "--resolv-conf", &conf, "--dns-port", &port]).await;
    said.is("outside_cluster", 3);
}

#[tokio::test]
async fn the_name_is_found_under_the_search_list() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let address = control.grpc.ip();
    let server = NameServer::start(move |name, kind| {
        Some(match (name, kind) {
            ("istio-pilot.istio-system.svc.cluster.local", RecordType::A) => Ok(vec![address]),
            ("istio-pilot.istio-system.svc.cluster.local", _) => Ok(Vec::new()),
            _ => Err(ResponseCode::NXDomain),
        })
    })
    .await;
    let discovery = format!("istio-pilot.istio-system:{}", control.grpc.port());
    let said = diagnose(server.address, &discovery).await;
    // Its monitoring port is elsewhere here, and nobody may call well what was not looked at.
    said.is("not_all_examined", 3);
    said.names(&["Pilot (could not look", "15014"]);
    for link in ["name server", "name", "TCP", "HTTP/2", "gRPC", "ADS"] {
        assert_eq!(said.link(link), Some("well"), "{link}: {:#}", said.json);
    }
    assert_eq!(said.link("Pilot"), Some("unknown"));
}

#[tokio::test]
async fn a_cluster_name_that_is_missing_is_not_the_name_servers_fault() {
    // It knows the cluster's names, and fails at all others: the server behind it is away.
    let inside = |name: &str| name.ends_with(".svc.cluster.local");
    let answer = move |name: &str, _| {
        Some(Err(if inside(name) { ResponseCode::NXDomain } else { ResponseCode::ServFail }))
    };
    let server = NameServer::start(answer).await;
    for discovery in [PILOT, "istio-pilot.wrong:15010", "istio-pilot.wrong.svc:15010"] {
        let said = diagnose(server.address, discovery).await;
        said.is("name_not_found", 1);
        let namespace = if discovery == PILOT { "istio-system" } else { "wrong" };
        said.names(&[&format!("no Service istio-pilot in namespace {namespace}"), "SERVFAIL"]);
    }
    // A name outside the cluster is meant as it stands, and there the server fails.
    diagnose(server.address, "pilot.mesh.example.org:15010").await.is("name_server_failed", 1);
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_name_server() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let folder = TempDir::new().unwrap();
    let (hosts, conf) = (folder.path().join("hosts"), folder.path().join("missing"));
    std::fs::write(&hosts, format!("{}\tpilot.example\n", control.grpc.ip())).unwrap();
    let (hosts, conf) = (hosts.display().to_string(), conf.display().to_string());
    let (port, monitoring) = (control.grpc.port(), control.monitoring.to_string());
    let places =
        ["--hosts-file", &hosts, "--resolv-conf", &conf, "--monitoring-address", &monitoring];
    let diagnose = async |name: &str| {
        let discovery = format!("{name}:{port}");
        let arguments = ["--no-envoy", "--discovery-address", &discovery];
        doctor(&[&arguments[..], &places].concat()).await
    };
    let said = diagnose("pilot.example").await;
    said.is("all_well", 0);
    assert_eq!((said.link("name server"), said.link("name")), (None, Some("well")));
    // Known without a file, too; here nobody listens on 127.0.0.1 itself.
    let said = diagnose("localhost").await;
    said.is("connection_refused", 1);
    assert_eq!(said.link("name"), Some("well"));
    diagnose("other.example").await.is("resolv_conf_unreadable", 1);
}

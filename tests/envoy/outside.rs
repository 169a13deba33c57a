//! Names outside the mesh, which Envoy asks of DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::meaning::{apply_objects, service};
use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::{DEADLINE, eventually, places};

/// What a kubelet writes into a pod's resolv.conf, as c-ares reads it from the environment, where it
/// takes one search domain.
const OF_A_POD: [(&str, &str); 2] =
    [("LOCALDOMAIN", "svc.cluster.local"), ("RES_OPTIONS", "ndots:5")];

/// Knows the A records of a few names, and which names it was asked for.
struct NameServer {
    at: SocketAddr,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl NameServer {
    async fn start(names: &[(&str, Ipv4Addr)]) -> Self {
        let socket = UdpSocket::bind((places::address(), 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        let known: BTreeMap<String, Ipv4Addr> =
            names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let query = &buffer[..length];
                let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let name = name_of(&query[12..end - 5]);
                // Type A; both families are asked for.
                let answer = (query[end - 3] == 1).then(|| known.get(&name)).flatten();
                // Otherwise there is no such name, unless it has an address of another family.
                let code = if known.contains_key(&name) { 0 } else { 3 };
                // The id, "an answer, recursion available", one question, maybe one answer.
                let count = u8::from(answer.is_some());
                let header = [0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
                let mut message = [&query[..2], &header, &query[12..end]].concat();
                if let Some(address) = answer {
                    // The name again, an A record of class IN, 60 s, four bytes.
                    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    message.extend_from_slice(&address.octets());
                }
                seen.lock().unwrap().insert(name);
                _ = socket.send_to(&message, from).await;
            }
        });
        Self { at, asked }
    }

    fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Labels with their lengths, as words with dots.
fn name_of(mut labels: &[u8]) -> String {
    let mut words = Vec::new();
    while let [length, rest @ ..] = labels {
        let (word, rest) = rest.split_at(usize::from(*length));
        words.push(String::from_utf8_lossy(word).to_ascii_lowercase());
        labels = rest;
    }
    words.join(".")
}

/// An Envoy as in a pod. It has a cluster of its own, `canary.example.com`,
/// which is asked for with the search domain.
async fn in_a_pod(lab: &mut Lab, dns: SocketAddr) {
    let resolver = format!(
        "typed_dns_resolver_config: {{ name: envoy.network.dns_resolver.cares, typed_config: {{ \
         \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, \
         resolvers: [{{ socket_address: {{ address: {}, port_value: {} }} }}] }} }}\n\nadmin:\n",
        dns.ip(),
        dns.port()
    );
    let canary = "  clusters:\n    - name: canary\n      type: LOGICAL_DNS\n      \
         connect_timeout: 1s\n      load_assignment: { cluster_name: canary, endpoints: [{ \
         lb_endpoints: [{ endpoint: { address: { socket_address: { \
         address: canary.example.com, port_value: 1 } } } }] }] }\n";
    let replace = [("admin:\n", &*resolver), ("  clusters:\n", canary)];
    let control = lab.control.grpc;
    lab.envoy =
        Envoy::start_in(&OF_A_POD, Sample::Standalone, Wire::Delta, control, &replace).await;
}

fn outside(lab: &Lab, name: &str, of: &str, port: u16) {
    let ports = json!([{ "name": "http", "port": port }]);
    let spec = json!({ "type": "ExternalName", "externalName": of, "ports": ports });
    apply_objects(lab, name, &[service(name, &spec, &Value::Null)]);
}

#[tokio::test]
async fn a_name_outside_is_asked_of_dns() {
    // A workload that DNS knows by a name, on the port that the service names.
    let backend = Backend::http("outside").await;
    let IpAddr::V4(address) = backend.address else { panic!() };
    let dns = NameServer::start(&[("api.example.com", address)]).await;
    let mut lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    in_a_pod(&mut lab, dns.at).await;
    outside(&lab, "api", "API.example.com.", target_port());
    // The last name in a chain counts, and the ports of the first.
    outside(&lab, "chain", "api.default.svc.cluster.local", target_port());
    outside(&lab, "unknown", "unknown.example.com", 80);
    lab.answered_by("api", &["outside"]).await;
    lab.answered_by(&format!("chain.default:{}", target_port()), &["outside"]).await;
    lab.answers("unknown", 503).await;
    lab.envoy.assert_untroubled().await;
}

/// istio#28103, envoy#27911: whoever owns a namespace called `com` could be `www.example.com`.
#[tokio::test]
async fn a_name_outside_is_absolute_whoever_owns_a_namespace_called_com() {
    let (right, wrong) = (Backend::http("right").await, Backend::http("impostor").await);
    let (IpAddr::V4(good), IpAddr::V4(bad)) = (right.address, wrong.address) else { panic!() };
    let dns =
        NameServer::start(&[("www.example.com", good), ("www.example.com.svc.cluster.local", bad)])
            .await;
    let mut lab = Lab::start(Sample::Standalone, Wire::Delta, &[]).await;
    for (name, of) in [("plain", "www.example.com"), ("rooted", "www.example.com.")] {
        outside(&lab, name, of, target_port());
    }
    in_a_pod(&mut lab, dns.at).await;
    for name in ["plain", "rooted"] {
        lab.answered_by(name, &["right"]).await;
    }
    // This resolver does use its search domain, for names that are not absolute.
    eventually(DEADLINE, "the canary to be searched for", async || {
        let asked = dns.asked();
        let searched = asked.contains("canary.example.com.svc.cluster.local");
        if searched { Ok(()) } else { Err(format!("{asked:?}")) }
    })
    .await;
    let mut asked = dns.asked();
    asked.retain(|name| name.starts_with("www."));
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["www.example.com"]);
}

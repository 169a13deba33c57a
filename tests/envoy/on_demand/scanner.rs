//! Something in a pod asks a thousand addresses at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::task::JoinSet;

use super::{answers, cluster_ip, put};
use crate::captured::{asked, captured};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::process::allow_files;
use pilothouse_testkit::{LONG_DEADLINE, namespace};

const ADDRESSES: usize = 1000;

/// Addresses that a proxy may have pass-through clusters for, of those that no Service has.
const FALLBACKS: usize = 100;

/// In the range of cluster IPs that this one is in, and nobody's.
fn beside(known: SocketAddr) -> Vec<SocketAddr> {
    let IpAddr::V4(ip) = known.ip() else { panic!("{known} is IPv4") };
    let [a, b, c, _] = ip.octets();
    let address = |at: usize| {
        let third = c.wrapping_add(1 + (at / 250) as u8);
        Ipv4Addr::new(a, b, third, 1 + (at % 250) as u8)
    };
    (0..ADDRESSES).map(|at| SocketAddr::new(address(at).into(), known.port())).collect()
}

#[tokio::test]
async fn a_thousand_unknown_addresses_at_once_are_bounded_and_harm_nobody() {
    let test = "a_thousand_unknown_addresses_at_once_are_bounded_and_harm_nobody";
    if !namespace::entered(&format!("on_demand::scanner::{test}")) {
        return;
    }
    // Each has a connection to Envoy, and Envoy one to nobody.
    allow_files(4 * ADDRESSES as u64);
    let (lab, client) = captured(Discovery::OnDemand).await;
    let [one, two] = [Backend::http("w-one").await, Backend::http("w-two").await];
    let used = put(&lab, "used", "http", cluster_ip(80), &[&one]);
    let moved = put(&lab, "moved", "http", cluster_ip(80), &[&one]);
    answers(client, used, "w-one").await;
    let load = Load::start_from(Some(client), used, "used", &[200]);
    let envoy = Envoy::start(Sample::Standalone, Wire::Delta, lab.control.grpc).await;
    let Lab { envoy: scanning, control, manifests } = lab;
    let other = Lab { envoy, control, manifests };
    other.answered_by("moved", &["w-one"]).await;

    let unknown = beside(used);
    let mut scan = JoinSet::new();
    for at in unknown.clone() {
        scan.spawn(async move { asked(client, at, "any.host", "HTTP/1.1").await });
    }
    // Meanwhile what another proxy uses changes, and it hears of it.
    put(&other, "moved", "http", moved, &[&two]);
    other.answered_by("moved", &["w-two"]).await;
    load.goes_on(20).await;
    let answered = tokio::time::timeout(LONG_DEADLINE, scan.join_all()).await;
    for answer in answered.expect("every request is answered") {
        let refused = answer.expect_err("nobody is there");
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    }
    let clusters = scanning.clusters().await.unwrap();
    assert!(clusters.len() <= 1 + FALLBACKS, "{} clusters", clusters.len());

    // It may use what there is, and what comes to be where it has looked before.
    answers(client, moved, "w-two").await;
    for (at, place) in [unknown[0], unknown[ADDRESSES - 1]].into_iter().enumerate() {
        put(&other, &format!("new-{at}"), "http", place, &[&one]);
        answers(client, place, "w-one").await;
    }
    other.answered_by("new-1", &["w-one"]).await;
    load.assert_flawless();
    other.envoy.assert_untroubled().await;
}

/// The same by one proxy that keeps what it has meanwhile: unknown hosts by name are no matter of clusters.
#[tokio::test]
async fn a_thousand_unknown_hosts_of_one_address_are_one_cluster() {
    let test = "a_thousand_unknown_hosts_of_one_address_are_one_cluster";
    if !namespace::entered(&format!("on_demand::scanner::{test}")) {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let one = Backend::http("w-one").await;
    let used = put(&lab, "used", "http", cluster_ip(80), &[&one]);
    answers(client, used, "w-one").await;
    let clusters = lab.envoy.clusters().await;
    for number in 0..ADDRESSES {
        let host = format!("host-{number}.example.com");
        let answer = asked(client, used, &host, "HTTP/1.1").await;
        assert_eq!(answer.as_deref(), Ok("w-one"), "{host}");
    }
    assert_eq!(lab.envoy.clusters().await, clusters);
    lab.agrees().await;
    lab.assert_untroubled().await;
}

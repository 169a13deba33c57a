//! Captured requests go by the address that the client connected to, and connections that are older than a rule
//! come under it without losing a request.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::kept_alive::{Connection, Version, Visitor};
use super::{all_to, backends, put_route, remove_route};
use crate::captured::{asked, captured, entered, service};
use crate::meaning::{apply_objects, slice};
use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::envoy::Discovery;
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::{VISIBLE, eventually, in_both_discoveries, places, same};

in_both_discoveries!(
    connections_that_are_older_than_the_first_rule_come_under_it_and_none_is_lost,
    a_rule_is_for_whoever_calls_the_address_whatever_the_host,
    every_request_is_mirrored_from_the_first_one_on,
);

/// Puts a Service with this cluster IP that leads to this backend; gives where it is.
fn put_service(lab: &Lab, name: &str, ip: IpAddr, port: u16, to: &Backend) -> SocketAddr {
    let one = service(name, &ip.to_string(), "http", port, &Value::Null);
    let endpoints = [json!({ "addresses": [to.address] })];
    apply_objects(lab, name, &[one, slice(name, "IPv4", &endpoints)]);
    SocketAddr::new(ip, port)
}

async fn answers(client: IpAddr, to: SocketAddr, host: &str, wanted: &str) {
    eventually(VISIBLE, &format!("{wanted} for {host} at {to}"), async || {
        same(asked(client, to, host, "HTTP/1.1").await?.as_str(), wanted)
    })
    .await;
}

async fn connections_that_are_older_than_the_first_rule_come_under_it_and_none_is_lost(
    discovery: Discovery,
) {
    let test = "connections_that_are_older_than_the_first_rule_come_under_it_and_none_is_lost";
    if !entered(discovery, "routes::captured", test) {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let [web, v1, v2] =
        [Backend::http("w-web").await, Backend::http("w-v1").await, Backend::http("w-v2").await];
    let at = put_service(&lab, "web", places::address(), 80, &web);
    put_service(&lab, "v1", places::address(), 80, &v1);
    put_service(&lab, "v2", places::address(), 80, &v2);
    answers(client, at, "web", "w-web").await;
    // Without rules: by Host from the table that has them all, by address on demand.
    let v2 = if discovery == Discovery::All { "w-v2" } else { "w-web" };
    answers(client, at, "v2", v2).await;
    let versions = [Version::Http1, Version::Http2];
    let visitors = versions.map(|version| Visitor::start(version, client, at, "web"));
    let all_see = async |wanted: &str| {
        for visitor in &visitors {
            eventually(VISIBLE, &format!("{wanted} over a kept connection"), async || {
                same(visitor.last().as_str(), wanted)
            })
            .await;
        }
    };
    let connections = || visitors.each_ref().map(Visitor::connections);
    all_see("w-web").await;
    assert_eq!(connections(), [1, 1]);
    let mut idle = Vec::new();
    for version in versions {
        let mut one = Connection::open(version, client, at).await.unwrap();
        assert_eq!(one.ask("web").await, Ok(Some("w-web".to_owned())));
        idle.push((version, one));
    }

    put_route(&lab, "default", "r", &all_to(&[("v1", 1)]));
    all_see("w-v1").await;
    assert_eq!(connections(), [2, 2], "each was told to come back once");
    for (version, mut one) in idle {
        // Whatever it gets, it gets; the next request is a new connection's.
        assert!(one.ask("web").await.is_ok_and(|answer| answer.is_some()), "{version:?}");
        eventually(VISIBLE, &format!("the idle {version:?} connection to end"), async || {
            same(one.ask("web").await?, None)
        })
        .await;
    }

    // What is edited comes with the table: the connections stay.
    put_route(&lab, "default", "r", &all_to(&[("v2", 1)]));
    all_see("w-v2").await;
    assert_eq!(connections(), [2, 2]);
    lab.agrees().await;

    // From here on Envoy's dump has what the drained listener was routed by.
    remove_route(&lab, "default", "r");
    all_see("w-web").await;
    assert_eq!(connections(), [3, 3], "the Service's own listener is gone");
    lab.assert_untroubled().await;
}

/// The suite's MeshFrontendHostname, and what follows from it for a request that says one Service and goes to another.
async fn a_rule_is_for_whoever_calls_the_address_whatever_the_host(discovery: Discovery) {
    let test = "a_rule_is_for_whoever_calls_the_address_whatever_the_host";
    if !entered(discovery, "routes::captured", test) {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let [web, v1, direct] = [
        Backend::http("w-web").await,
        Backend::http("w-v1").await,
        Backend::http("w-direct").await,
    ];
    let port = target_port();
    let at = put_service(&lab, "web", places::address(), port, &web);
    // What passes through is answered there by the workload itself, as kube-proxy would have it.
    let other = put_service(&lab, "other", direct.address, port, &direct);
    put_service(&lab, "v1", places::address(), 80, &v1);
    answers(client, at, "web", "w-web").await;
    // Without rules: by Host from the table that has them all, by address on demand.
    let (other_host, web_host) = match discovery {
        Discovery::All => ("w-direct", "w-web"),
        Discovery::OnDemand => ("w-web", "w-direct"),
    };
    answers(client, at, "other", other_host).await;
    answers(client, other, "web", web_host).await;

    put_route(&lab, "default", "r", &all_to(&[("v1", 1)]));
    for host in ["web", "web.default.svc.cluster.local", "other", "example.com", "127.0.0.1"] {
        answers(client, at, host, "w-v1").await;
    }
    for host in ["other", "web", "web.default", "example.com"] {
        answers(client, other, host, "w-direct").await;
    }
    lab.agrees().await;
    remove_route(&lab, "default", "r");
    answers(client, at, "web", "w-web").await;
    answers(client, other, "web", web_host).await;
    lab.assert_untroubled().await;
}

/// Envoy asks for no cluster to send a copy to.
async fn every_request_is_mirrored_from_the_first_one_on(discovery: Discovery) {
    let test = "every_request_is_mirrored_from_the_first_one_on";
    if !entered(discovery, "routes::captured", test) {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let [web, v1, shadow] = [
        Backend::http("w-web").await,
        Backend::http("w-v1").await,
        Backend::http("w-shadow").await,
    ];
    let at = put_service(&lab, "web", places::address(), 80, &web);
    put_service(&lab, "v1", places::address(), 80, &v1);
    put_service(&lab, "shadow", places::address(), 80, &shadow);
    answers(client, at, "web", "w-web").await;

    let mirror = json!({ "type": "RequestMirror", "requestMirror": {
        "backendRef": { "name": "shadow", "port": 80 } } });
    let rules = json!([{ "filters": [mirror], "backendRefs": backends(&[("v1", 1)]) }]);
    put_route(&lab, "default", "r", &rules);
    answers(client, at, "web", "w-v1").await;
    for _ in 0..4 {
        assert_eq!(asked(client, at, "web", "HTTP/1.1").await.as_deref(), Ok("w-v1"));
    }
    let stat = "cluster.outbound|80||shadow.default.svc.cluster.local;.upstream_rq_total";
    eventually(VISIBLE, "a copy of each of the five requests", async || {
        same(lab.envoy.stat(stat).await?, 5)
    })
    .await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

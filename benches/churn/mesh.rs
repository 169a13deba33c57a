//! The mesh at the API server, and when each of its changes was made.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::Options;
use pilothouse_testkit::fake_api_server::{Api, SERVICES, SLICES};

/// How many changes are made at once: each tick of the clock makes some.
const TICK: Duration = Duration::from_millis(10);

pub(crate) struct Mesh {
    api: Api,
    services: usize,
    endpoints: usize,
    /// When each change was made, by its number; the first ones are those of the beginning.
    made: Vec<Instant>,
}

/// The address that says a change's number; no other endpoint has one in 10.0.0.0/8.
fn marked(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(10u8) << 24 | number)
}

/// The number that an address says, if it does.
pub(crate) fn number(address: Ipv4Addr) -> Option<u32> {
    (address.octets()[0] == 10).then_some(address.to_bits() & 0x00ff_ffff)
}

impl Mesh {
    pub(crate) async fn start(options: &Options) -> Self {
        let api = Api::start().await;
        let (services, endpoints) = (options.services, options.endpoints);
        let mut mesh = Self { api, services, endpoints, made: Vec::new() };
        let began = Instant::now();
        mesh.api.change(|now| {
            for of in 0..services {
                now.put(
                    SERVICES,
                    json!({ "metadata": { "name": name(of), "namespace": "default" },
                        "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
                );
                now.put(SLICES, slice(of, endpoints, mesh.made.len() as u32));
                mesh.made.push(began);
            }
        });
        mesh
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.api.address
    }

    pub(crate) fn clusters(&self) -> Vec<String> {
        (0..self.services).map(|of| cluster(&name(of))).collect()
    }

    /// How many changes have been made.
    pub(crate) fn last(&self) -> u32 {
        self.made.len() as u32
    }

    pub(crate) fn made(&self, number: u32) -> Instant {
        self.made[number as usize]
    }

    /// The numbers that a proxy shows that knows of everything: the last of each service.
    pub(crate) fn newest(&self) -> std::ops::Range<u32> {
        self.last() - self.services as u32..self.last()
    }

    /// One service after the other gets another endpoint, at this rate.
    pub(crate) async fn change_for(&mut self, seconds: u32, rate: u32) {
        let begun = Instant::now();
        let first = self.last();
        let all = first + seconds * rate;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while self.last() < all {
            ticks.tick().await;
            let due = first + (begun.elapsed().as_secs_f64() * f64::from(rate)) as u32;
            let (services, endpoints, made) = (self.services, self.endpoints, &mut self.made);
            self.api.change(|now| {
                let at = Instant::now();
                while (made.len() as u32) < due.min(all) {
                    now.put(SLICES, slice(made.len() % services, endpoints, made.len() as u32));
                    made.push(at);
                }
            });
        }
    }
}

fn name(of: usize) -> String {
    format!("service-{of}")
}

fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.default.svc.cluster.local")
}

/// As Kubernetes makes them: a name, a zone and the pod of each endpoint.
fn slice(of: usize, endpoints: usize, number: u32) -> Value {
    let service = name(of);
    let endpoints: Vec<_> = (0..endpoints)
        .map(|at| {
            let address = match at {
                0 => marked(number),
                at => Ipv4Addr::from_bits(u32::from(11u8) << 24 | (of * endpoints + at) as u32),
            };
            json!({ "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", at % 20), "zone": format!("zone-{}", at % 3),
                "targetRef": { "kind": "Pod", "namespace": "default",
                    "name": format!("{service}-6b7f6db4f-{at:05}"),
                    "uid": format!("5d3a1e52-4f5c-4c5c-9f57-{of:06}{at:06}") } })
        })
        .collect();
    json!({ "metadata": { "name": format!("{service}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints })
}

//! The mesh at the stand-in API server, and its changes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::Options;
use crate::calls::{HTTP_TARGET, TCP_TARGET};
use pilothouse_testkit::fake_api_server::{Api, SERVICES, SLICES};

/// How many changes are made at once: each tick of the clock makes some.
const TICK: Duration = Duration::from_millis(10);

/// Services are called in steps of this, so that all kinds and namespaces are; a prime.
const STEP: usize = 7919;

/// What a service speaks. Of twenty services nine speak HTTP, nine gRPC and two TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Grpc,
    Tcp,
}

/// One service, by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service(usize);

impl Service {
    pub(crate) fn kind(self) -> Kind {
        match self.0 % 20 {
            0..9 => Kind::Http,
            9..18 => Kind::Grpc,
            _ => Kind::Tcp,
        }
    }

    fn port(self) -> u16 {
        match self.kind() {
            Kind::Http => [80, 8080, 9080][self.0 / 20 % 3],
            Kind::Grpc => 9090,
            Kind::Tcp => 5432,
        }
    }

    fn name(self) -> String {
        format!("service-{}", self.0)
    }

    fn cluster_ip(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + self.0 as u32)
    }

    /// Where an application connects to.
    pub(crate) fn address(self) -> SocketAddr {
        (self.cluster_ip(), self.port()).into()
    }
}

pub(crate) struct Mesh {
    api: Api,
    services: usize,
    endpoints: usize,
    namespaces: usize,
    /// How many changes have been made.
    made: AtomicU32,
}

impl Mesh {
    pub(crate) async fn start(options: &Options) -> Self {
        let mesh = Self {
            api: Api::start().await,
            services: options.services,
            endpoints: options.endpoints,
            namespaces: options.namespaces.max(1),
            made: AtomicU32::new(0),
        };
        mesh.api.change(|now| {
            for service in (0..mesh.services).map(Service) {
                now.put(SERVICES, mesh.service(service));
                now.put(SLICES, mesh.slice(service, 0));
            }
        });
        mesh
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.api.address
    }

    /// All services in the order in which they are called.
    pub(crate) fn in_order(&self) -> Vec<Service> {
        (0..self.services).map(|at| Service(at * STEP % self.services)).collect()
    }

    pub(crate) fn host(&self, service: Service) -> String {
        format!("{}.{}", service.name(), self.namespace(service))
    }

    fn namespace(&self, service: Service) -> String {
        format!("namespace-{}", service.0 % self.namespaces)
    }

    /// One service after the other gets another endpoint, at this rate, until dropped.
    pub(crate) async fn change(&self, rate: u32) {
        let begun = Instant::now();
        let first = self.made.load(Ordering::Relaxed);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let due = first + (begun.elapsed().as_secs_f64() * f64::from(rate)) as u32;
            self.api.change(|now| {
                for number in self.made.swap(due, Ordering::Relaxed)..due {
                    let service = Service(number as usize % self.services);
                    now.put(SLICES, self.slice(service, number + 1));
                }
            });
        }
    }

    pub(crate) fn changes(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    fn service(&self, service: Service) -> Value {
        let name = match service.kind() {
            Kind::Http => "http",
            Kind::Grpc => "grpc",
            Kind::Tcp => "tcp",
        };
        json!({ "metadata": { "name": service.name(), "namespace": self.namespace(service) },
            "spec": { "clusterIP": service.cluster_ip(), "clusterIPs": [service.cluster_ip()],
                "ports": [{ "name": name, "port": service.port() }] } })
    }

    /// As Kubernetes makes them. The first endpoint has an address of this change's own; all addresses lead to
    /// workloads that live.
    fn slice(&self, service: Service, change: u32) -> Value {
        let (name, namespace) = (service.name(), self.namespace(service));
        let endpoints: Vec<_> = (0..self.endpoints)
            .map(|at| {
                let number = (service.0 * self.endpoints + at) as u32;
                let address = match (at, change) {
                    (0, 1..) => Ipv4Addr::new(10, 192, 0, 0).to_bits() + change % (1 << 22),
                    _ => Ipv4Addr::new(10, 128, 0, 0).to_bits() + number,
                };
                json!({ "addresses": [Ipv4Addr::from_bits(address)],
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": format!("node-{}", at % 20),
                    "targetRef": { "kind": "Pod", "namespace": namespace,
                        "name": format!("{name}-6b7f6db4f-{at:05}") } })
            })
            .collect();
        let (port, target) = match service.kind() {
            Kind::Http => ("http", HTTP_TARGET),
            Kind::Grpc => ("grpc", HTTP_TARGET),
            Kind::Tcp => ("tcp", TCP_TARGET),
        };
        json!({ "metadata": { "name": format!("{name}-1"), "namespace": namespace,
                "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": port, "port": target, "protocol": "TCP" }],
            "endpoints": endpoints })
    }
}

//! The mesh that is served: services with endpoints, as a source would say it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use pilothouse::model::route::{Backend, BackendRef, ParentRef, ParentTarget, RouteRule};
use pilothouse::model::{
    Endpoint, EndpointSlice, EndpointState, Protocol, Route, RouteKey, RouteKind, Service,
    ServiceKey, ServiceKind, ServicePort, SlicePort, Subset,
};
use pilothouse::view::{ProxyKind, ViewKey};

/// All services listen here, as bookinfo's do.
pub const PORT: u16 = 9080;

pub fn service(number: usize) -> Service {
    let address = Ipv4Addr::from(0x0a60_0000 + number as u32);
    let port = ServicePort { name: "http".into(), port: PORT, protocol: Protocol::Http };
    Service::new(key(number), ServiceKind::ClusterIp(vec![IpAddr::V4(address)]), vec![port])
}

/// `variant` changes one endpoint's address.
pub fn slice(number: usize, endpoints: usize, variant: usize) -> EndpointSlice {
    let zone: Arc<str> = "zone-1".into();
    let endpoints = (0..endpoints).map(|at| {
        let shift = if at == 0 { variant as u32 * 0x0001_0000 } else { 0 };
        let host = 0x0a80_0000 + (number * endpoints + at) as u32 + shift;
        Endpoint {
            zone: Some(zone.clone()),
            ..Endpoint::new(IpAddr::V4(Ipv4Addr::from(host)), EndpointState::Ready)
        }
    });
    EndpointSlice {
        name: format!("svc-{number}-slice").into(),
        service: key(number),
        subsets: vec![Subset {
            ports: vec![SlicePort { name: "http".into(), port: PORT }],
            endpoints: endpoints.collect(),
        }],
    }
}

/// The HTTPRoute of a service: most requests for it go to itself, as many in 100 as `variant` says to the next.
pub fn route(number: usize, variant: usize) -> Route {
    let backend = |number: usize, weight: u32| Backend {
        target: BackendRef::Service { key: key(number), port: PORT },
        weight,
        filters: Vec::new(),
    };
    let weight = (variant % 100) as u32;
    let parent = ParentRef {
        target: ParentTarget::Service(key(number)),
        namespace: None,
        section_name: None,
        port: None,
    };
    let rule = RouteRule::new(vec![backend(number, 100 - weight), backend(number + 1, weight)]);
    let key = RouteKey::new(RouteKind::Http, "default", format!("svc-{number}"));
    Route {
        created: "2026-01-01T00:00:00Z".into(),
        generation: Some(variant as i64),
        parents: vec![parent],
        ..Route::new(key, vec![rule])
    }
}

pub fn cluster(number: usize) -> String {
    format!("outbound|{PORT}||svc-{number}.default.svc.cluster.local")
}

fn key(number: usize) -> ServiceKey {
    ServiceKey::new("default", format!("svc-{number}"))
}

/// What all sidecars of the benchmark are.
pub fn view() -> ViewKey {
    ViewKey::new(ProxyKind::Sidecar, Some("default"))
}

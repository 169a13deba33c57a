//! The mesh of a run and who its sidecars are: services alike in one namespace, or, by the options, in many
//! namespaces, with zones, with ports of their own, for standalone proxies.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use pilothouse::model::{
    Endpoint, EndpointSlice, EndpointState, ExportTo, Protocol, Service, ServiceKey, ServiceKind,
    ServicePort, SlicePort, Subset,
};
use pilothouse::names;
use pilothouse::view::{InboundPort, InboundProtocol, ProxyKind, ViewKey};

use crate::{Options, mesh};

/// Where the second, TCP port of each service is with `--inbound`.
const TCP_PORT: u16 = 9443;

/// The mesh as the options want it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    options: Options,
}

impl Shape {
    pub(crate) fn new(options: &Options) -> Self {
        Self { options: options.clone() }
    }

    fn is_spread(&self) -> bool {
        self.options.namespaces > 1
    }

    fn namespace(&self, number: usize) -> Arc<str> {
        match self.options.namespaces {
            0 | 1 => "default".into(),
            all => format!("ns-{}", number % all).into(),
        }
    }

    /// Every tenth service is visible in its own namespace only, of those that are there from the start.
    fn is_private(&self, service: usize) -> bool {
        self.is_spread()
            && service < self.options.services
            && (service % self.options.namespaces + service / self.options.namespaces)
                .is_multiple_of(10)
    }

    fn zone(&self, number: usize) -> Option<Arc<str>> {
        let zones = self.options.zones;
        (zones > 0).then(|| format!("zone-{}", number % zones).into())
    }

    fn key(&self, service: usize) -> ServiceKey {
        ServiceKey::new(self.namespace(service), format!("svc-{service}"))
    }

    fn port(&self, service: usize) -> u16 {
        mesh::PORT + (service % self.options.ports.max(1)) as u16
    }

    pub(crate) fn service(&self, number: usize) -> Service {
        let address = IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + number as u32));
        let http =
            ServicePort { name: "http".into(), port: self.port(number), protocol: Protocol::Http };
        let tcp = ServicePort { name: "tcp".into(), port: TCP_PORT, protocol: Protocol::Tcp };
        let ports = [http].into_iter().chain(self.options.inbound.then_some(tcp)).collect();
        let mut service =
            Service::new(self.key(number), ServiceKind::ClusterIp(vec![address]), ports);
        if self.is_private(number) {
            service.export_to = ExportTo::Only([self.namespace(number)].into());
        }
        service.prefers_own_zone = self.options.zones > 0 && number.is_multiple_of(3);
        service
    }

    fn pod(&self, service: usize, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(0x0a80_0000 + (service * self.options.endpoints + at) as u32)
    }

    /// `variant` changes the last endpoint's address.
    pub(crate) fn slice(&self, number: usize, variant: usize) -> EndpointSlice {
        let endpoints = (0..self.options.endpoints).map(|at| {
            let last = at + 1 == self.options.endpoints;
            let shift = if last { variant as u32 * 0x0001_0000 } else { 0 };
            let address = Ipv4Addr::from(u32::from(self.pod(number, at)) + shift);
            let zone = self.zone(at).unwrap_or_else(|| "zone-1".into());
            Endpoint {
                zone: Some(zone),
                ..Endpoint::new(IpAddr::V4(address), EndpointState::Ready)
            }
        });
        let [http, tcp] = self.target_ports(number);
        let http = SlicePort { name: "http".into(), port: http };
        let tcp = SlicePort { name: "tcp".into(), port: tcp };
        EndpointSlice {
            name: format!("svc-{number}-slice").into(),
            service: self.key(number),
            subsets: vec![Subset {
                ports: [http].into_iter().chain(self.options.inbound.then_some(tcp)).collect(),
                endpoints: endpoints.collect(),
            }],
        }
    }

    fn target_ports(&self, service: usize) -> [u16; 2] {
        match self.options.inbound {
            true => [10_000, 10_001].map(|port| port + 2 * (service % 20_000) as u16),
            false => [mesh::PORT, TCP_PORT],
        }
    }

    /// The first service from this one on that all sidecars see.
    pub(crate) fn public(&self, from: usize) -> usize {
        let all = (from..from + self.options.services).map(|one| one % self.options.services);
        all.into_iter().find(|one| !self.is_private(*one)).unwrap_or(from)
    }

    /// The clusters of a service.
    pub(crate) fn clusters(&self, service: usize) -> Vec<String> {
        let host = format!("svc-{service}.{}.svc.cluster.local", self.namespace(service));
        let ports = [self.port(service)].into_iter();
        let ports = ports.chain(self.options.inbound.then_some(TCP_PORT));
        ports.map(|port| names::outbound_cluster(port, &host)).collect()
    }

    /// The clusters at the start that all sidecars see.
    pub(crate) fn public_clusters(&self) -> Vec<String> {
        let seen = (0..self.options.services).filter(|one| !self.is_private(*one));
        seen.flat_map(|one| self.clusters(one)).collect()
    }

    /// Those that only this sidecar's namespace sees.
    pub(crate) fn own_clusters(&self, sidecar: usize) -> Vec<String> {
        if !self.is_spread() || self.options.listen_ports > 0 {
            return Vec::new();
        }
        let own = (self.home(sidecar)..self.options.services).step_by(self.options.namespaces);
        own.filter(|one| self.is_private(*one)).flat_map(|one| self.clusters(one)).collect()
    }

    /// With `--on-demand`, the clusters that a sidecar uses: of ten services, and of the first one if it is one
    /// of its users.
    pub(crate) fn used_clusters(&self, sidecar: usize) -> Vec<String> {
        let others = self.options.services.saturating_sub(1).max(1);
        let used = (0..10).map(|at| 1 + (sidecar * 7 + at) % others);
        let changing = (sidecar < self.options.users).then_some(0);
        let used = changing.into_iter().chain(used).filter(|one| *one < self.options.services);
        used.take(10).flat_map(|one| self.clusters(one)).collect()
    }

    /// The number of a sidecar's namespace.
    fn home(&self, sidecar: usize) -> usize {
        if self.options.one_namespace || self.options.namespaces == 0 {
            return 0;
        }
        sidecar % self.options.namespaces
    }

    /// The route tables that sidecars ask for.
    pub(crate) fn tables(&self) -> Vec<String> {
        if self.options.listen_ports > 0 {
            return vec![names::STANDALONE_TABLE.to_owned()];
        }
        let ports = (0..self.options.tables).map(|at| self.port(at));
        ports.map(|port| port.to_string()).collect()
    }

    /// What a sidecar's view is.
    pub(crate) fn view(&self, sidecar: usize) -> ViewKey {
        if self.options.listen_ports > 0 {
            let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let port = self.listen_port(sidecar);
            return ViewKey::new(ProxyKind::Standalone { address, port }, None);
        }
        let mut view = ViewKey::new(ProxyKind::Sidecar, Some(&*self.namespace(self.home(sidecar))));
        view.zone = self.zone(sidecar);
        if self.options.pods {
            let [http, tcp] = self.target_ports(sidecar % self.options.services);
            let ports = [
                InboundPort::new(http, InboundProtocol::Http),
                InboundPort::new(tcp, InboundProtocol::Tcp),
            ];
            view.inbound = ports.into_iter().take(1 + usize::from(self.options.inbound)).collect();
        }
        view
    }

    fn listen_port(&self, sidecar: usize) -> u16 {
        15_100 + (sidecar % self.options.listen_ports.max(1)) as u16
    }

    /// What a sidecar says of itself.
    pub(crate) fn node(&self, sidecar: usize) -> Node {
        let cluster = "bench".to_owned();
        if self.options.listen_ports > 0 {
            let port =
                Value { kind: Some(Kind::StringValue(self.listen_port(sidecar).to_string())) };
            let fields = [("LISTEN_PORT".to_owned(), port)].into();
            let metadata = Some(Struct { fields });
            return Node { id: format!("edge-{sidecar}"), cluster, metadata, ..Node::default() };
        }
        let namespace = self.namespace(self.home(sidecar));
        let services = self.options.services;
        let address = match self.options.pods {
            true => self.pod(sidecar % services, sidecar / services % self.options.endpoints),
            false => Ipv4Addr::from(0x0a00_0000 + sidecar as u32),
        };
        let id =
            format!("sidecar~{address}~pod-{sidecar}.{namespace}~{namespace}.svc.cluster.local");
        let discovery = Value { kind: Some(Kind::StringValue("on-demand".to_owned())) };
        let metadata = self
            .options
            .on_demand
            .then(|| Struct { fields: [("DISCOVERY".to_owned(), discovery)].into() });
        let locality = self
            .zone(sidecar)
            .map(|zone| Locality { zone: zone.to_string(), ..Locality::default() });
        Node { id, cluster, locality, metadata, ..Node::default() }
    }
}

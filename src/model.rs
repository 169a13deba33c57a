//! The mesh in plain Rust: services, their ports, their endpoints.
//!
//! Uses `names` alone (an alias names its service by its host), knows neither Kubernetes' types nor Envoy's and has no async: sources turn what they see into
//! [`Change`]s, [`Model::apply`] says which services a change really touched, and everything
//! downstream works on those alone. The maps are persistent ([`imbl`]), so a reader (the debug
//! pages) gets a consistent copy in O(1) while the one writer, `publish`, goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use imbl::OrdMap;

mod about;
mod alias;
mod export_to;
mod tuning;
mod unserved;

pub use about::{About, Labels, TargetPort};
pub use export_to::ExportTo;
pub use tuning::{Balance, Limits, Outliers, Tuning};
pub use unserved::unserved_ports;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// The virtual addresses of the service, the primary family first. None at all where nobody
    /// assigned one, as in a folder of manifests: HTTP still reaches the service by Host, but
    /// there is no address for a TCP listener.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: DNS answers with the endpoints themselves.
    Headless,
    /// A DNS alias to this name, which is absolute and has no dot at its end; has no endpoints of its
    /// own.
    ExternalName(Arc<str>),
    /// The same of a service of the mesh, with which it shares everything but its own names. Made
    /// by [`Model::resolved`], never by a source.
    Alias(Arc<Service>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// What a port speaks, decided by the source from `appProtocol` and the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    /// TLS by the application, not ours to read.
    Tls,
    Tcp,
}

impl Protocol {
    /// Whether requests are routed by Host (HTTP connection manager and RDS).
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether the upstream is spoken to in HTTP/2 without negotiation.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Istio's spelling, as shown in registryz.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
        }
    }
}

/// One port of a service. Endpoints are matched to it by `name`, never by number (KEP-752).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the single unnamed port.
    pub name: Arc<str>,
    /// 1 to 65535.
    pub port: u16,
    pub protocol: Protocol,
}

/// Something in a service that is wrong and therefore left out or replaced by its default, while
/// the rest of the service is served. Shown to people, means nothing to proxies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaw {
    /// Where: the field's path, as in `metadata.annotations[pilothouse.io/retries]`.
    pub field: Arc<str>,
    /// What is wrong, and what is done instead.
    pub reason: Arc<str>,
}

impl Flaw {
    pub fn new(field: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub kind: ServiceKind,
    /// TCP ports only (UDP and SCTP are skipped by the source), no number twice.
    pub ports: Vec<ServicePort>,
    /// The address families that it is for, the primary one first; none where it does not say.
    pub families: Vec<IpFamily>,
    /// Boxed: most services have the default, and it is large beside the rest.
    pub tuning: Box<Tuning>,
    pub export_to: ExportTo,
    /// `trafficDistribution`: proxies use endpoints of their own zone while there are any.
    pub prefers_own_zone: bool,
    /// `internalTrafficPolicy: Local`: proxies use endpoints of their own node alone.
    pub node_local: bool,
    /// What of it is not honoured, in the order in which the source found it. A change of these
    /// alone counts as a change, since readers must see it; proxies are not sent anything for it.
    pub flaws: Vec<Flaw>,
    /// Shown only, and a change of it counts as one of the flaws does. Boxed, as many have none.
    pub about: Box<About>,
    /// RFC 3339, empty if unknown. Shown, never compared for routing.
    pub created: Arc<str>,
    /// Kubernetes' resourceVersion, empty if unknown. Shown only; not part of "did it change".
    pub resource_version: Arc<str>,
}

/// Whether an endpoint may get traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    Ready,
    /// Terminating and still serving: used by nobody while a ready one is left.
    Draining,
    /// Neither ready nor serving.
    NotReady,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub state: EndpointState,
    pub zone: Option<Arc<str>>,
    /// The zones that Kubernetes means it for (hints); empty if it says nothing.
    pub for_zones: Box<[Arc<str>]>,
    pub node: Option<Arc<str>>,
    /// The pod's own DNS label under a headless service.
    pub hostname: Option<Arc<str>>,
    /// The same for the addresses of one pod, which has two of them in a dual-stack cluster, and
    /// different for different pods.
    pub pod: Option<NonZeroU64>,
    /// The pod's name; shown only.
    pub pod_name: Option<Arc<str>>,
}

impl Endpoint {
    /// An endpoint of which nothing else is known.
    pub fn new(address: IpAddr, state: EndpointState) -> Self {
        Self {
            address,
            state,
            zone: None,
            for_zones: Box::default(),
            node: None,
            hostname: None,
            pod: None,
            pod_name: None,
        }
    }

    /// Whether requests may go there, if only while nothing better is left.
    pub fn is_usable(&self) -> bool {
        self.state != EndpointState::NotReady
    }
}

/// The number behind a port name, as one slice has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Empty for the unnamed port.
    pub name: Arc<str>,
    pub port: u16,
}

/// Endpoints that share a list of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

/// One EndpointSlice (always one subset) or one core/v1 Endpoints object (any number).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The slice's own name, unique within the namespace; `endpoints/SERVICE` for an Endpoints
    /// object.
    pub name: Arc<str>,
    /// The service it belongs to (label `kubernetes.io/service-name`), in the slice's namespace.
    pub service: ServiceKey,
    pub subsets: Vec<Subset>,
}

/// What a Node's labels say of the endpoints on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// `topology.kubernetes.io/zone` and `…/region`.
    pub zone: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
}

/// How far a relist reaches: everything, or one watched namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Namespace(Arc<str>),
}

impl Scope {
    fn covers(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => **own == *namespace,
        }
    }
}

/// What a source saw.
#[derive(Clone, Debug)]
pub enum Change {
    Service(Service),
    ServiceGone(ServiceKey),
    Slice(EndpointSlice),
    SliceGone {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// The complete list within a scope: what is not in it is gone, in one step. Shared with a
    /// source that keeps what it has read.
    Services(Scope, Vec<Arc<Service>>),
    Slices(Scope, Vec<Arc<EndpointSlice>>),
    /// Nodes, if they are watched at all.
    Node(Node),
    NodeGone(Arc<str>),
    Nodes(Vec<Node>),
    /// Every watch has listed once; before this nothing may be served.
    Synced,
}

/// The slices of a service by their names. Cloning is O(1).
pub type SlicesOfService = OrdMap<Arc<str>, Arc<EndpointSlice>>;

/// All that is known of the mesh. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: OrdMap<ServiceKey, Arc<Service>>,
    slices: OrdMap<ServiceKey, SlicesOfService>,
    /// (namespace, slice name) → service, because a deletion names the slice alone and because a
    /// slice may be moved to another service by its label.
    owners: OrdMap<(Arc<str>, Arc<str>), ServiceKey>,
    nodes: OrdMap<Arc<str>, Node>,
    /// The region of each zone, from the nodes; if they disagree, the first by name is believed.
    regions: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Model {
    /// Takes a change in and adds to `dirty` the services that it really touched.
    ///
    /// A change that says what is already known touches nothing: watches repeat themselves, and a
    /// repetition must not wake ten thousand proxies.
    pub fn apply(&mut self, change: Change, dirty: &mut BTreeSet<ServiceKey>) {
        match change {
            Change::Service(service) => self.put_service(Arc::new(service), dirty),
            Change::ServiceGone(key) => self.remove_service(&key, dirty),
            Change::Slice(slice) => self.put_slice(Arc::new(slice), dirty),
            Change::SliceGone { namespace, name } => self.remove_slice(&(namespace, name), dirty),
            Change::Services(scope, list) => {
                let kept: BTreeSet<_> = list.iter().map(|service| service.key.clone()).collect();
                let gone: Vec<_> = self
                    .services
                    .keys()
                    .filter(|key| scope.covers(&key.namespace) && !kept.contains(key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.remove_service(&key, dirty);
                }
                for service in list {
                    self.put_service(service, dirty);
                }
            }
            Change::Slices(scope, list) => {
                let kept: BTreeSet<_> =
                    list.iter().map(|slice| (&slice.service.namespace, &slice.name)).collect();
                let gone: Vec<_> = self
                    .owners
                    .keys()
                    .filter(|key| scope.covers(&key.0) && !kept.contains(&(&key.0, &key.1)))
                    .cloned()
                    .collect();
                for key in gone {
                    self.remove_slice(&key, dirty);
                }
                for slice in list {
                    self.put_slice(slice, dirty);
                }
            }
            Change::Node(node) => {
                let known = self.nodes.insert(node.name.clone(), node.clone());
                if known.as_ref() != Some(&node) {
                    self.find_regions(dirty);
                }
            }
            Change::NodeGone(name) => {
                if self.nodes.remove(&name).is_some() {
                    self.find_regions(dirty);
                }
            }
            Change::Nodes(list) => {
                self.nodes = list.into_iter().map(|node| (node.name.clone(), node)).collect();
                self.find_regions(dirty);
            }
            Change::Synced => {}
        }
    }

    /// The region of each zone, as far as known.
    pub fn regions(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.regions
    }

    /// Zones hardly ever change their region, so when one does, every service may be looked at.
    fn find_regions(&mut self, dirty: &mut BTreeSet<ServiceKey>) {
        let mut regions = BTreeMap::new();
        for node in self.nodes.values() {
            if let (Some(zone), Some(region)) = (&node.zone, &node.region) {
                regions.entry(zone.clone()).or_insert_with(|| region.clone());
            }
        }
        if regions != *self.regions {
            self.regions = Arc::new(regions);
            dirty.extend(self.slices.keys().cloned());
        }
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Every service, in the order of its key.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The slices of a service, in the order of their names; none if it has none.
    pub fn slices(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(key).into_iter().flat_map(OrdMap::values)
    }

    /// The same as they are now, to be kept.
    pub fn slices_of(&self, key: &ServiceKey) -> SlicesOfService {
        self.slices.get(key).cloned().unwrap_or_default()
    }

    /// Every service that has slices, whether or not there is a Service of that name, in order.
    pub fn sliced_services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.slices.keys()
    }

    /// Ports behind which nothing is ready or draining, in the order of services. Aliases have no
    /// endpoints to miss.
    pub fn ports_without_endpoints(&self) -> impl Iterator<Item = (&Arc<Service>, &ServicePort)> {
        let expected =
            |service: &&Arc<Service>| !matches!(service.kind, ServiceKind::ExternalName(_));
        self.services().filter(expected).flat_map(move |service| {
            let reached: BTreeSet<&str> = self
                .slices(&service.key)
                .flat_map(|slice| &slice.subsets)
                .filter(|subset| subset.endpoints.iter().any(Endpoint::is_usable))
                .flat_map(|subset| subset.ports.iter().map(|port| &*port.name))
                .collect();
            let unreached = move |port: &&ServicePort| !reached.contains(&*port.name);
            service.ports.iter().filter(unreached).map(move |port| (service, port))
        })
    }

    /// What is wrong with services that are served all the same, aliases that lead nowhere
    /// included, in the order of services.
    pub fn flaws(&self, domain: &str) -> impl Iterator<Item = (ServiceKey, Flaw)> {
        self.services().flat_map(move |service| {
            let resolved = self.resolved(&service.key, domain);
            let flaws = resolved.map(|resolved| resolved.flaws.clone()).unwrap_or_default();
            flaws.into_iter().map(|flaw| (service.key.clone(), flaw))
        })
    }

    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    pub fn slice_count(&self) -> usize {
        self.owners.len()
    }

    fn put_service(&mut self, service: Arc<Service>, dirty: &mut BTreeSet<ServiceKey>) {
        match self.services.get(&service.key) {
            Some(known) if known.same_meaning(&service) => return,
            _ => dirty.insert(service.key.clone()),
        };
        self.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: &ServiceKey, dirty: &mut BTreeSet<ServiceKey>) {
        if self.services.remove(key).is_some() {
            dirty.insert(key.clone());
        }
    }

    fn put_slice(&mut self, slice: Arc<EndpointSlice>, dirty: &mut BTreeSet<ServiceKey>) {
        let id = (slice.service.namespace.clone(), slice.name.clone());
        if self.owners.get(&id).is_some_and(|owner| *owner != slice.service) {
            self.remove_slice(&id, dirty);
        }
        let mut siblings = self.slices.get(&slice.service).cloned().unwrap_or_default();
        if siblings.get(&slice.name).is_some_and(|known| *known == slice) {
            return;
        }
        dirty.insert(slice.service.clone());
        self.owners.insert(id, slice.service.clone());
        let service = slice.service.clone();
        siblings.insert(slice.name.clone(), slice);
        self.slices.insert(service, siblings);
    }

    fn remove_slice(&mut self, id: &(Arc<str>, Arc<str>), dirty: &mut BTreeSet<ServiceKey>) {
        let Some(owner) = self.owners.remove(id) else { return };
        if let Some(mut siblings) = self.slices.remove(&owner) {
            siblings.remove(&id.1);
            // An empty entry for every service that ever was would be a slow leak.
            if !siblings.is_empty() {
                self.slices.insert(owner.clone(), siblings);
            }
        }
        dirty.insert(owner);
    }
}

impl Service {
    /// A service of which nothing else is known.
    pub fn new(key: ServiceKey, kind: ServiceKind, ports: Vec<ServicePort>) -> Self {
        Self {
            key,
            kind,
            ports,
            families: Vec::new(),
            tuning: Box::default(),
            export_to: ExportTo::default(),
            prefers_own_zone: false,
            node_local: false,
            flaws: Vec::new(),
            about: Box::default(),
            created: "".into(),
            resource_version: "".into(),
        }
    }

    /// Equal in all that proxies can notice, or people should.
    fn same_meaning(&self, other: &Self) -> bool {
        let Self {
            key,
            kind,
            ports,
            families,
            tuning,
            export_to,
            prefers_own_zone,
            node_local,
            flaws,
            about,
            created: _,
            resource_version: _,
        } = self;
        *key == other.key
            && *kind == other.kind
            && *ports == other.ports
            && *families == other.families
            && *tuning == other.tuning
            && *export_to == other.export_to
            && *prefers_own_zone == other.prefers_own_zone
            && *node_local == other.node_local
            && *flaws == other.flaws
            && *about == other.about
    }

    /// The addresses that DNS gives for the service; none if headless or an alias.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::ClusterIp(addresses) => addresses,
            ServiceKind::Headless | ServiceKind::ExternalName(_) | ServiceKind::Alias(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests;

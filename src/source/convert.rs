//! The one place where a Kubernetes object becomes ours, so that a manifest and a watch event mean
//! the same.
//!
//! What is wrong with a part of an object (a port, an endpoint) is collected beside the result: an
//! object from the API server loses that part alone, a manifest is refused with the field's path.
//! What is wrong with the whole is a [`Rejection`]. Everything is checked again even though an API
//! server has checked it: a dotted service name would forge the host of another namespace.
//!
//! Semantics of absent fields follow the API's documentation (discovery/v1 and core/v1). Repeated
//! strings are interned, so 100,000 endpoints cost their addresses and little else.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{
    Endpoint, EndpointSlice, EndpointState, ExportTo, Flaw, IpFamily, Service, ServiceKey,
    ServiceKind, ServicePort, SlicePort, Subset,
};

mod about;
mod export_to;
mod intern;
mod names;
mod protocol;
mod tuning;

use intern::Strings;
pub(super) use names::is_dns_label;
use names::{dns_name, require_dns_label};
use protocol::protocol_of;
use tuning::tuning_of;

/// The label that says whose endpoints a slice holds.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Rejection {
    /// The field's path, as in `spec.ports[1].port`.
    pub field: String,
    pub reason: String,
}

impl Rejection {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// An object of the model and what was left out of it.
#[derive(Clone, Debug)]
pub struct Converted<T> {
    pub value: T,
    /// Parts left out because they are wrong. A manifest with any is refused as a whole.
    pub flaws: Vec<Rejection>,
    /// Parts left out because there is no use for them, though they are legal.
    pub notes: Vec<Rejection>,
}

/// Turns Kubernetes' objects into the model's. Keeps the strings that objects have in common.
#[derive(Debug, Default)]
pub struct Converter {
    strings: Strings,
}

impl Converter {
    /// UDP and SCTP ports are left out without a word: a proxy of ours has no business with them.
    pub fn service(&mut self, from: &core::Service) -> Result<Converted<Service>, Rejection> {
        let key = self.key(&from.metadata)?;
        let Some(spec) = &from.spec else {
            return Err(Rejection::new("spec", "missing"));
        };
        let mut flaws = Vec::new();
        let kind = self.kind(spec, &mut flaws)?;
        let ports = self.service_ports(spec, &mut flaws);
        let portless = spec.ports.as_ref().is_none_or(Vec::is_empty);
        if portless && matches!(kind, ServiceKind::ClusterIp(_)) {
            flaws.push(Rejection::new("spec.ports", "a service needs at least one port"));
        }
        // Not among the flaws that a manifest is refused for: a bad value costs nothing but itself.
        let mut values = Vec::new();
        let tuning = tuning_of(&from.metadata, spec, &mut values);
        let export_to = self.export_to(&from.metadata, &key, &mut values);
        let all = flaws.iter().chain(&values);
        let created = from.metadata.creation_timestamp.as_ref();
        let value = Service {
            export_to,
            prefers_own_zone: spec.traffic_distribution.as_deref().is_some_and(prefers_own_zone),
            created: created.map(|at| at.0.to_string()).unwrap_or_default().into(),
            resource_version: from.metadata.resource_version.as_deref().unwrap_or_default().into(),
            families: families(spec),
            tuning: Box::new(tuning),
            flaws: all.map(|flaw| Flaw::new(&*flaw.field, &*flaw.reason)).collect(),
            about: Box::new(about::about(&from.metadata, spec, &mut self.strings)),
            ..Service::new(key, kind, ports)
        };
        Ok(Converted { value, flaws, notes: values })
    }

    /// `None` for a slice that is of no service. One of DNS names counts, with a note, as empty:
    /// kube-proxy passes it over as well, and somebody may be looking for it.
    pub fn slice(
        &mut self,
        from: &discovery::EndpointSlice,
    ) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
        let family = match from.address_type.as_str() {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            "FQDN" => None,
            "" => return Err(Rejection::new("addressType", "missing (IPv4 or IPv6)")),
            other => {
                let reason = format!("{other:?} is none of IPv4, IPv6 and FQDN");
                return Err(Rejection::new("addressType", reason));
            }
        };
        let labels = from.metadata.labels.as_ref();
        let Some(owner) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else {
            return Ok(None);
        };
        require_dns_label(format!("metadata.labels[{SERVICE_NAME_LABEL}]"), owner)?;
        let service = self.key_of(&from.metadata, owner)?;
        let name = dns_name("metadata.name", from.metadata.name.as_deref())?;

        let (mut flaws, mut notes) = (Vec::new(), Vec::new());
        let Some(family) = family else {
            notes
                .push(Rejection::new("addressType", "FQDN: endpoints must be addresses, left out"));
            let value = EndpointSlice { name: name.into(), service, subsets: Vec::new() };
            return Ok(Some(Converted { value, flaws, notes }));
        };
        let mut ports = Vec::new();
        for (index, port) in from.ports.iter().flatten().enumerate() {
            let field = format!("ports[{index}]");
            let Some(number) = port.port else {
                notes.push(Rejection::new(field + ".port", "left out: no number means every port"));
                continue;
            };
            let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
            self.slice_port(&mut ports, &field, name, number, protocol, &mut flaws);
        }
        if from.ports.as_ref().is_none_or(Vec::is_empty) && !from.endpoints.is_empty() {
            notes.push(Rejection::new("ports", "none, so that no port leads to these endpoints"));
        }
        let mut endpoints = Vec::with_capacity(from.endpoints.len());
        for (index, endpoint) in from.endpoints.iter().enumerate() {
            // Kubernetes: addresses are fungible and only the first is to be used.
            let field = format!("endpoints[{index}].addresses[0]");
            let Some(address) = endpoint.addresses.first() else {
                flaws.push(Rejection::new(field, "missing"));
                continue;
            };
            match parse_host(&field, address) {
                Ok(address) if IpFamily::of(address) != family => {
                    let reason = format!("{address} in a slice of {} addresses", from.address_type);
                    flaws.push(Rejection::new(field, reason));
                }
                Ok(address) => endpoints.push(Endpoint {
                    address,
                    state: endpoint_state(endpoint.conditions.as_ref()),
                    zone: self.strings.optional(endpoint.zone.as_deref()),
                    for_zones: self.for_zones(endpoint.hints.as_ref()),
                    node: self.strings.optional(endpoint.node_name.as_deref()),
                    hostname: self.strings.optional(endpoint.hostname.as_deref()),
                    pod: endpoint.target_ref.as_ref().and_then(pod_of),
                    pod_name: endpoint.target_ref.as_ref().and_then(about::pod_name),
                }),
                Err(flaw) => flaws.push(flaw),
            }
        }
        let subset = self.subset(ports, endpoints);
        let value = EndpointSlice { name: name.into(), service, subsets: vec![subset] };
        Ok(Some(Converted { value, flaws, notes }))
    }

    /// A core/v1 Endpoints object, which belongs to the service of its own name.
    pub fn endpoints(
        &mut self,
        from: &core::Endpoints,
    ) -> Result<Converted<EndpointSlice>, Rejection> {
        let service = self.key(&from.metadata)?;
        let mut flaws = Vec::new();
        let mut subsets = Vec::new();
        for (index, subset) in from.subsets.iter().flatten().enumerate() {
            let field = format!("subsets[{index}]");
            let mut ports = Vec::new();
            for (index, port) in subset.ports.iter().flatten().enumerate() {
                let field = format!("{field}.ports[{index}]");
                let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
                self.slice_port(&mut ports, &field, name, port.port, protocol, &mut flaws);
            }
            let (ready, waiting) = (&subset.addresses, &subset.not_ready_addresses);
            let lists = [
                ("addresses", ready, EndpointState::Ready),
                ("notReadyAddresses", waiting, EndpointState::NotReady),
            ];
            let mut endpoints = Vec::new();
            for (list, addresses, state) in lists {
                for (index, address) in addresses.iter().flatten().enumerate() {
                    match parse_host(&format!("{field}.{list}[{index}].ip"), &address.ip) {
                        Ok(ip) => endpoints.push(Endpoint {
                            address: ip,
                            state,
                            zone: None,
                            for_zones: Box::default(),
                            node: self.strings.optional(address.node_name.as_deref()),
                            hostname: self.strings.optional(address.hostname.as_deref()),
                            pod: None,
                            pod_name: address.target_ref.as_ref().and_then(about::pod_name),
                        }),
                        Err(flaw) => flaws.push(flaw),
                    }
                }
            }
            subsets.push(self.subset(ports, endpoints));
        }
        let name = endpoints_name(&service.name);
        Ok(Converted { value: EndpointSlice { name, service, subsets }, flaws, notes: Vec::new() })
    }

    /// Namespace and name of an object that is, or is named like, a service.
    fn key(&mut self, metadata: &ObjectMeta) -> Result<ServiceKey, Rejection> {
        let name = metadata.name.as_deref().unwrap_or_default();
        require_dns_label("metadata.name", name)?;
        self.key_of(metadata, name)
    }

    fn key_of(&mut self, metadata: &ObjectMeta, name: &str) -> Result<ServiceKey, Rejection> {
        let namespace = namespace_of(metadata);
        require_dns_label("metadata.namespace", namespace)?;
        Ok(ServiceKey { namespace: self.strings.get(namespace), name: self.strings.get(name) })
    }

    fn export_to(
        &mut self,
        metadata: &ObjectMeta,
        key: &ServiceKey,
        flaws: &mut Vec<Rejection>,
    ) -> ExportTo {
        let annotations = metadata.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(export_to::ANNOTATION));
        let text = text.map(String::as_str);
        export_to::export_to(text, &key.namespace, &mut self.strings).unwrap_or_else(|reason| {
            let field = format!("metadata.annotations[{}]", export_to::ANNOTATION);
            flaws.push(Rejection::new(field, reason));
            ExportTo::Everyone
        })
    }

    fn kind(
        &mut self,
        spec: &core::ServiceSpec,
        flaws: &mut Vec<Rejection>,
    ) -> Result<ServiceKind, Rejection> {
        match spec.type_.as_deref().unwrap_or("ClusterIP") {
            "ClusterIP" | "NodePort" | "LoadBalancer" => {}
            "ExternalName" => {
                let target = spec.external_name.as_ref().map(|name| name.to_ascii_lowercase());
                let target = target.as_deref().map(|name| name.trim_end_matches('.'));
                let name = dns_name("spec.externalName", target)?;
                return Ok(ServiceKind::ExternalName(name.into()));
            }
            other => {
                let reason =
                    format!("{other:?} is none of ClusterIP, NodePort, LoadBalancer, ExternalName");
                return Err(Rejection::new("spec.type", reason));
            }
        }
        // clusterIPs repeats clusterIP as its first; manifests often have only the latter.
        let plural = spec.cluster_ips.as_deref().unwrap_or_default();
        let (field, addresses) = match (&spec.cluster_ip, plural) {
            (Some(one), []) => ("spec.clusterIP", std::slice::from_ref(one)),
            (_, many) => ("spec.clusterIPs", many),
        };
        if addresses.first().is_some_and(|first| first == "None") {
            return Ok(ServiceKind::Headless);
        }
        let mut parsed = Vec::with_capacity(addresses.len());
        for address in addresses.iter().filter(|address| !address.is_empty()) {
            match parse_host(field, address) {
                Ok(address) => parsed.push(address),
                Err(flaw) => flaws.push(flaw),
            }
        }
        Ok(ServiceKind::ClusterIp(parsed))
    }

    fn service_ports(
        &mut self,
        spec: &core::ServiceSpec,
        flaws: &mut Vec<Rejection>,
    ) -> Vec<ServicePort> {
        let listed = spec.ports.as_deref().unwrap_or_default();
        let mut ports: Vec<ServicePort> = Vec::with_capacity(listed.len());
        let mut names = BTreeSet::new();
        for (index, port) in listed.iter().enumerate() {
            let field = format!("spec.ports[{index}]");
            let name = port.name.as_deref().unwrap_or_default();
            // Names are unique over all protocols; numbers only within one.
            if name.is_empty() && listed.len() > 1 {
                let reason = "missing: every port needs a name where there are several";
                flaws.push(Rejection::new(field + ".name", reason));
                continue;
            }
            if !names.insert(name) {
                let reason = format!("{name:?} is the name of an earlier port as well");
                flaws.push(Rejection::new(field + ".name", reason));
                continue;
            }
            let number = match check_port(&field, name, port.port, port.protocol.as_deref()) {
                Ok(Some(number)) => number,
                Ok(None) => continue,
                Err(flaw) => {
                    flaws.push(flaw);
                    continue;
                }
            };
            if ports.iter().any(|earlier| earlier.port == number) {
                let reason = format!("{number} is the number of an earlier port as well");
                flaws.push(Rejection::new(field + ".port", reason));
                continue;
            }
            let protocol = protocol_of(port.app_protocol.as_deref(), name);
            ports.push(ServicePort { name: self.strings.get(name), port: number, protocol });
        }
        ports.shrink_to_fit();
        ports
    }

    fn slice_port(
        &mut self,
        ports: &mut Vec<SlicePort>,
        field: &str,
        name: Option<&str>,
        number: i32,
        protocol: Option<&str>,
        flaws: &mut Vec<Rejection>,
    ) {
        let name = name.unwrap_or_default();
        match check_port(field, name, number, protocol) {
            Ok(Some(_)) if ports.iter().any(|earlier| *earlier.name == *name) => {
                let reason = format!("{name:?} is the name of an earlier port as well");
                flaws.push(Rejection::new(format!("{field}.name"), reason));
            }
            Ok(Some(port)) => ports.push(SlicePort { name: self.strings.get(name), port }),
            Ok(None) => {}
            Err(flaw) => flaws.push(flaw),
        }
    }

    /// Sorted, so that a controller that lists them in another order changes nothing.
    fn for_zones(&mut self, hints: Option<&discovery::EndpointHints>) -> Box<[Arc<str>]> {
        let zones = hints.into_iter().flat_map(|hints| hints.for_zones.iter().flatten());
        let zones: BTreeSet<_> =
            zones.filter_map(|zone| self.strings.optional(Some(&zone.name))).collect();
        zones.into_iter().collect()
    }

    fn subset(&mut self, mut ports: Vec<SlicePort>, mut endpoints: Vec<Endpoint>) -> Subset {
        ports.shrink_to_fit();
        endpoints.shrink_to_fit();
        Subset { ports, endpoints }
    }
}

/// The model's name for the Endpoints of a service. No slice can be called so, because of the
/// slash, which lets both kinds stand in one folder of manifests.
pub(super) fn endpoints_name(service: &str) -> Arc<str> {
    format!("endpoints/{service}").into()
}

/// `PreferClose` is the old name of `PreferSameZone`; a node is within a zone, so `PreferSameNode`
/// is served as that. Unknown values mean nothing, as the API's documentation wants it.
fn prefers_own_zone(traffic_distribution: &str) -> bool {
    matches!(traffic_distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode")
}

/// An object without a namespace is in `default`, as for kubectl.
pub(super) fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().filter(|given| !given.is_empty()).unwrap_or("default")
}

/// A TCP port's number; `None` for another protocol.
fn check_port(
    field: &str,
    name: &str,
    number: i32,
    protocol: Option<&str>,
) -> Result<Option<u16>, Rejection> {
    match protocol {
        None | Some("" | "TCP") => {}
        Some("UDP" | "SCTP") => return Ok(None),
        Some(other) => {
            let reason = format!("{other:?} is none of TCP, UDP and SCTP");
            return Err(Rejection::new(format!("{field}.protocol"), reason));
        }
    }
    if !name.is_empty() {
        require_dns_label(format!("{field}.name"), name)?;
    }
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => {
            let reason = format!("{number} is no port number (1 to 65535)");
            Err(Rejection::new(format!("{field}.port"), reason))
        }
    }
}

/// `ipFamilies`, which the API server fills in from `ipFamilyPolicy`. An empty list in a manifest.
fn families(spec: &core::ServiceSpec) -> Vec<IpFamily> {
    let mut families: Vec<_> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        })
        .collect();
    families.dedup();
    families
}

/// All that is asked of it, for each pair of addresses, is whether two are equal.
fn pod_of(target: &core::ObjectReference) -> Option<NonZeroU64> {
    if target.kind.as_deref() != Some("Pod") || target.name.is_none() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (&target.namespace, &target.name, &target.uid).hash(&mut hasher);
    NonZeroU64::new(hasher.finish())
}

/// The address of one host. Loopback is allowed, as demonstrations on one machine need it.
fn parse_host(field: &str, text: &str) -> Result<IpAddr, Rejection> {
    match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(Rejection::new(field, format!("{text} is not the address of one host")))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(Rejection::new(field, format!("{text:?} is no IP address"))),
    }
}

/// nil ready and nil serving mean true, nil terminating means false. `ready` counts even of a
/// terminating endpoint: that is what publishNotReadyAddresses sets.
fn endpoint_state(conditions: Option<&discovery::EndpointConditions>) -> EndpointState {
    let Some(conditions) = conditions else { return EndpointState::Ready };
    let (ready, serving) = (conditions.ready.unwrap_or(true), conditions.serving.unwrap_or(true));
    match (ready, serving, conditions.terminating.unwrap_or(false)) {
        (true, _, _) => EndpointState::Ready,
        (false, true, true) => EndpointState::Draining,
        (false, _, _) => EndpointState::NotReady,
    }
}

#[cfg(test)]
mod tests;

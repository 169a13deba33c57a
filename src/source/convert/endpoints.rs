//! EndpointSlices, and the older Endpoints, which are converted to the same.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::about;
use super::names::{is_dns_label, require_dns_label, require_subdomain};
use super::{
    Converted, Converter, Rejection, SERVICE_NAME_LABEL, check_port, endpoints_name, parse_host,
};
use crate::model::{Endpoint, EndpointSlice, EndpointState, IpFamily, SlicePort, Subset};

impl Converter {
    /// `None` for a slice without a service. A slice of DNS names becomes an empty one with a note, so
    /// that it is shown: kube-proxy ignores it as well.
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
        let owner = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        // A label may be empty; a Service's name may not.
        let Some(owner) = owner.filter(|owner| !owner.is_empty()) else {
            return Ok(None);
        };
        require_dns_label(format!("metadata.labels[{SERVICE_NAME_LABEL}]"), owner)?;
        let service = self.service_key(&from.metadata, owner)?;
        let name = from.metadata.name.as_deref().unwrap_or_default();
        require_subdomain("metadata.name", name)?;

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
            let place = format!("endpoints[{index}]");
            let field = format!("{place}.addresses[0]");
            let Some(address) = endpoint.addresses.first() else {
                flaws.push(Rejection::new(field, "missing"));
                continue;
            };
            match parse_host(&field, address) {
                Ok(address) if IpFamily::of_address(address) != family => {
                    let reason = format!("{address} in a slice of {} addresses", from.address_type);
                    flaws.push(Rejection::new(field, reason));
                }
                Ok(address) => endpoints.push(Endpoint {
                    address,
                    state: endpoint_state(endpoint.conditions.as_ref()),
                    zone: self.strings.optional(endpoint.zone.as_deref()),
                    for_zones: self.for_zones(endpoint.hints.as_ref()),
                    node: self.node(&place, endpoint.node_name.as_deref(), &mut flaws),
                    hostname: self.hostname(&place, endpoint.hostname.as_deref(), &mut flaws),
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

    /// A core/v1 Endpoints object, which belongs to the service of its own name. `None` where no
    /// service can have that name: one with dots is a lock of an old leader election, say.
    pub fn endpoints(
        &mut self,
        from: &core::Endpoints,
    ) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
        let name = from.metadata.name.as_deref().unwrap_or_default();
        require_subdomain("metadata.name", name)?;
        if !is_dns_label(name) {
            return Ok(None);
        }
        let service = self.key_from_name(&from.metadata)?;
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
                    let place = format!("{field}.{list}[{index}]");
                    match parse_host(&format!("{place}.ip"), &address.ip) {
                        Ok(ip) => endpoints.push(Endpoint {
                            address: ip,
                            state,
                            zone: None,
                            for_zones: Box::default(),
                            node: self.node(&place, address.node_name.as_deref(), &mut flaws),
                            hostname: self.hostname(
                                &place,
                                address.hostname.as_deref(),
                                &mut flaws,
                            ),
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
        let value = EndpointSlice { name, service, subsets };
        Ok(Some(Converted { value, flaws, notes: Vec::new() }))
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
            Ok(Some(port)) => ports.push(SlicePort { name: self.strings.intern(name), port }),
            Ok(None) => {}
            Err(flaw) => flaws.push(flaw),
        }
    }

    /// The hostname, if it is valid; else the endpoint has none.
    fn hostname(
        &mut self,
        place: &str,
        name: Option<&str>,
        flaws: &mut Vec<Rejection>,
    ) -> Option<Arc<str>> {
        self.valid_name(name, |name| require_dns_label(format!("{place}.hostname"), name), flaws)
    }

    /// The node's name, if it is valid.
    fn node(
        &mut self,
        place: &str,
        name: Option<&str>,
        flaws: &mut Vec<Rejection>,
    ) -> Option<Arc<str>> {
        self.valid_name(name, |name| require_subdomain(format!("{place}.nodeName"), name), flaws)
    }

    fn valid_name(
        &mut self,
        name: Option<&str>,
        check: impl FnOnce(&str) -> Result<(), Rejection>,
        flaws: &mut Vec<Rejection>,
    ) -> Option<Arc<str>> {
        let name = name.filter(|name| !name.is_empty())?;
        check(name).map_err(|flaw| flaws.push(flaw)).ok()?;
        self.strings.optional(Some(name))
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

/// A hash, since a pod's name needs more memory than its address and is only compared.
fn pod_of(target: &core::ObjectReference) -> Option<NonZeroU64> {
    if target.kind.as_deref() != Some("Pod") || target.name.is_none() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (&target.namespace, &target.name, &target.uid).hash(&mut hasher);
    NonZeroU64::new(hasher.finish())
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

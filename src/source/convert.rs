//! The one place where a Kubernetes object becomes ours, so that a manifest and a watch event mean
//! the same.
//!
//! Errors of a part of an object (a port, an endpoint) are collected beside the result: an object from
//! the API server loses that part alone, a manifest is refused with the field's path. An error of the
//! whole object is returned, as a [`Rejection`]. Everything is checked again even though an API
//! server has checked it: a dotted service name would forge the host of another namespace.
//!
//! Semantics of absent fields follow the API's documentation (discovery/v1 and core/v1). Repeated
//! strings are interned, so 100,000 endpoints cost their addresses and little else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{
    ENDPOINTS_PREFIX, ExportTo, Flaw, IpFamily, Service, ServiceKey, ServiceKind, ServicePort,
    unserved_ports,
};

mod about;
mod endpoints;
mod export_to;
mod intern;
mod names;
mod protocol;
pub mod route;
mod traffic_policy;

use intern::StringInterner;
use names::{require_dns_label, require_dns_name};
use protocol::protocol_of;
use traffic_policy::traffic_policy_of;

/// The label that says whose endpoints a slice holds.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Why an object, or a part of it, is not used, and which field is wrong.
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

/// Converts Kubernetes objects to the model's. Interns the strings that objects share.
#[derive(Debug, Default)]
pub struct Converter {
    strings: StringInterner,
}

impl Converter {
    /// Interns a string.
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        self.strings.intern(text)
    }

    /// UDP and SCTP ports are skipped without a note: proxies do not serve them.
    pub fn service(&mut self, from: &core::Service) -> Result<Converted<Service>, Rejection> {
        let key = self.key_from_name(&from.metadata)?;
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
        // Not among the flaws that a manifest is refused for: only the bad value itself is ignored.
        let mut notes = Vec::new();
        let traffic_policy = traffic_policy_of(&from.metadata, spec, &mut notes);
        let export_to = self.export_to(&from.metadata, &key, &mut notes);
        let mut all: Vec<_> =
            flaws.iter().chain(&notes).map(|flaw| Flaw::new(&*flaw.field, &*flaw.reason)).collect();
        // The target of an ExternalName is not resolved yet.
        if !matches!(kind, ServiceKind::ExternalName(_)) {
            all.extend(unserved_ports(&kind, &ports));
        }
        // DNS gives all pods of a headless service, whatever it says, and kube-proxy has no part in it.
        let node_local = matches!(kind, ServiceKind::ClusterIp(_))
            && spec.internal_traffic_policy.as_deref() == Some("Local");
        let created = from.metadata.creation_timestamp.as_ref();
        let value = Service {
            export_to,
            prefers_own_zone: spec.traffic_distribution.as_deref().is_some_and(prefers_own_zone),
            node_local,
            created: created.map(|at| at.0.to_string()).unwrap_or_default().into(),
            resource_version: from.metadata.resource_version.as_deref().unwrap_or_default().into(),
            families: families(spec),
            traffic_policy: Box::new(traffic_policy),
            flaws: all,
            about: Box::new(about::about(&from.metadata, spec, &mut self.strings)),
            ..Service::new(key, kind, ports)
        };
        Ok(Converted { value, flaws, notes })
    }

    /// Namespace and name of an object that is, or is named like, a service.
    fn key_from_name(&mut self, metadata: &ObjectMeta) -> Result<ServiceKey, Rejection> {
        let name = metadata.name.as_deref().unwrap_or_default();
        require_dns_label("metadata.name", name)?;
        self.service_key(metadata, name)
    }

    fn service_key(&mut self, metadata: &ObjectMeta, name: &str) -> Result<ServiceKey, Rejection> {
        let namespace = namespace_of(metadata);
        require_dns_label("metadata.namespace", namespace)?;
        Ok(ServiceKey {
            namespace: self.strings.intern(namespace),
            name: self.strings.intern(name),
        })
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
                // The trailing dot is optional: a CNAME is absolute either way.
                let target = target.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
                let name = target.unwrap_or_default();
                require_dns_name("spec.externalName", name)?;
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
            ports.push(ServicePort { name: self.strings.intern(name), port: number, protocol });
        }
        ports.shrink_to_fit();
        ports
    }
}

/// The model's name for the Endpoints of a service. No slice can have this name, so that both kinds
/// may be in one folder of manifests.
pub(super) fn endpoints_name(service: &str) -> Arc<str> {
    format!("{ENDPOINTS_PREFIX}{service}").into()
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

#[cfg(test)]
mod tests;

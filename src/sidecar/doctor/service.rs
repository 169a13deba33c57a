//! Why a service has nobody behind it, from whatever source tells of its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::finding::{Code, Finding};
use crate::names::PortProtocol;

/// A Service and what its EndpointSlices say, from Kubernetes or the control plane's pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceView {
    pub(super) cluster_ips: Vec<String>,
    /// An ExternalName: it has no endpoints by its nature.
    pub(super) external: bool,
    pub(super) ports: Vec<Port>,
    /// `None` if it is not known.
    pub(super) selector: Option<BTreeMap<String, String>>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Pods that the selector matches, with what keeps them from being ready; `None` if they
    /// cannot be seen.
    pub(super) pods: Option<Vec<(String, String)>>,
    /// Ports that the pods' containers declare; empty if they declare none, or cannot be seen.
    pub(super) container_ports: BTreeSet<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) spoken: PortProtocol,
    /// The target port as it is written, a number or a name; empty if it is not known.
    pub(super) target: String,
}

impl Default for Port {
    fn default() -> Self {
        Self { name: String::new(), port: 0, spoken: PortProtocol::Unknown, target: String::new() }
    }
}

/// One address; under no port at all if the slice has none (its pods do not have the target port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Names and numbers; 0 where the number is not known.
    pub(super) ports: BTreeMap<String, u16>,
    pub(super) address: Option<IpAddr>,
    pub(super) pod: Option<String>,
    pub(super) ready: bool,
}

/// What is wrong with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceFault {
    NoSuchPort(String),
    SelectsNoPod(String),
    PortMismatch(String),
    NotReady(String),
}

impl ServiceView {
    /// What is wrong with a port, or with the first that has something, if none is named.
    pub(super) fn fault(&self, port: Option<u16>) -> Option<ServiceFault> {
        if self.external {
            return None;
        }
        let wanted: Vec<&Port> =
            self.ports.iter().filter(|one| port.is_none_or(|port| one.port == port)).collect();
        if let ([], Some(port)) = (wanted.as_slice(), port) {
            let has: Vec<String> =
                self.ports.iter().map(|one| format!("{} ({})", one.port, one.name)).collect();
            return Some(ServiceFault::NoSuchPort(format!(
                "no port {port}; it has {}",
                has.join(", ")
            )));
        }
        if self.endpoints.is_empty() {
            return Some(match self.pods.as_deref() {
                Some(pods @ [_, ..]) => ServiceFault::NotReady(pod_states(pods)),
                _ => ServiceFault::SelectsNoPod(self.selection()),
            });
        }
        wanted.into_iter().find_map(|port| self.port_fault(port))
    }

    fn port_fault(&self, port: &Port) -> Option<ServiceFault> {
        let mut fitting = self.endpoints.iter().filter(|one| one.ports.contains_key(&port.name));
        let Some(first) = fitting.next() else {
            let has: BTreeSet<&str> = self
                .endpoints
                .iter()
                .flat_map(|one| one.ports.keys())
                .map(String::as_str)
                .collect();
            let has = if has.is_empty() {
                "no port of the Service at all".to_owned()
            } else {
                format!("only {has:?}")
            };
            let target = match &*port.target {
                "" => String::new(),
                target => format!(", targetPort {target:?}"),
            };
            return Some(ServiceFault::PortMismatch(format!(
                "port {} (name {:?}{target}), but its {} endpoints have {has}",
                port.port,
                port.name,
                self.endpoints.len(),
            )));
        };
        if first.ready || fitting.any(|one| one.ready) {
            return None;
        }
        Some(ServiceFault::NotReady(match self.pods.as_deref() {
            Some(pods @ [_, ..]) => pod_states(pods),
            _ => format!("{} endpoints, none of them ready", self.endpoints.len()),
        }))
    }

    /// Where the ready endpoints of a port are.
    pub(super) fn ready_addresses(&self, port: &Port) -> BTreeSet<SocketAddr> {
        let ready = self.endpoints.iter().filter(|one| one.ready);
        let ready_addresses = ready.filter_map(|one| {
            let number = one.ports.get(&port.name).filter(|number| **number != 0)?;
            Some(SocketAddr::new(one.address?, *number))
        });
        ready_addresses.collect()
    }

    /// The number that a port leads to, if no container of the pods declares it, and those that they
    /// do declare. A declaration is a hint for people, so this alone is no fault.
    pub(super) fn undeclared(&self, port: &Port) -> Option<String> {
        let ready_addresses = self.ready_addresses(port);
        let number = ready_addresses.first()?.port();
        if self.container_ports.is_empty() || self.container_ports.contains(&number) {
            return None;
        }
        let container_ports: Vec<String> =
            self.container_ports.iter().map(u16::to_string).collect();
        Some(format!(
            "its port {} leads to port {number} of the pods (targetPort {}), whose containers \
             declare {}",
            port.port,
            port.target,
            container_ports.join(", ")
        ))
    }

    fn selection(&self) -> String {
        match &self.selector {
            Some(selector) if selector.is_empty() => "it has no selector".to_owned(),
            Some(selector) => {
                let pairs: Vec<String> =
                    selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("its selector is {}", pairs.join(","))
            }
            None => "its selector is not known here".to_owned(),
        }
    }

    /// Reads a service of `/debug/registryz` and `/debug/endpointz`.
    pub(super) fn from_debug(registry: &Value, endpoints: &Value, host: &str) -> Option<Self> {
        let service = registry.as_array()?.iter().find(|one| one["hostname"] == host)?;
        let ports = service["ports"].as_array().into_iter().flatten().filter_map(|port| {
            let name = port["name"].as_str()?;
            // Without the Service's appProtocol; what came of both is there.
            let by_name = PortProtocol::from_port(None, name);
            let spoken = match (by_name, port["protocol"].as_str()) {
                (PortProtocol::Unknown, Some(told)) if told != "TCP" => {
                    PortProtocol::from_port(Some(told), name)
                }
                _ => by_name,
            };
            Some(Port {
                name: name.to_owned(),
                port: port["port"].as_u64()?.try_into().ok()?,
                spoken,
                target: String::new(),
            })
        });
        let namespaces = endpoints[host].as_object().into_iter().flatten();
        let shards = namespaces.filter_map(|(_, one)| one["Shards"].as_object()).flatten();
        let endpoints = shards.filter_map(|(_, list)| list.as_array()).flatten().map(|one| {
            let name = one["ServicePortName"].as_str().unwrap_or_default().to_owned();
            let number = one["EndpointPort"].as_u64().and_then(|port| port.try_into().ok());
            Endpoint {
                ports: [(name, number.unwrap_or_default())].into(),
                address: one["Addresses"][0].as_str().and_then(|address| address.parse().ok()),
                pod: None,
                ready: one["HealthStatus"] == 0,
            }
        });
        Some(Self {
            external: service["Resolution"] == 4,
            ports: ports.collect(),
            endpoints: endpoints.collect(),
            ..Self::default()
        })
    }
}

fn pod_states(pods: &[(String, String)]) -> String {
    let states: Vec<String> =
        pods.iter().take(3).map(|(name, state)| format!("{name} is {state}")).collect();
    let more = if pods.len() > 3 { format!(" and {} more", pods.len() - 3) } else { String::new() };
    format!("{}{more}", states.join(", "))
}

/// The fault of a service that somebody asked about.
pub(super) fn fault_finding(name: &str, fault: &ServiceFault) -> Finding {
    let (code, cause, fix) = match fault {
        ServiceFault::NoSuchPort(has) => (
            Code::ServicePortNotFound,
            format!("service {name} has {has}"),
            "ask for a port of the Service, not of its pods (kubectl get service)",
        ),
        ServiceFault::SelectsNoPod(selector) => (
            Code::ServiceSelectsNoPod,
            format!("service {name} has no endpoints: it matches no pod ({selector})"),
            "make the Service's selector and the pods' labels agree (kubectl get pods \
             --show-labels), or scale the workload up",
        ),
        ServiceFault::PortMismatch(port) => (
            Code::ServicePortMismatch,
            format!("service {name} has {port}"),
            "make the Service's targetPort, and the port's name, agree with a port of the pods' \
             containers",
        ),
        ServiceFault::NotReady(pods) => (
            Code::ServicePodsNotReady,
            format!("service {name} has no endpoint that is ready: {pods}"),
            "look at why the pods are not ready (kubectl describe pod, kubectl logs)",
        ),
    };
    Finding::new(code, cause, fix)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service_view(endpoints: &[(&[&str], bool)]) -> ServiceView {
        let port = Port {
            name: "http".to_owned(),
            port: 9080,
            spoken: PortProtocol::Http,
            target: "web".to_owned(),
        };
        let endpoint = |(ports, ready): &(&[&str], bool)| Endpoint {
            ports: ports.iter().map(|name| ((*name).to_owned(), 9999)).collect(),
            address: Some([10, 1, 2, 3].into()),
            pod: None,
            ready: *ready,
        };
        ServiceView {
            ports: vec![port],
            selector: Some([("app".to_owned(), "a".to_owned())].into()),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..ServiceView::default()
        }
    }

    #[test]
    fn each_fault_is_told_apart() {
        assert_eq!(service_view(&[(&["http"], false), (&["http"], true)]).fault(None), None);
        let fault = |service_view: ServiceView, port| {
            fault_finding("s", &service_view.fault(port).unwrap()).code
        };
        assert_eq!(fault(service_view(&[]), None), Code::ServiceSelectsNoPod);
        assert_eq!(fault(service_view(&[(&["http"], true)]), Some(80)), Code::ServicePortNotFound);
        assert_eq!(fault(service_view(&[(&[], true)]), None), Code::ServicePortMismatch);
        assert_eq!(fault(service_view(&[(&["other"], true)]), None), Code::ServicePortMismatch);
        assert_eq!(fault(service_view(&[(&["http"], false)]), None), Code::ServicePodsNotReady);
        // Pods that have no address yet are in no slice.
        let mut pending = service_view(&[]);
        pending.pods = Some(vec![("a-1".to_owned(), "Pending".to_owned())]);
        assert_eq!(fault(pending, None), Code::ServicePodsNotReady);
        let external = ServiceView { external: true, ..service_view(&[]) };
        assert_eq!(external.fault(None), None);
    }

    #[test]
    fn the_control_planes_pages_say_the_same() {
        let host = "a.default.svc.cluster.local";
        let registry = json!([{ "hostname": host, "Resolution": 0,
            "ports": [{ "name": "http", "port": 9080 }] }]);
        let read = |health: u64| {
            let endpoint = json!({ "ServicePortName": "http", "HealthStatus": health });
            let endpoints = json!({ host: { "default": { "Shards": { "k": [endpoint] } } } });
            ServiceView::from_debug(&registry, &endpoints, host).unwrap().fault(Some(9080))
        };
        assert_eq!(read(0), None);
        assert!(matches!(read(1), Some(ServiceFault::NotReady(_))));
        assert_eq!(ServiceView::from_debug(&registry, &json!({}), "b"), None);
    }

    #[test]
    fn a_target_port_that_no_container_declares_is_seen() {
        let mut service_view = service_view(&[(&["http"], true)]);
        let port = service_view.ports[0].clone();
        assert_eq!(service_view.undeclared(&port), None, "nobody declares anything");
        service_view.container_ports = [9080].into();
        let said = service_view.undeclared(&port).unwrap();
        assert!(said.contains("leads to port 9999") && said.contains("declare 9080"), "{said}");
        service_view.container_ports = [9080, 9999].into();
        assert_eq!(service_view.undeclared(&port), None);
    }
}

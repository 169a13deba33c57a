//! A service that is asked about: who is behind it, and whether that can be called.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::Walk;
use super::routes::ServiceRoutes;
use crate::names::{self, PortProtocol};
use crate::sidecar::doctor::ServiceName;
use crate::sidecar::doctor::endpoint_probe::probe_endpoints;
use crate::sidecar::doctor::endpoints::{self, ClusterCounters, service_cluster};
use crate::sidecar::doctor::finding::{Code, Finding};
use crate::sidecar::doctor::kubernetes::{ApiResult, Kubernetes};
use crate::sidecar::doctor::observations::Observations;
use crate::sidecar::doctor::service::{self, ServiceView};
use crate::sidecar::envoy_admin::EnvoyAdmin;

impl Walk<'_> {
    /// The service that was asked about: from Kubernetes if it may be looked at there, else from
    /// the control plane's pages, else from Envoy's clusters.
    pub(super) async fn service(
        &mut self,
        wanted: &ServiceName,
        namespace: &str,
        kubernetes: Option<&ApiResult<Kubernetes>>,
        seen: &Observations,
    ) -> Result<(), Finding> {
        let since = Instant::now();
        let name = format!("{namespace}/{}", wanted.name);
        let host = names::host(&wanted.name, namespace, &self.target.domain);
        let from_kubernetes = match kubernetes {
            Some(Ok(Kubernetes { service: Ok(service_view), .. })) => Some(service_view.clone()),
            _ => None,
        };
        let (source, service_view) = match from_kubernetes {
            Some(service_view) => ("Kubernetes", Some(service_view)),
            None => ("Pilot", self.service_by_pilot(&host, seen).await),
        };
        let page = self.clusters().await;
        let routes =
            self.service_routes((wanted, namespace), page.as_ref(), kubernetes, seen).await;
        let Some(service_view) = service_view else {
            let pages = (page.as_ref(), &routes);
            let examined = self.service_by_envoy(since, &name, &host, wanted.port, pages, seen);
            examined.await.map_err(|found| routes.facts.explain(&name, found))?;
            return self.routes(since, (wanted, namespace), &routes).await;
        };
        let Some(service_view) = service_view else {
            let finding = Finding::new(
                Code::ServiceNotFound,
                format!("there is no service {name}, says {source}"),
                "correct the name or namespace (kubectl get services -A), or create the Service",
            );
            return Err(self.broken("service", since, format!("{name}: none"), finding));
        };
        // Requests that rules lead elsewhere do not need its endpoints.
        let is_left = |port: u16| routes.facts.lead_away(&name, port);
        let needed = |port: &&service::Port| {
            wanted.port.is_none_or(|wanted| port.port == wanted) && !is_left(port.port)
        };
        let fault = match service_view.ports.iter().any(|port| is_left(port.port)) {
            false => service_view.fault(wanted.port),
            true => {
                let needed = service_view.ports.iter().filter(needed);
                let mut needed = needed.map(|port| port.port).peekable();
                match needed.peek() {
                    // A port that there is not is one that nobody leads away from.
                    None => wanted
                        .port
                        .filter(|port| !is_left(*port))
                        .and_then(|port| service_view.fault(Some(port))),
                    Some(_) => needed.find_map(|port| service_view.fault(Some(port))),
                }
            }
        };
        match fault {
            None => {
                let ready = service_view.endpoints.iter().filter(|one| one.ready).count();
                let ports = service_view.ports.iter().filter(needed);
                let ports = ports.filter(|_| !service_view.external);
                let ports = ports.map(|port| {
                    let port_to_probe = endpoints::PortToProbe {
                        port: port.port,
                        spoken: port.spoken,
                        addresses: service_view.ready_addresses(port).into_iter().collect(),
                        undeclared: service_view.undeclared(port),
                    };
                    (port_to_probe, Some(&*port.name))
                });
                let ports: Vec<_> = ports.collect();
                let said = format!("{name} has {ready} endpoints, says {source}");
                self.check_endpoints(since, (&name, &host), said, &ports, page.as_ref(), seen)
                    .await?;
                self.routes(Instant::now(), (wanted, namespace), &routes).await
            }
            Some(fault) => {
                let finding = service::fault_finding(&name, &fault);
                let said = finding.cause.clone();
                let finding = routes.facts.explain(&name, finding);
                Err(self.broken("service", since, said, finding))
            }
        }
    }

    /// `None` if the pages cannot be had.
    async fn service_by_pilot(
        &self,
        host: &str,
        seen: &Observations,
    ) -> Option<Option<ServiceView>> {
        let debug = self.target.debug.or_else(|| self.debug(seen.reached?));
        let pages = ["/debug/registryz", "/debug/endpointz"].map(|path| self.page(debug, path));
        let [registry, endpoints] = pages;
        let (registry, endpoints) = tokio::join!(registry, endpoints);
        Some(ServiceView::from_debug(&registry?, &endpoints?, host))
    }

    async fn service_by_envoy(
        &mut self,
        since: Instant,
        name: &str,
        host: &str,
        port: Option<u16>,
        (page, of_service): (Option<&Value>, &ServiceRoutes),
        seen: &Observations,
    ) -> Result<(), Finding> {
        let Some(page) = page else {
            let finding = Finding::new(
                Code::ServiceNotExamined,
                format!(
                    "service {name} cannot be looked at: neither in Kubernetes, nor in Pilot's \
                         pages, nor in an Envoy"
                ),
                "run it with a kubeconfig, or beside an Envoy, or give --debug-address",
            );
            return Err(self.broken("service", since, format!("{name}: could not look"), finding));
        };
        let clusters = page["cluster_statuses"].as_array().into_iter().flatten();
        let own: Vec<&Value> = clusters
            .filter(|cluster| {
                let parsed = service_cluster(cluster).and_then(names::ClusterName::parse);
                matches!(parsed, Some(names::ClusterName::Outbound { port: of, host: name })
                    if name == host && port.is_none_or(|port| port == of))
            })
            .collect();
        let is_needed =
            |one: &&&Value| match service_cluster(one).and_then(names::ClusterName::parse) {
                Some(names::ClusterName::Outbound { port, .. }) => {
                    !of_service.facts.lead_away(name, port)
                }
                _ => true,
            };
        let mut needed = own.iter().filter(is_needed);
        let empty = needed.find(|one| one["host_statuses"].as_array().is_none_or(Vec::is_empty));
        let (code, cause, fix) = match (own.as_slice(), empty) {
            ([], _) if seen.has_on_demand() => (
                Code::ServiceNotExamined,
                format!(
                    "service {name} cannot be looked at: neither in Kubernetes nor in Pilot's pages, and \
                     Envoy, whose clusters come on demand, has not called it"
                ),
                "run it with a kubeconfig, or give --debug-address, or call the service first",
            ),
            ([], _) => (
                Code::ServiceNotFound,
                format!("Envoy knows no cluster for service {name}"),
                "correct the name, namespace or port (kubectl get services -A)",
            ),
            (_, Some(cluster)) => (
                Code::ServiceNoEndpoints,
                format!("Envoy's cluster {} has no endpoints", cluster["name"]),
                "look at the Service's selector and its pods (kubectl get endpointslices); with a \
                 kubeconfig, doctor says which of them it is",
            ),
            (found, None) => {
                let ports: Vec<_> = found
                    .iter()
                    .filter_map(|one| port_of(one, &of_service.dump))
                    .map(|one| (one, None))
                    .collect();
                let said = format!("{name} has {} clusters in Envoy", found.len());
                return self
                    .check_endpoints(since, (name, host), said, &ports, Some(page), seen)
                    .await;
            }
        };
        Err(self.broken("service", since, cause.clone(), Finding::new(code, cause, fix)))
    }
    /// Whether the endpoints of these ports can be called; what their names say is worth a note.
    async fn check_endpoints(
        &mut self,
        since: Instant,
        (name, host): (&str, &str),
        said: String,
        ports: &[(endpoints::PortToProbe, Option<&str>)],
        clusters: Option<&Value>,
        seen: &Observations,
    ) -> Result<(), Finding> {
        let (own, limit) = (seen.own_addresses(), self.deadline.optional_step());
        let probes = ports
            .iter()
            .map(|(port, _)| probe_endpoints(&port.addresses, &own, (port.spoken, host), limit));
        let probes = futures::future::join_all(probes).await;
        for ((port, port_name), probes) in ports.iter().zip(probes) {
            let counts = clusters.map(|page| ClusterCounters::read(page, host, port.port));
            if let Some(finding) =
                endpoints::port_fault(name, port, &probes, counts.unwrap_or_default())
            {
                let said = finding.cause.clone();
                return Err(self.broken("service", since, said, finding));
            }
            let note = port_name.and_then(|port_name| endpoints::port_note(name, port, port_name));
            self.notes.extend(note);
        }
        self.well("service", since, said);
        Ok(())
    }

    /// Envoy's clusters with what it has counted, if there is an Envoy.
    async fn clusters(&self) -> Option<Value> {
        self.admin()?.json("/clusters?format=json").await
    }

    /// Envoy's routes as text: what a route leads to is spoken to as HTTP.
    pub(super) async fn routes_of_envoy(&self) -> String {
        let Some(admin) = self.admin() else { return String::new() };
        admin.get("/config_dump?resource=dynamic_route_configs").await.unwrap_or_default()
    }

    /// Envoy's admin, for pages that merely add to what is known.
    fn admin(&self) -> Option<EnvoyAdmin> {
        Some(EnvoyAdmin::new(self.target.admin?, self.deadline.optional_step()))
    }
}

/// A port as one of Envoy's clusters has it.
fn port_of(cluster: &Value, routes: &str) -> Option<endpoints::PortToProbe> {
    let name = cluster["name"].as_str()?;
    let Some(names::ClusterName::Outbound { port, host }) = names::ClusterName::parse(name) else {
        return None;
    };
    let by_address = host.parse::<std::net::IpAddr>().is_ok();
    let hosts = cluster["host_statuses"].as_array().into_iter().flatten();
    let addresses = hosts.filter_map(|host| {
        let address = &host["address"]["socket_address"];
        let ip = address["address"].as_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, address["port_value"].as_u64()?.try_into().ok()?))
    });
    // A cluster by address is named by a request of HTTP, not by a route.
    let is_http = by_address || routes.contains(&format!("\"{name}\""));
    let spoken = if is_http { PortProtocol::Http } else { PortProtocol::Tcp };
    Some(endpoints::PortToProbe { port, spoken, addresses: addresses.collect(), undeclared: None })
}

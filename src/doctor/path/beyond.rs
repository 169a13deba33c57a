//! The end of the walk: what became of the configuration, what brings traffic to Envoy, a service
//! that is asked about, and what Kubernetes says.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::{DEBUG_PORT, Seen, Walk};
use crate::doctor::admin::Envoy;
use crate::doctor::finding::{Code, Finding};
use crate::doctor::http::get;
use crate::doctor::kubernetes::{Kubernetes, Look};
use crate::doctor::service::{self, Picture};
use crate::doctor::verdict::{rejected, unaccepted};
use crate::doctor::{ServiceName, capture, pilot};
use crate::names;

impl Walk<'_> {
    /// How the control plane sees the proxy: a NACK is in its own words there.
    pub(super) async fn view(&mut self, address: SocketAddr, envoy: &Envoy) -> Result<(), Finding> {
        let since = Instant::now();
        let debug = self.target.debug.unwrap_or(SocketAddr::new(address.ip(), DEBUG_PORT));
        let id = envoy.node["id"].as_str().unwrap_or_default();
        // On loopback unless it was opened: silence must not cost much.
        let limit = self.clock.aside().min(self.clock.limit() / 10);
        match pilot::sync(debug, id, limit).await {
            Ok(Some(pilot::Seen { errors })) => match errors.first() {
                None => self.well("Pilot's view", since, "no rejection by this proxy"),
                Some((kind, error)) => {
                    let finding = rejected(&format!("a {}", kind.to_lowercase()), error);
                    return Err(self.broken("Pilot's view", since, error.clone(), finding));
                }
            },
            Ok(None) => {
                self.unknown("Pilot's view", since, "not connected to this replica of Pilot");
            }
            Err(why) => self.unknown("Pilot's view", since, format!("could not look: {why}")),
        }
        Ok(())
    }

    /// What Envoy made of what it got.
    pub(super) fn acceptance(&mut self, envoy: &Envoy) -> Result<(), Finding> {
        let since = Instant::now();
        match unaccepted(envoy) {
            None => {
                self.well("configuration", since, "accepted and in use");
                Ok(())
            }
            Some((said, finding)) => Err(self.broken("configuration", since, said, finding)),
        }
    }

    /// Whether iptables brings the pod's traffic to Envoy, if it is meant to.
    pub(super) async fn capture(&mut self, envoy: &Envoy) -> Result<(), Finding> {
        if !self.target.capture || !envoy.is_captured() {
            return Ok(());
        }
        let since = Instant::now();
        match capture::rules(self.clock.aside()).await {
            Ok(rules) => match capture::trouble(&rules) {
                None => {
                    self.well("capture", since, "iptables brings traffic to Envoy");
                    Ok(())
                }
                Some(finding) => {
                    let said = finding.cause.clone();
                    Err(self.broken("capture", since, said, finding))
                }
            },
            // Rules are for those who may change them; that something arrives shows as well.
            Err(_) if envoy.captured.values().any(|connections| *connections > 0) => {
                let seen: Vec<String> = envoy
                    .captured
                    .iter()
                    .map(|(port, count)| format!("{count} connections to {port}"))
                    .collect();
                self.well("capture", since, format!("Envoy has had {}", seen.join(", ")));
                Ok(())
            }
            Err(why) => {
                self.unknown("capture", since, format!("could not look: {why}"));
                Ok(())
            }
        }
    }

    /// Notes what could be had from Kubernetes.
    pub(super) fn kubernetes(&mut self, since: Instant, asked: &Look<Kubernetes>) {
        match asked {
            Ok(Kubernetes { kube_dns, pilot, .. }) => {
                let looks = [("kube-dns", kube_dns), ("Pilot", pilot)];
                let said = looks.map(|(name, look)| match look {
                    Ok(Some(picture)) => format!("{name} is {}", picture.cluster_ips.join(", ")),
                    Ok(None) => format!("no Service for {name}"),
                    Err(why) => format!("{name}: {why}"),
                });
                let could = looks.iter().any(|(_, look)| look.is_ok());
                let note = if could { Self::well } else { Self::unknown };
                note(self, "Kubernetes", since, said.join("; "));
                let denied = looks.iter().filter_map(|(_, look)| look.as_ref().err());
                if let Some(why) = denied.into_iter().find(|why| why.starts_with("not allowed")) {
                    self.notes.push(format!(
                        "Kubernetes was not compared in full ({why}); it needs get on services and \
                         list on endpointslices and pods, see docs/doctor.md"
                    ));
                }
            }
            Err(why) => self.unknown("Kubernetes", since, format!("could not look: {why}")),
        }
    }

    /// The service that was asked about: from Kubernetes if it may be looked at there, else from
    /// the control plane's pages, else from Envoy's clusters.
    pub(super) async fn service(
        &mut self,
        wanted: &ServiceName,
        namespace: &str,
        kubernetes: Option<&Look<Kubernetes>>,
        seen: &Seen,
    ) -> Result<(), Finding> {
        let since = Instant::now();
        let name = format!("{namespace}/{}", wanted.name);
        let host = names::host(&wanted.name, namespace, &self.target.domain);
        let from_kubernetes = match kubernetes {
            Some(Ok(Kubernetes { asked: Ok(picture), .. })) => Some(picture.clone()),
            _ => None,
        };
        let (source, picture) = match from_kubernetes {
            Some(picture) => ("Kubernetes", Some(picture)),
            None => ("Pilot", self.service_by_pilot(&host, seen).await),
        };
        let Some(picture) = picture else {
            return self.service_by_envoy(since, &name, &host, wanted.port).await;
        };
        let Some(picture) = picture else {
            let finding = Finding::new(
                Code::ServiceNotFound,
                format!("there is no service {name}, says {source}"),
                "correct the name or namespace (kubectl get services -A), or create the Service",
            );
            return Err(self.broken("service", since, format!("{name}: none"), finding));
        };
        match picture.trouble(wanted.port) {
            None => {
                let ready = picture.endpoints.iter().filter(|one| one.ready).count();
                self.well("service", since, format!("{name} has {ready} endpoints, says {source}"));
                Ok(())
            }
            Some(trouble) => {
                let finding = service::asked(&name, &trouble);
                let said = finding.cause.clone();
                Err(self.broken("service", since, said, finding))
            }
        }
    }

    /// `None` if the pages cannot be had.
    async fn service_by_pilot(&self, host: &str, seen: &Seen) -> Option<Option<Picture>> {
        let beside = seen.reached.map(|address| SocketAddr::new(address.ip(), DEBUG_PORT));
        let debug = self.target.debug.or(beside)?;
        let limit = self.clock.aside().min(self.clock.limit() / 10);
        let page = async |path| {
            let answer = get(debug, path, limit).await.ok().filter(|one| one.status == 200)?;
            serde_json::from_str::<Value>(&answer.body).ok()
        };
        let (registry, endpoints) =
            tokio::join!(page("/debug/registryz"), page("/debug/endpointz"));
        Some(Picture::from_debug(&registry?, &endpoints?, host))
    }

    async fn service_by_envoy(
        &mut self,
        since: Instant,
        name: &str,
        host: &str,
        port: Option<u16>,
    ) -> Result<(), Finding> {
        let limit = self.clock.aside();
        let page = match self.target.admin {
            Some(admin) => get(admin, "/clusters?format=json", limit).await.ok(),
            None => None,
        };
        let page = page.and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok());
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
                let parsed = cluster["name"].as_str().and_then(names::ClusterName::parse);
                matches!(parsed, Some(names::ClusterName::Outbound { port: of, host: name })
                    if name == host && port.is_none_or(|port| port == of))
            })
            .collect();
        let empty =
            own.iter().find(|one| one["host_statuses"].as_array().is_none_or(Vec::is_empty));
        let (code, cause, fix) = match (own.as_slice(), empty) {
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
                self.well(
                    "service",
                    since,
                    format!("{name} has {} clusters in Envoy", found.len()),
                );
                return Ok(());
            }
        };
        Err(self.broken("service", since, cause.clone(), Finding::new(code, cause, fix)))
    }
}

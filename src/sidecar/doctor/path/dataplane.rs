//! The end of the walk: what became of the configuration, what brings traffic to Envoy, and what
//! Kubernetes says.

use std::net::SocketAddr;
use std::time::Instant;

use super::Walk;
use crate::sidecar::doctor::envoy::Envoy;
use crate::sidecar::doctor::finding::Finding;
use crate::sidecar::doctor::kubernetes::{ApiResult, Kubernetes};
use crate::sidecar::doctor::on_demand::OnDemand;
use crate::sidecar::doctor::verdict::{configuration_fault, one_line, rejected};
use crate::sidecar::doctor::{capture, pilot};
use crate::well_known::DEBUG_PORT;

impl Walk<'_> {
    /// Where the control plane's pages are, if they may be had: they are on loopback, and behind a
    /// Service's address nothing answers for their port, which costs time to find out.
    pub(super) fn debug(&self, address: SocketAddr) -> Option<SocketAddr> {
        let beside = || SocketAddr::new(address.ip(), DEBUG_PORT);
        self.target.debug.or_else(|| address.ip().is_loopback().then(beside))
    }

    /// How the control plane sees the proxy: a NACK is in its own words there. Gives which clusters it
    /// says that it sends.
    pub(super) async fn pilots_view(
        &mut self,
        address: SocketAddr,
        envoy: &Envoy,
    ) -> Result<Option<String>, Finding> {
        let since = Instant::now();
        let Some(debug) = self.debug(address) else { return Ok(None) };
        let id = envoy.node["id"].as_str().unwrap_or_default();
        // Silence must not cost much.
        let limit = self.deadline.optional_step().min(self.deadline.limit() / 10);
        match pilot::proxy_status(debug, id, limit).await {
            Ok(Some(pilot::ProxyStatus { errors, discovery })) => {
                if errors.is_empty() {
                    self.well("Pilot's view", since, "no rejection by this proxy");
                    return Ok(discovery);
                }
                let kinds: Vec<String> =
                    errors.iter().map(|(kind, _)| format!("a {}", kind.to_lowercase())).collect();
                let words: Vec<&str> = errors.iter().map(|(_, error)| &**error).collect();
                let words = words.join("\n");
                let finding = rejected(&kinds.join(" and "), &words);
                return Err(self.broken("Pilot's view", since, one_line(&words), finding));
            }
            Ok(None) => {
                self.unknown("Pilot's view", since, "not connected to this replica of Pilot");
            }
            Err(why) => self.unknown("Pilot's view", since, format!("could not look: {why}")),
        }
        Ok(None)
    }

    /// Whether clusters come on demand where that was asked for. Told last: without it the proxy works,
    /// and only costs more.
    pub(super) fn on_demand(&mut self, envoy: &Envoy, pilot: Option<&str>) -> Result<(), Finding> {
        let Some(on_demand) = &envoy.on_demand else { return Ok(()) };
        let since = Instant::now();
        match on_demand.fault(pilot, &envoy.version) {
            None => {
                self.well("on demand", since, on_demand.summary());
                self.notes.extend(on_demand.note());
                Ok(())
            }
            Some(finding) => Err(self.broken("on demand", since, "all clusters instead", finding)),
        }
    }

    /// What Envoy made of what it got.
    pub(super) fn acceptance(&mut self, envoy: &Envoy) -> Result<(), Finding> {
        let since = Instant::now();
        let refused = envoy.on_demand.as_ref().and_then(OnDemand::lacks_delta);
        if let Some(finding) = refused {
            return Err(self.broken("configuration", since, "on demand without delta", finding));
        }
        match configuration_fault(envoy) {
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
        match capture::rules(self.deadline.optional_step()).await {
            Ok(rules) => match capture::fault(&rules) {
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
            Err(_) if envoy.stats.captured.values().any(|connections| *connections > 0) => {
                // No call in one direction so far is nothing to be worried about.
                let seen: Vec<String> = envoy
                    .stats
                    .captured
                    .iter()
                    .filter(|(_, connections)| **connections > 0)
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
    pub(super) fn kubernetes(&mut self, since: Instant, asked: &ApiResult<Kubernetes>) {
        match asked {
            Ok(Kubernetes { kube_dns, pilot, .. }) => {
                let looks = [("kube-dns", kube_dns), ("Pilot", pilot)];
                let said = looks.map(|(name, look)| match look {
                    Ok(Some(service_view)) => {
                        format!("{name} is {}", service_view.cluster_ips.join(", "))
                    }
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
                         list on endpointslices, see docs/doctor.md"
                    ));
                }
            }
            Err(why) => self.unknown("Kubernetes", since, format!("could not look: {why}")),
        }
    }
}

//! The routes for the requests to a service that is asked about: whether they apply, and lead somewhere.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::Walk;
use crate::names::{self, NodeId};
use crate::sidecar::doctor::ServiceName;
use crate::sidecar::doctor::finding::{Code, Finding};
use crate::sidecar::doctor::kubernetes::{ApiResult, Kubernetes};
use crate::sidecar::doctor::observations::Observations;
use crate::sidecar::doctor::routes::{
    Answer, RouteFacts, RouteView, answer_to, names_of_page, not_seen, ports_of_envoy,
    rules_of_envoy,
};
use crate::sidecar::http_client::get;

/// What is asked about where nobody says.
const DEFAULT_PATH: &str = "/";

/// What is known of a service's routes, and from whom.
pub(super) struct ServiceRoutes {
    pub(super) facts: RouteFacts,
    /// Envoy's route tables as it dumps them, and what they say; null if there is no Envoy.
    pub(super) dump: String,
    tables: Value,
    /// As Kubernetes has them.
    views: Vec<RouteView>,
    /// Those that the control plane's page names, if it could be had.
    known: BTreeSet<String>,
    debug: Option<SocketAddr>,
}

impl Walk<'_> {
    /// From the control plane's page if it may be had, else from Envoy and from Kubernetes.
    pub(super) async fn service_routes(
        &self,
        (wanted, namespace): (&ServiceName, &str),
        clusters: Option<&Value>,
        kubernetes: Option<&ApiResult<Kubernetes>>,
        seen: &Observations,
    ) -> ServiceRoutes {
        let client = client_namespace(seen);
        let views = match kubernetes {
            Some(Ok(Kubernetes { routes: Ok(routes), .. })) => routes.clone(),
            _ => Vec::new(),
        };
        let dump = self.routes_of_envoy().await;
        let tables: Value = serde_json::from_str(&dump).unwrap_or(Value::Null);
        let debug = self.target.debug.or_else(|| self.debug(seen.reached?));
        let path = format!("/debug/services/{namespace}/{}", wanted.name);
        let page = self.page(debug, &path).await;
        let (facts, known) = match &page {
            Some(page) => {
                let rules = &page["rules"];
                let facts = RouteFacts::from_pilot(rules, client.as_deref(), wanted.port);
                (facts, names_of_page(rules))
            }
            None => {
                let host = names::host(&wanted.name, namespace, &self.target.domain);
                let ports = match wanted.port {
                    Some(port) => BTreeSet::from([port]),
                    None => ports_of_envoy(&tables, &host),
                };
                let clusters = clusters.unwrap_or(&Value::Null);
                let rules = ports.into_iter().flat_map(|port| {
                    rules_of_envoy(&tables, clusters, &host, port, &self.target.domain)
                });
                let mut facts = RouteFacts { rules: rules.collect(), ..RouteFacts::default() };
                facts.add_statuses(namespace, client.as_deref(), &views);
                (facts, BTreeSet::new())
            }
        };
        ServiceRoutes { facts, dump, tables, views, known, debug: page.and(debug) }
    }

    /// Says what they do, if there are any.
    pub(super) async fn routes(
        &mut self,
        since: Instant,
        (wanted, namespace): (&ServiceName, &str),
        routes: &ServiceRoutes,
    ) -> Result<(), Finding> {
        let name = format!("{namespace}/{}", wanted.name);
        let host = names::host(&wanted.name, namespace, &self.target.domain);
        let unseen = routes.facts.unseen(&routes.views, &routes.known);
        if routes.facts.is_empty() && unseen.is_empty() {
            return Ok(());
        }
        let fault = match routes.facts.fault(&name) {
            Some(fault) => Some(fault),
            None if unseen.is_empty() => None,
            None => not_seen(&name, &unseen, self.watch_error(routes.debug).await.as_deref()),
        };
        if let Some(fault) = fault {
            let said = fault.cause.clone();
            return Err(self.broken("routes", since, said, fault));
        }
        let asked = self.target.path.as_deref();
        let path = asked.unwrap_or(DEFAULT_PATH);
        let ports: BTreeSet<u16> = routes.facts.rules.iter().map(|rule| rule.port).collect();
        let mut said = format!("{} rules apply to {name}", routes.facts.rules.len());
        for port in ports {
            match answer_to(path, &routes.tables, &host, port) {
                Some(Answer::Rule(rule)) => {
                    said.push_str(&format!("; GET {path} on {port} is for {rule}"));
                }
                Some(Answer::NoRule) => {
                    let cause = format!(
                        "no rule of the routes for service {name} matches GET {path} on port {port}: such a \
                         request gets a 404"
                    );
                    if asked.is_some() {
                        let finding = Finding::new(
                            Code::RouteNoRuleMatches,
                            cause,
                            "give a rule a match for it, or a rule without matches, which is for all that no other \
                             is for; --path asks about another path",
                        );
                        return Err(self.broken("routes", since, "no rule matches", finding));
                    }
                    // Clients may well ask for something else.
                    self.notes.push(format!("{cause}; --path PATH asks about another"));
                }
                Some(Answer::Unknown) | None => {}
            }
        }
        self.notes.extend(routes.facts.note(&name));
        self.well("routes", since, said);
        Ok(())
    }

    /// Why the control plane cannot see routes, if it says so.
    async fn watch_error(&self, debug: Option<SocketAddr>) -> Option<String> {
        let page = self.page(debug, "/debug/sourcez").await?;
        let watches = page["watches"].as_array()?.iter();
        let mut of_routes = watches.filter(|watch| {
            watch["name"].as_str().is_some_and(|name| name.to_lowercase().contains("route"))
        });
        // Absent: without the CRD or without the right.
        let words = |watch: &Value| {
            let words = watch["absent"].as_str().or_else(|| watch["lastError"].as_str());
            words.map(str::to_owned)
        };
        of_routes.find_map(words)
    }

    /// A page of the control plane's debug port.
    pub(super) async fn page(&self, debug: Option<SocketAddr>, path: &str) -> Option<Value> {
        let limit = self.deadline.optional_step().min(self.deadline.limit() / 10);
        let answer = get(debug?, path, limit).await.ok().filter(|one| one.status == 200)?;
        serde_json::from_str(&answer.body).ok()
    }
}

/// The namespace that Envoy's node names; `None` without an Envoy, or if it names none.
fn client_namespace(seen: &Observations) -> Option<String> {
    let node = &seen.envoy.as_ref()?.node;
    let told = node["metadata"]["NAMESPACE"].as_str().filter(|namespace| !namespace.is_empty());
    let of_id = || NodeId::parse(node["id"].as_str()?).ok()??.namespace;
    told.or_else(of_id).map(str::to_owned)
}

//! HTTPRoutes, GRPCRoutes and ReferenceGrants, checked as the CRDs of the standard channel (1.5) check them.
//!
//! All of it is checked again: a manifest never met an API server, and an API server may have other CRDs. What
//! the CRD would have refused is a flaw, for which a manifest is refused; what it lets pass and nobody here can
//! serve is not. Either refuses the route as a whole ([`Route::refusal`]): the route is then as if it were not
//! there, and its status says why.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::names::{require_dns_label, require_subdomain};
use super::{Converted, Converter, Rejection, namespace_of};
use crate::model::route::{ReferenceGrant, Route, RouteKey, RouteKind, RouteRule};

mod cors;
mod fields;
mod filters;
mod grants;
mod matches;
mod object;
mod references;
mod values;

use fields::{Findings, Node, Object};
pub use object::{GatewayKind, GatewayObject, GrpcRouteV1, HttpRouteV1, ReferenceGrantV1};

pub type HttpRoute = GatewayObject<HttpRouteV1>;
pub type GrpcRoute = GatewayObject<GrpcRouteV1>;

/// The CRDs' limits.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_MATCHES_OF_ROUTE: usize = 128;
const MAX_PARENTS: usize = 32;
const MAX_BACKENDS: usize = 16;
const MAX_HOSTNAMES: usize = 16;

impl Converter {
    pub fn http_route(&mut self, from: &HttpRoute) -> Result<Converted<Route>, Rejection> {
        self.route(RouteKind::Http, &from.metadata, &from.spec)
    }

    pub fn grpc_route(&mut self, from: &GrpcRoute) -> Result<Converted<Route>, Rejection> {
        self.route(RouteKind::Grpc, &from.metadata, &from.spec)
    }

    /// The parts that are about other things than routes and Services are left out.
    pub fn reference_grant<K: GatewayKind>(
        &mut self,
        from: &GatewayObject<K>,
    ) -> Result<Converted<ReferenceGrant>, Rejection> {
        grants::reference_grant(self, &from.metadata, &from.spec)
    }

    fn route(
        &mut self,
        kind: RouteKind,
        metadata: &ObjectMeta,
        spec: &Value,
    ) -> Result<Converted<Route>, Rejection> {
        let (namespace, name) = self.namespace_and_name(metadata)?;
        let mut findings = Findings::default();
        let (mut parents, mut rules) = (Vec::new(), Vec::new());
        if let Some(spec) = Node::new(spec, "spec").object(&mut findings) {
            let known = ["parentRefs", "hostnames", "rules", "useDefaultGateways"];
            spec.check_names(&known, &[], &mut findings);
            parents = self.parents(&spec, &namespace, &mut findings);
            check_hostnames(&spec, &mut findings);
            rules = self.rules(kind, &spec, &namespace, &mut findings);
        }
        let refusal = findings.refusal();
        if refusal.is_some() {
            rules = Vec::new();
        }
        let created = metadata.creation_timestamp.as_ref();
        let value = Route {
            key: RouteKey { kind, namespace, name },
            created: created.map(|at| at.0.to_string()).unwrap_or_default().into(),
            generation: metadata.generation,
            parents,
            rules,
            refusal,
            resource_version: metadata.resource_version.as_deref().unwrap_or_default().into(),
        };
        let (flaws, notes) = findings.into_flaws_and_notes();
        Ok(Converted { value, flaws, notes })
    }

    fn namespace_and_name(
        &mut self,
        metadata: &ObjectMeta,
    ) -> Result<(Arc<str>, Arc<str>), Rejection> {
        let name = metadata.name.as_deref().unwrap_or_default();
        require_subdomain("metadata.name", name)?;
        let namespace = namespace_of(metadata);
        require_dns_label("metadata.namespace", namespace)?;
        Ok((self.intern(namespace), name.into()))
    }

    fn rules(
        &mut self,
        kind: RouteKind,
        spec: &Object<'_>,
        namespace: &Arc<str>,
        findings: &mut Findings,
    ) -> Vec<RouteRule> {
        let mut rules: Vec<RouteRule> = Vec::new();
        let nodes = spec.list("rules", MAX_RULES, findings);
        match (kind, spec.has("rules"), nodes.is_empty()) {
            // The CRD's default: a rule that matches all, and leads nowhere.
            (RouteKind::Http, false, _) => rules.push(RouteRule::new(Vec::new())),
            (RouteKind::Http, true, true) => findings.invalid(spec.path_of("rules"), "empty"),
            _ => {}
        }
        for node in nodes {
            let Some(rule) = node.object(findings) else { continue };
            let rule = self.rule(kind, &rule, namespace, findings);
            if rule.name.is_some() && rules.iter().any(|earlier| earlier.name == rule.name) {
                let path = format!("{}.name", node.path);
                findings.unserved(path, "the name of an earlier rule as well");
            }
            rules.push(rule);
        }
        let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
        if matches > MAX_MATCHES_OF_ROUTE {
            let reason =
                format!("{matches} matches in all rules, more than {MAX_MATCHES_OF_ROUTE}");
            findings.invalid(spec.path_of("rules"), reason);
        }
        rules
    }

    fn rule(
        &mut self,
        kind: RouteKind,
        rule: &Object<'_>,
        namespace: &Arc<str>,
        findings: &mut Findings,
    ) -> RouteRule {
        let known: &[_] = match kind {
            RouteKind::Http => &["name", "matches", "filters", "backendRefs", "timeouts"],
            RouteKind::Grpc => &["name", "matches", "filters", "backendRefs"],
        };
        rule.check_names(known, &["retry", "sessionPersistence"], findings);
        let name = values::section_name(rule, "name", findings);
        let matches = matches::matches(kind, rule, findings);
        let filters = self.filters(kind, rule, namespace, findings);
        let backends = self.backends(kind, rule, namespace, findings);
        filters::check_rule(rule, &matches, &filters, &backends, findings);
        let (request_timeout, backend_timeout) = match rule.object("timeouts", findings) {
            Some(timeouts) => values::timeouts(&timeouts, findings),
            None => (None, None),
        };
        RouteRule { name, matches, filters, backends, request_timeout, backend_timeout }
    }
}

/// They are checked as the API does, and have no meaning for a mesh (GEP-1294).
fn check_hostnames(spec: &Object<'_>, findings: &mut Findings) {
    let hostnames = spec.list("hostnames", MAX_HOSTNAMES, findings);
    for node in &hostnames {
        let Some(text) = node.bounded_text((1, 253), findings) else { continue };
        values::require_hostname(&node.path, text.strip_prefix("*.").unwrap_or(text), findings);
    }
    if !hostnames.is_empty() {
        let reason = "ignored where the parent is a Service: its clients are known by that";
        findings.note(spec.path_of("hostnames"), reason);
    }
}

#[cfg(test)]
mod tests;

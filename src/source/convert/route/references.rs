//! What routes refer to: parents, backends, and the targets of mirrors.

use std::sync::Arc;

use super::super::Converter;
use super::fields::{Findings, Object};
use super::{MAX_BACKENDS, MAX_PARENTS, values};
use crate::model::ServiceKey;
use crate::model::route::{Backend, BackendRef, GROUP, ParentRef, ParentTarget, RouteKind};

const MAX_WEIGHT: i64 = 1_000_000;

impl Converter {
    pub(super) fn parents(
        &mut self,
        spec: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Vec<ParentRef> {
        let mut parents: Vec<ParentRef> = Vec::new();
        for node in &spec.list("parentRefs", MAX_PARENTS, findings) {
            let Some(object) = node.object(findings) else { continue };
            let Some(parent) = self.parent(&object, own, findings) else { continue };
            let whole = |parent: &ParentRef| parent.section_name.is_none() && parent.port.is_none();
            let same = |earlier: &&ParentRef| earlier.target == parent.target;
            if let Some(at) = parents.iter().position(|earlier| *earlier == parent) {
                findings.invalid(&*node.path, format!("the same as parentRefs[{at}]"));
                continue;
            }
            if parents.iter().filter(same).any(|earlier| whole(earlier) != whole(&parent)) {
                let reason = "the same parent as an earlier one: each needs a sectionName or port";
                findings.invalid(&*node.path, reason);
            }
            parents.push(parent);
        }
        parents
    }

    fn parent(
        &mut self,
        from: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Option<ParentRef> {
        let known = ["group", "kind", "namespace", "name", "sectionName", "port"];
        from.check_names(&known, &[], findings);
        let name = from.required_text("name", (1, 253), findings);
        let group = values::group(from, GROUP, findings);
        let kind = values::kind(from, "Gateway", findings);
        let namespace = values::namespace(from, findings).map(|given| self.intern(given));
        let section_name = values::section_name(from, "sectionName", findings);
        let port = from.port("port", findings);
        let (group, kind, name) = (group?, kind?, self.intern(name?));
        let of_target = namespace.clone().unwrap_or_else(|| own.clone());
        let target = match (group, kind) {
            ("", "Service") => ParentTarget::Service(ServiceKey { namespace: of_target, name }),
            (GROUP, "Service") => {
                let reason = "a Service is of the core group: write group: \"\"";
                findings.note(from.path_of("group"), reason);
                self.other_parent(group, kind, of_target, name)
            }
            _ => self.other_parent(group, kind, of_target, name),
        };
        Some(ParentRef { target, namespace, section_name, port })
    }

    fn other_parent(
        &mut self,
        group: &str,
        kind: &str,
        namespace: Arc<str>,
        name: Arc<str>,
    ) -> ParentTarget {
        ParentTarget::Other { group: self.intern(group), kind: self.intern(kind), namespace, name }
    }

    pub(super) fn backends(
        &mut self,
        kind: RouteKind,
        rule: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Vec<Backend> {
        let mut backends = Vec::new();
        for node in rule.list("backendRefs", MAX_BACKENDS, findings) {
            let Some(from) = node.object(findings) else { continue };
            let known = ["group", "kind", "namespace", "name", "port", "weight", "filters"];
            from.check_names(&known, &[], findings);
            let weight = if from.has("weight") {
                from.number("weight", (0, MAX_WEIGHT), findings)
            } else {
                Some(1)
            };
            let filters = self.backend_filters(kind, &from, findings);
            let Some(target) = self.backend_ref(&from, own, findings) else { continue };
            let Some(weight) = weight.and_then(|weight| u32::try_from(weight).ok()) else {
                continue;
            };
            backends.push(Backend { target, weight, filters });
        }
        backends
    }

    /// What a backend or a mirror names.
    pub(super) fn backend_ref(
        &mut self,
        from: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Option<BackendRef> {
        let name = from.required_text("name", (1, 253), findings);
        let group = values::group(from, "", findings);
        let kind = values::kind(from, "Service", findings);
        let namespace = values::namespace(from, findings).map(|given| self.intern(given));
        let port = from.port("port", findings);
        let (group, kind, name) = (group?, kind?, self.intern(name?));
        let namespace = namespace.unwrap_or_else(|| own.clone());
        match (group, kind, port) {
            ("", "Service", Some(port)) => {
                Some(BackendRef::Service { key: ServiceKey { namespace, name }, port })
            }
            ("", "Service", None) => {
                if !from.has("port") {
                    findings.invalid(from.path_of("port"), "missing: a Service needs one");
                }
                None
            }
            _ => {
                let (group, kind) = (self.intern(group), self.intern(kind));
                Some(BackendRef::Other { group, kind, namespace, name })
            }
        }
    }
}

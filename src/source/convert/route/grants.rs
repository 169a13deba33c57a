//! ReferenceGrants.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::super::{Converted, Converter, Rejection};
use super::fields::{Findings, Node};
use super::object::{GatewayKind, GrpcRouteV1, HttpRouteV1};
use super::values;
use crate::model::route::{GROUP, ReferenceGrant, RouteKind};

const MAX_ENTRIES: usize = 16;

pub(super) fn reference_grant(
    converter: &mut Converter,
    metadata: &ObjectMeta,
    spec: &Value,
) -> Result<Converted<ReferenceGrant>, Rejection> {
    let (namespace, name) = converter.namespace_and_name(metadata)?;
    let mut findings = Findings::default();
    let (mut from, mut to) = (Vec::new(), Vec::new());
    if let Some(spec) = Node::new(spec, "spec").object(&mut findings) {
        spec.check_names(&["from", "to"], &[], &mut findings);
        let (froms, tos) = (
            spec.list("from", MAX_ENTRIES, &mut findings),
            spec.list("to", MAX_ENTRIES, &mut findings),
        );
        for (name, list) in [("from", &froms), ("to", &tos)] {
            if list.is_empty() {
                findings.invalid(spec.path_of(name), "missing, or empty");
            }
        }
        for entry in froms.iter().filter_map(|node| node.object(&mut findings)).collect::<Vec<_>>()
        {
            entry.check_names(&["group", "kind", "namespace"], &[], &mut findings);
            for name in ["group", "kind", "namespace"] {
                if !entry.has(name) {
                    findings.invalid(entry.path_of(name), "missing");
                }
            }
            let group = values::group(&entry, "", &mut findings);
            let kind = values::kind(&entry, "", &mut findings);
            let namespace = values::namespace(&entry, &mut findings);
            let kind = match (group, kind) {
                (Some(GROUP), Some(HttpRouteV1::KIND)) => RouteKind::Http,
                (Some(GROUP), Some(GrpcRouteV1::KIND)) => RouteKind::Grpc,
                _ => continue,
            };
            from.extend(namespace.map(|namespace| (kind, converter.intern(namespace))));
        }
        for entry in tos.iter().filter_map(|node| node.object(&mut findings)).collect::<Vec<_>>() {
            entry.check_names(&["group", "kind", "name"], &[], &mut findings);
            for name in ["group", "kind"] {
                if !entry.has(name) {
                    findings.invalid(entry.path_of(name), "missing");
                }
            }
            let group = values::group(&entry, "", &mut findings);
            let kind = values::kind(&entry, "", &mut findings);
            let name = entry.bounded_text("name", (1, 253), &mut findings);
            // A name that cannot be read must not become a grant for all.
            if (group, kind) == (Some(""), Some("Service")) && entry.has("name") == name.is_some() {
                to.push(name.map(|name| converter.intern(name)));
            }
        }
    }
    let (flaws, notes) = findings.into_flaws_and_notes();
    Ok(Converted { value: ReferenceGrant { namespace, name, from, to }, flaws, notes })
}

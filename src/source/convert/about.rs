//! What is shown of an object and means nothing to proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::intern::Strings;
use crate::model::{About, Labels, TargetPort};

pub(super) fn about(metadata: &ObjectMeta, spec: &ServiceSpec, strings: &mut Strings) -> About {
    About {
        labels: labels(metadata.labels.as_ref(), strings),
        selector: labels(spec.selector.as_ref(), strings),
        target_ports: target_ports(spec, strings),
    }
}

fn labels(labels: Option<&BTreeMap<String, String>>, strings: &mut Strings) -> Labels {
    let labels = labels.into_iter().flatten();
    labels.map(|(key, value)| (strings.get(key), strings.get(value))).collect()
}

/// Those that are not the port's own number, which is what absence means.
fn target_ports(spec: &ServiceSpec, strings: &mut Strings) -> Box<[(u16, TargetPort)]> {
    let is_tcp = |protocol: Option<&str>| matches!(protocol, None | Some("" | "TCP"));
    let ports = spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let own = ports.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        let target = match port.target_port.as_ref()? {
            IntOrString::Int(target) => TargetPort::Number(u16::try_from(*target).ok()?),
            IntOrString::String(name) => TargetPort::Name(strings.get(name)),
        };
        // Zero is the number that was not given.
        let is_own = target != TargetPort::Number(0) && target != TargetPort::Number(number);
        is_own.then_some((number, target))
    });
    own.collect()
}

pub(super) fn pod_name(target: &ObjectReference) -> Option<Arc<str>> {
    let name = target.name.as_deref().filter(|name| !name.is_empty());
    name.filter(|_| target.kind.as_deref() == Some("Pod")).map(Arc::from)
}

//! Fields of an object that debug pages show and proxies do not need.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::intern::StringInterner;
use crate::model::{About, Labels, TargetPort};

pub(super) fn about(
    metadata: &ObjectMeta,
    spec: &ServiceSpec,
    strings: &mut StringInterner,
) -> About {
    About {
        labels: labels(metadata.labels.as_ref(), strings),
        selector: labels(spec.selector.as_ref(), strings),
        target_ports: target_ports(spec, strings),
    }
}

fn labels(labels: Option<&BTreeMap<String, String>>, strings: &mut StringInterner) -> Labels {
    let labels = labels.into_iter().flatten();
    labels.map(|(key, value)| (strings.intern(key), strings.intern(value))).collect()
}

/// The target ports that differ from the port's own number, which is the default.
fn target_ports(spec: &ServiceSpec, strings: &mut StringInterner) -> Box<[(u16, TargetPort)]> {
    let is_tcp = |protocol: Option<&str>| matches!(protocol, None | Some("" | "TCP"));
    let ports = spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let own = ports.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        let target = match port.target_port.as_ref()? {
            IntOrString::Int(target) => TargetPort::Number(u16::try_from(*target).ok()?),
            IntOrString::String(name) => TargetPort::Name(strings.intern(name)),
        };
        // Zero is a number that was not set.
        let is_own = target != TargetPort::Number(0) && target != TargetPort::Number(number);
        is_own.then_some((number, target))
    });
    own.collect()
}

pub(super) fn pod_name(target: &ObjectReference) -> Option<Arc<str>> {
    let name = target.name.as_deref().filter(|name| !name.is_empty());
    name.filter(|_| target.kind.as_deref() == Some("Pod")).map(Arc::from)
}

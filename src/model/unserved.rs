//! Ports that sidecars cannot serve, for people to see.

use super::{Flaw, ServiceKind, ServicePort};
use crate::well_known::ENVOY_LISTENER_PORTS;

/// The ports with numbers of the sidecar's own listeners, where the service has no cluster IP by which
/// a sidecar could tell connections to it from those to itself.
pub fn unserved_ports<'a>(
    kind: &ServiceKind,
    ports: &'a [ServicePort],
) -> impl Iterator<Item = Flaw> + use<'a> {
    let by_address = match kind {
        ServiceKind::ClusterIp(addresses) => !addresses.is_empty(),
        // It is reached by its target's address, or not, which is the target's flaw.
        ServiceKind::Alias(_) => true,
        ServiceKind::Headless | ServiceKind::ExternalName(_) => false,
    };
    let unserved =
        move |port: &&ServicePort| !by_address && ENVOY_LISTENER_PORTS.contains(&port.port);
    ports.iter().filter(unserved).map(|port| {
        let reason = format!(
            "{} is a port of every sidecar itself, so that sidecars serve it by a cluster IP alone, \
             and there is none; use another number (not {ENVOY_LISTENER_PORTS:?})",
            port.port
        );
        Flaw::new(format!("spec.ports[port={}]", port.port), reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn ports_of_the_sidecar_itself_are_told_where_there_is_no_cluster_ip() {
        let port = |port| ServicePort { name: "".into(), port, protocol: Protocol::Http };
        let ports = [80, 15001, 15006, 15021, 15090, 15020].map(port);
        let unserved_fields = |kind: ServiceKind| -> Vec<String> {
            unserved_ports(&kind, &ports).map(|flaw| flaw.field.to_string()).collect()
        };
        let all = [15001, 15006, 15021, 15090].map(|port| format!("spec.ports[port={port}]"));
        assert_eq!(unserved_fields(ServiceKind::Headless), all);
        assert_eq!(unserved_fields(ServiceKind::ExternalName("example.com".into())), all);
        assert_eq!(unserved_fields(ServiceKind::ClusterIp(Vec::new())), all);
        assert!(unserved_fields(ServiceKind::ClusterIp(vec![[10, 96, 0, 1].into()])).is_empty());
    }
}

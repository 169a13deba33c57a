//! What an ExternalName service stands for: another service of the mesh, or a name outside.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Flaw, Model, Service, ServiceKey, ServiceKind, unserved_ports};
use crate::names;

/// Aliases of aliases that are followed. Resolvers give up after about as many.
const MAX_HOPS: usize = 8;

impl Service {
    /// The service that an alias names, whether or not there is one; none for other services and
    /// for names outside the mesh.
    pub fn alias_of(&self, domain: &str) -> Option<ServiceKey> {
        match &self.kind {
            ServiceKind::ExternalName(name) => in_mesh(name, domain),
            _ => None,
        }
    }
}

impl Model {
    /// A service with its alias followed, if it is one: [`ServiceKind::Alias`] where it ends at a
    /// service of the mesh, [`ServiceKind::ExternalName`] with the last name where it leads out. An
    /// alias that leads nowhere has no ports, and a flaw that says why. It is seen where what it stands
    /// for is seen too.
    ///
    /// The result follows from the services on the way alone.
    pub fn resolved(&self, key: &ServiceKey, domain: &str) -> Option<Arc<Service>> {
        let service = self.service(key)?;
        let ServiceKind::ExternalName(name) = &service.kind else { return Some(service.clone()) };
        let mut resolved = (**service).clone();
        match self.resolve_name(key, name, domain) {
            Ok(kind) => {
                if let ServiceKind::Alias(target) = &kind {
                    // A name that leads nowhere would answer 503 where nobody knows of it at all.
                    let both = service.export_to.and(&target.export_to);
                    if both != service.export_to {
                        let reason = format!(
                            "{} is not exported to all that this is; seen where both are",
                            target.key
                        );
                        resolved.flaws.push(Flaw::new("spec.externalName", reason));
                    }
                    resolved.export_to = both;
                }
                resolved.flaws.extend(unserved_ports(&kind, &resolved.ports));
                resolved.kind = kind;
            }
            Err(reason) => {
                resolved.ports.clear();
                resolved.flaws.push(Flaw::new("spec.externalName", reason));
            }
        }
        Some(Arc::new(resolved))
    }

    fn resolve_name(
        &self,
        from: &ServiceKey,
        name: &str,
        domain: &str,
    ) -> Result<ServiceKind, String> {
        let mut passed = vec![from.clone()];
        let mut name: Arc<str> = name.into();
        while let Some(target) = in_mesh(&name, domain) {
            if passed.contains(&target) {
                let way: Vec<_> = passed.iter().chain([&target]).map(ToString::to_string).collect();
                return Err(format!("an alias of itself ({}), not served", way.join(" -> ")));
            }
            let Some(service) = self.service(&target) else {
                return Err(format!("there is no service {target}, not served until there is"));
            };
            let ServiceKind::ExternalName(next) = &service.kind else {
                return Ok(ServiceKind::Alias(service.clone()));
            };
            if passed.len() == MAX_HOPS {
                return Err(format!("more than {MAX_HOPS} aliases in a row, not served"));
            }
            passed.push(target);
            name = next.clone();
        }
        outside(&name).map(|()| ServiceKind::ExternalName(name))
    }
}

fn in_mesh(name: &str, domain: &str) -> Option<ServiceKey> {
    let (name, namespace) = names::service_of_host(name, domain)?;
    Some(ServiceKey::new(namespace, name))
}

/// What DNS cannot know, or what would lead each proxy to itself.
fn outside(name: &str) -> Result<(), String> {
    if name.parse::<IpAddr>().is_ok() {
        return Err(format!(
            "{name} is an address, not a name, not served: \
             a Service without selector and an EndpointSlice serve addresses"
        ));
    }
    match name.rsplit('.').next() {
        Some("localhost") => Err(format!("{name} is every proxy's own host, not served")),
        Some(last) if last.len() == name.len() => Err(format!(
            "{name} has no dot, so it is no name of DNS, not served: \
             write {name}.NAMESPACE.svc.DOMAIN for a service"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

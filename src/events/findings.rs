//! What there is to tell: NACKs that are new since the last look, and ports that cannot be served. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::escape;
use crate::model::{Model, ServiceKey};
use crate::names::{NodeId, ResourceType};
use crate::proxies::Proxies;
use crate::snapshot::Conflicts;

/// Told again this often while it lasts: the API server forgets events after an hour.
const TELL_AGAIN: Duration = Duration::from_secs(30 * 60);

/// Kinds of objects that events are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Pod,
    Service,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// One thing to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) object: Object,
    /// One of a few words in Kubernetes' manner.
    pub(super) reason: &'static str,
    /// A sentence, on one line.
    pub(super) note: String,
}

/// A proxy's NACK, and which pod the proxy claims to be.
#[derive(Debug)]
pub(super) struct Rejection {
    object: Object,
    peer: Option<IpAddr>,
    resource_type: ResourceType,
    words: Arc<str>,
}

/// Which NACKs have been looked at, by stream.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    seen: HashMap<u64, [u64; ResourceType::COUNT]>,
}

impl Rejections {
    /// Those that came since the last call and still hold. Of several of one stream and type the last.
    pub(super) fn new_ones(&mut self, proxies: &Proxies) -> Vec<Rejection> {
        let mut found = Vec::new();
        let mut seen = HashMap::new();
        for stream in proxies.all() {
            stream.read(|status| {
                let Some(identity) = &status.identity else { return };
                if identity.probe || status.types.iter().all(|one| one.nacks == 0) {
                    return;
                }
                let before = self.seen.get(&stream.id).copied().unwrap_or_default();
                seen.insert(
                    stream.id,
                    ResourceType::IN_ORDER.map(|of| status.types[of.index()].nacks),
                );
                let Some(object) = claimed_pod(&identity.node_id) else { return };
                for of in ResourceType::IN_ORDER {
                    let status = &status.types[of.index()];
                    if let Some(words) = &status.last_error
                        && status.nacks != before[of.index()]
                    {
                        found.push(Rejection {
                            object: object.clone(),
                            peer: stream.peer.map(|peer| peer.ip().to_canonical()),
                            resource_type: of,
                            words: words.clone(),
                        });
                    }
                }
            });
        }
        self.seen = seen;
        found
    }
}

/// The pod of `type~ip~pod.namespace~domain`.
fn claimed_pod(node_id: &str) -> Option<Object> {
    let id = NodeId::parse(node_id).ok()??;
    let namespace = id.namespace?;
    let suffix = id.name.strip_suffix(namespace).and_then(|name| name.strip_suffix('.'));
    let name = suffix.unwrap_or(id.name);
    Some(Object { kind: Kind::Pod, namespace: namespace.into(), name: name.into() })
}

/// Those of peers that are where an endpoint says that their pod is, and how many are not.
pub(super) fn verified(model: &Model, found: Vec<Rejection>) -> (Vec<Finding>, usize) {
    let mut claimed: HashMap<&Object, BTreeSet<IpAddr>> = HashMap::new();
    for one in &found {
        claimed.entry(&one.object).or_default().extend(one.peer);
    }
    let namespaces: BTreeSet<&str> = claimed.keys().map(|object| &*object.namespace).collect();
    let mut known: BTreeSet<(Object, IpAddr)> = BTreeSet::new();
    let services = model.sliced_services().filter(|key| namespaces.contains(&*key.namespace));
    let slices = services.flat_map(|key| model.slices(key).map(move |slice| (key, slice)));
    for (key, slice) in slices {
        for endpoint in slice.subsets.iter().flat_map(|subset| &subset.endpoints) {
            let Some(pod) = &endpoint.pod_name else { continue };
            let object =
                Object { kind: Kind::Pod, namespace: key.namespace.clone(), name: pod.clone() };
            let address = endpoint.address.to_canonical();
            if claimed.get(&object).is_some_and(|peers| peers.contains(&address)) {
                known.insert((object, address));
            }
        }
    }
    drop(claimed);
    let all = found.len();
    let of_pods = found
        .into_iter()
        .filter(|one| one.peer.is_some_and(|peer| known.contains(&(one.object.clone(), peer))));
    let findings: Vec<Finding> = of_pods
        .map(|one| Finding {
            note: format!(
                "Envoy rejected {} and goes on with what it had: {}",
                one.resource_type.short().to_uppercase(),
                escape::line(&one.words)
            ),
            object: one.object,
            reason: "ConfigRejected",
        })
        .collect();
    let strangers = all - findings.len();
    (findings, strangers)
}

/// Ports that cannot be served, and when that was told last.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    all: BTreeMap<Finding, Option<Instant>>,
}

impl Unserved {
    /// Takes up what is so now, and forgets what is so no more.
    pub(super) fn look(&mut self, model: &Model, domain: &str, conflicts: &Conflicts) {
        let finding = |key: &ServiceKey, reason, note: String| Finding {
            object: Object {
                kind: Kind::Service,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            },
            reason,
            note: escape::line(&note).into_owned(),
        };
        let flaws = model.flaws(domain).filter(|(_, flaw)| flaw.field.starts_with("spec.ports"));
        let flaws = flaws.map(|(key, flaw)| {
            finding(&key, "PortNotServed", format!("{}: {}", flaw.field, flaw.reason))
        });
        let conflicts = conflicts.iter().filter_map(|(conflict, text)| {
            let (namespace, name) = conflict.loser.split_once('/')?;
            let key = ServiceKey::new(namespace, name);
            Some(finding(&key, "PortConflict", text.to_string()))
        });
        let now: BTreeSet<Finding> = flaws.chain(conflicts).collect();
        self.all.retain(|finding, _| now.contains(finding));
        for finding in now {
            self.all.entry(finding).or_default();
        }
    }

    /// One that is to be told now.
    pub(super) fn due(&self, now: Instant) -> Option<Finding> {
        let is_due = |told: &Option<Instant>| told.is_none_or(|told| now - told >= TELL_AGAIN);
        self.all.iter().find(|(_, told)| is_due(told)).map(|(finding, _)| finding.clone())
    }

    pub(super) fn told(&mut self, finding: &Finding, now: Instant) {
        self.all.insert(finding.clone(), Some(now));
    }
}

#[cfg(test)]
mod tests;

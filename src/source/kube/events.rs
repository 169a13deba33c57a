//! Watch events turned into changes of the model; no network, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope};
use kube::Resource as _;
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::super::convert::{
    Converted, Converter, Rejection, SERVICE_NAME_LABEL, endpoints_name, namespace_of,
};
use super::super::health::Health;
use super::lenient_decode::LenientDecode;
use crate::model::{
    Action, Change, EndpointSlice, Scope, Service, ServiceKey, SourceEvent, WatchId,
};

/// How many rejected objects of one list are logged one by one; all stand in the health.
const LOGGED: usize = 5;

/// A kind that is watched.
pub(super) trait Watched:
    Metadata<Ty = ObjectMeta>
    + kube::Resource<DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What it becomes.
    type Model: Send + 'static;
    /// As RBAC names it.
    const RESOURCE: &'static str;

    fn selector() -> Option<String> {
        None
    }
    /// The objects within the scope.
    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>>;
    /// `None` for an object that is not for us.
    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<Self::Model>>, Rejection>;
    /// The object is new or has changed.
    fn updated(object: Self::Model) -> Change;
    /// All objects within the scope are these.
    fn listed(scope: Scope, objects: Vec<Self::Model>) -> Change;
    /// The object is gone.
    fn deleted(namespace: &str, name: &str) -> Change;
}

/// What one watch has sent: the objects of a list so far, and which objects are not (fully) used.
#[derive(Debug)]
pub(super) struct WatchIndex<K: Watched> {
    scope: Scope,
    health: Arc<Health>,
    converter: Converter,
    /// Filled from `Init` to `InitDone`.
    listing: Vec<K::Model>,
    /// What was said in the health of objects of this watch, so that it can be taken back.
    remarks: BTreeMap<String, Remark>,
    listed_remarks: BTreeMap<String, Remark>,
    /// The newest version among the objects of the list so far.
    listed_version: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Remark {
    Rejected(String),
    Noted(String),
}

impl<K: Watched> WatchIndex<K> {
    pub(super) fn new(scope: Scope, health: Arc<Health>) -> Self {
        Self {
            scope,
            health,
            converter: Converter::default(),
            listing: Vec::new(),
            remarks: BTreeMap::new(),
            listed_remarks: BTreeMap::new(),
            listed_version: None,
        }
    }

    /// What the event means, seen now.
    pub(super) fn source_event(&mut self, event: Event<LenientDecode<K>>) -> Option<SourceEvent> {
        let (action, version) = match &event {
            Event::Init => {
                self.listed_version = None;
                (None, None)
            }
            Event::InitApply(object) => {
                self.listed_version = self.listed_version.max(version_of(object));
                (None, None)
            }
            Event::InitDone => (None, self.listed_version),
            Event::Apply(object) => (Some(Action::Applied), version_of(object)),
            Event::Delete(object) => (Some(Action::Deleted), version_of(object)),
        };
        let change = self.apply(event)?;
        let watch = Some(self.id());
        Some(SourceEvent { action, version, watch, ..change.into() })
    }

    /// The watch has got to this version, and everything up to it has been sent.
    pub(super) fn progress(&self, version: u64) -> SourceEvent {
        SourceEvent {
            change: None,
            action: None,
            seen: SystemTime::now(),
            watch: Some(self.id()),
            version: Some(version),
        }
    }

    fn id(&self) -> WatchId {
        WatchId { kind: K::KIND, scope: self.scope.clone() }
    }

    /// A list becomes one change at its end, so that nothing is missing in between; an object that
    /// cannot be used is as good as gone, and nothing else suffers.
    pub(super) fn apply(&mut self, event: Event<LenientDecode<K>>) -> Option<Change> {
        match event {
            Event::Init => {
                self.listing = Vec::new();
                self.listed_remarks = BTreeMap::new();
                None
            }
            Event::InitApply(object) => {
                let (used, remark) = self.convert(&object);
                self.listing.extend(used);
                self.listed_remarks.extend(remark.map(|remark| (object_ref(&object), remark)));
                None
            }
            Event::InitDone => {
                self.replace_remarks();
                Some(K::listed(self.scope.clone(), std::mem::take(&mut self.listing)))
            }
            Event::Apply(object) => {
                let (used, remark) = self.convert(&object);
                self.set_remark(object_ref(&object), remark);
                Some(match used {
                    Some(used) => K::updated(used),
                    None => deletion_of(&object),
                })
            }
            Event::Delete(object) => {
                self.set_remark(object_ref(&object), None);
                Some(deletion_of(&object))
            }
        }
    }

    fn convert(&mut self, object: &LenientDecode<K>) -> (Option<K::Model>, Option<Remark>) {
        let object = match object {
            LenientDecode::Decoded(object) => object,
            LenientDecode::Undecodable { reason, .. } => {
                return (None, Some(Remark::Rejected(reason.clone())));
            }
        };
        match object.convert(&mut self.converter) {
            Ok(Some(Converted { value, flaws, notes })) => {
                let parts: Vec<_> = flaws.iter().chain(&notes).map(ToString::to_string).collect();
                let remark = (!parts.is_empty()).then(|| Remark::Noted(parts.join("; ")));
                (Some(value), remark)
            }
            Ok(None) => (None, None),
            Err(rejection) => (None, Some(Remark::Rejected(rejection.to_string()))),
        }
    }

    fn replace_remarks(&mut self) {
        let new = std::mem::take(&mut self.listed_remarks);
        let old: BTreeSet<_> = self.remarks.keys().cloned().collect();
        for object in old.into_iter().filter(|object| !new.contains_key(object)) {
            self.set_remark(object, None);
        }
        let mut rejected = 0;
        for (object, remark) in new {
            if let Remark::Rejected(reason) = &remark
                && self.remarks.get(&object) != Some(&remark)
            {
                rejected += 1;
                if rejected <= LOGGED {
                    warn!(%object, %reason, "left out");
                }
            }
            self.report(&object, Some(&remark));
            self.remarks.insert(object, remark);
        }
        if rejected > LOGGED {
            warn!(kind = K::KIND, count = rejected, "objects were left out, the first are above");
        }
    }

    fn set_remark(&mut self, object: String, remark: Option<Remark>) {
        if self.remarks.get(&object) == remark.as_ref() {
            return;
        }
        if let Some(Remark::Rejected(reason)) = &remark {
            warn!(%object, %reason, "left out");
        }
        self.report(&object, remark.as_ref());
        match remark {
            Some(remark) => self.remarks.insert(object, remark),
            None => self.remarks.remove(&object),
        };
    }

    fn report(&self, object: &str, remark: Option<&Remark>) {
        let (rejected, noted) = match remark {
            Some(Remark::Rejected(reason)) => (Some(reason.clone()), None),
            Some(Remark::Noted(note)) => (None, Some(note.clone())),
            None => (None, None),
        };
        self.health.rejected(object, rejected);
        self.health.noted(object, noted);
    }
}

/// Where a person finds the object: `Service default/reviews`.
fn object_ref<K: Watched>(object: &LenientDecode<K>) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or_default();
    format!("{} {}/{name}", K::KIND, namespace_of(metadata))
}

fn version_of<K: Watched>(object: &LenientDecode<K>) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

fn deletion_of<K: Watched>(object: &LenientDecode<K>) -> Change {
    let metadata = object.meta();
    K::deleted(namespace_of(metadata), metadata.name.as_deref().unwrap_or_default())
}

pub(super) fn namespaced<K: Watched + kube::Resource<Scope = NamespaceResourceScope>>(
    client: Client,
    scope: &Scope,
) -> Api<LenientDecode<K>> {
    match scope {
        Scope::All => Api::all(client),
        Scope::Namespace(namespace) => Api::namespaced(client, namespace),
    }
}

impl Watched for core::Service {
    type Model = Service;
    const RESOURCE: &'static str = "services";

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }

    fn convert(&self, converter: &mut Converter) -> Result<Option<Converted<Service>>, Rejection> {
        converter.service(self).map(Some)
    }
    fn updated(object: Service) -> Change {
        Change::Service(object)
    }
    fn listed(scope: Scope, objects: Vec<Service>) -> Change {
        Change::Services(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::ServiceGone(ServiceKey::new(namespace, name))
    }
}

impl Watched for discovery::EndpointSlice {
    type Model = EndpointSlice;
    const RESOURCE: &'static str = "endpointslices.discovery.k8s.io";

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }

    fn selector() -> Option<String> {
        Some(SERVICE_NAME_LABEL.to_owned())
    }
    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
        converter.slice(self)
    }
    fn updated(object: EndpointSlice) -> Change {
        Change::Slice(object)
    }
    fn listed(scope: Scope, objects: Vec<EndpointSlice>) -> Change {
        Change::Slices(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::SliceGone { namespace: namespace.into(), name: name.into() }
    }
}

impl Watched for core::Endpoints {
    type Model = EndpointSlice;
    const RESOURCE: &'static str = "endpoints";

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }

    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
        converter.endpoints(self)
    }
    fn updated(object: EndpointSlice) -> Change {
        Change::Slice(object)
    }
    fn listed(scope: Scope, objects: Vec<EndpointSlice>) -> Change {
        Change::Slices(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::SliceGone { namespace: namespace.into(), name: endpoints_name(name) }
    }
}

#[cfg(test)]
mod tests;

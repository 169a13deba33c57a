//! Watch events turned into changes of the model; no network, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

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
use super::lenient::Lenient;
use crate::model::{Change, EndpointSlice, Scope, Service, ServiceKey};

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
    fn api(client: Client, scope: &Scope) -> Api<Lenient<Self>>;
    /// `None` for an object that is not for us.
    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<Self::Model>>, Rejection>;
    fn one(object: Self::Model) -> Change;
    fn all(scope: Scope, objects: Vec<Self::Model>) -> Change;
    fn gone(namespace: &str, name: &str) -> Change;
}

/// The state of one watch: what a list has brought so far, and which objects are not (fully) used.
#[derive(Debug)]
pub(super) struct Ingest<K: Watched> {
    scope: Scope,
    health: Arc<Health>,
    converter: Converter,
    /// Filled from `Init` to `InitDone`.
    listing: Vec<K::Model>,
    /// What was said in the health of objects of this watch, so that it can be taken back.
    remarks: BTreeMap<String, Remark>,
    listed_remarks: BTreeMap<String, Remark>,
    lists: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Remark {
    Rejected(String),
    Noted(String),
}

impl<K: Watched> Ingest<K> {
    pub(super) fn new(scope: Scope, health: Arc<Health>) -> Self {
        Self {
            scope,
            health,
            converter: Converter::default(),
            listing: Vec::new(),
            remarks: BTreeMap::new(),
            listed_remarks: BTreeMap::new(),
            lists: 0,
        }
    }

    /// Whether exactly one list has been completed.
    pub(super) fn is_first_list(&self) -> bool {
        self.lists == 1
    }

    /// A list becomes one change at its end, so that nothing is missing in between; an object that
    /// cannot be used is as good as gone, and nothing else suffers.
    pub(super) fn take(&mut self, event: Event<Lenient<K>>) -> Option<Change> {
        match event {
            Event::Init => {
                self.listing = Vec::new();
                self.listed_remarks = BTreeMap::new();
                None
            }
            Event::InitApply(object) => {
                let (used, remark) = self.convert(&object);
                self.listing.extend(used);
                self.listed_remarks.extend(remark.map(|remark| (place(&object), remark)));
                None
            }
            Event::InitDone => {
                self.lists += 1;
                self.replace_remarks();
                Some(K::all(self.scope.clone(), std::mem::take(&mut self.listing)))
            }
            Event::Apply(object) => {
                let (used, remark) = self.convert(&object);
                self.set_remark(place(&object), remark);
                Some(match used {
                    Some(used) => K::one(used),
                    None => gone(&object),
                })
            }
            Event::Delete(object) => {
                self.set_remark(place(&object), None);
                Some(gone(&object))
            }
        }
    }

    fn convert(&mut self, object: &Lenient<K>) -> (Option<K::Model>, Option<Remark>) {
        let object = match object {
            Lenient::Whole(object) => object,
            Lenient::Broken { reason, .. } => {
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
        for place in old.into_iter().filter(|place| !new.contains_key(place)) {
            self.set_remark(place, None);
        }
        let mut rejected = 0;
        for (place, remark) in new {
            if let Remark::Rejected(reason) = &remark
                && self.remarks.get(&place) != Some(&remark)
            {
                rejected += 1;
                if rejected <= LOGGED {
                    warn!(object = %place, %reason, "left out");
                }
            }
            self.show(&place, Some(&remark));
            self.remarks.insert(place, remark);
        }
        if rejected > LOGGED {
            warn!(kind = K::KIND, count = rejected, "objects were left out, the first are above");
        }
    }

    fn set_remark(&mut self, place: String, remark: Option<Remark>) {
        if self.remarks.get(&place) == remark.as_ref() {
            return;
        }
        if let Some(Remark::Rejected(reason)) = &remark {
            warn!(object = %place, %reason, "left out");
        }
        self.show(&place, remark.as_ref());
        match remark {
            Some(remark) => self.remarks.insert(place, remark),
            None => self.remarks.remove(&place),
        };
    }

    fn show(&self, place: &str, remark: Option<&Remark>) {
        let (rejected, noted) = match remark {
            Some(Remark::Rejected(reason)) => (Some(reason.clone()), None),
            Some(Remark::Noted(note)) => (None, Some(note.clone())),
            None => (None, None),
        };
        self.health.rejected(place, rejected);
        self.health.noted(place, noted);
    }
}

/// Where a person finds the object: `Service default/reviews`.
fn place<K: Watched>(object: &Lenient<K>) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or_default();
    format!("{} {}/{name}", K::KIND, namespace_of(metadata))
}

fn gone<K: Watched>(object: &Lenient<K>) -> Change {
    let metadata = object.meta();
    K::gone(namespace_of(metadata), metadata.name.as_deref().unwrap_or_default())
}

fn namespaced<K: Watched + kube::Resource<Scope = NamespaceResourceScope>>(
    client: Client,
    scope: &Scope,
) -> Api<Lenient<K>> {
    match scope {
        Scope::All => Api::all(client),
        Scope::Namespace(namespace) => Api::namespaced(client, namespace),
    }
}

impl Watched for core::Service {
    type Model = Service;
    const RESOURCE: &'static str = "services";

    fn api(client: Client, scope: &Scope) -> Api<Lenient<Self>> {
        namespaced(client, scope)
    }

    fn convert(&self, converter: &mut Converter) -> Result<Option<Converted<Service>>, Rejection> {
        converter.service(self).map(Some)
    }
    fn one(object: Service) -> Change {
        Change::Service(object)
    }
    fn all(scope: Scope, objects: Vec<Service>) -> Change {
        Change::Services(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn gone(namespace: &str, name: &str) -> Change {
        Change::ServiceGone(ServiceKey::new(namespace, name))
    }
}

impl Watched for discovery::EndpointSlice {
    type Model = EndpointSlice;
    const RESOURCE: &'static str = "endpointslices.discovery.k8s.io";

    fn api(client: Client, scope: &Scope) -> Api<Lenient<Self>> {
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
    fn one(object: EndpointSlice) -> Change {
        Change::Slice(object)
    }
    fn all(scope: Scope, objects: Vec<EndpointSlice>) -> Change {
        Change::Slices(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn gone(namespace: &str, name: &str) -> Change {
        Change::SliceGone { namespace: namespace.into(), name: name.into() }
    }
}

impl Watched for core::Endpoints {
    type Model = EndpointSlice;
    const RESOURCE: &'static str = "endpoints";

    fn api(client: Client, scope: &Scope) -> Api<Lenient<Self>> {
        namespaced(client, scope)
    }

    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
        converter.endpoints(self)
    }
    fn one(object: EndpointSlice) -> Change {
        Change::Slice(object)
    }
    fn all(scope: Scope, objects: Vec<EndpointSlice>) -> Change {
        Change::Slices(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn gone(namespace: &str, name: &str) -> Change {
        Change::SliceGone { namespace: namespace.into(), name: endpoints_name(name) }
    }
}

#[cfg(test)]
mod tests;

//! What has changed since the last snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Model, RouteKey, ServiceKey};

/// The objects of the model that changes have really touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services of which something has changed: themselves, or their slices.
    pub services: BTreeSet<ServiceKey>,
    pub routes: BTreeSet<RouteKey>,
    /// Namespaces with other ReferenceGrants than before.
    pub grants: BTreeSet<Arc<str>>,
}

impl Dirty {
    /// All there is, as for a reader that has seen nothing yet.
    pub fn everything_in(model: &Model) -> Self {
        let sliced = model.sliced_services().cloned();
        Self {
            services: model.services().map(|service| service.key.clone()).chain(sliced).collect(),
            routes: model.routes().map(|route| route.key.clone()).collect(),
            grants: BTreeSet::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.routes.is_empty() && self.grants.is_empty()
    }
}

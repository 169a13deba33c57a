//! Which namespaces see which services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ExportTo, ServiceKey};

/// The services that not everybody sees. Nearly always few, hence kept apart.
#[derive(Debug, Default)]
pub(super) struct Visibility {
    restricted: BTreeMap<ServiceKey, ExportTo>,
    /// The restricted services that each namespace does see.
    seen: BTreeMap<Arc<str>, BTreeSet<ServiceKey>>,
}

impl Visibility {
    /// Puts `export_to` in the place of what was known of the service; `None` if it is gone.
    pub(super) fn put(&mut self, key: &ServiceKey, export_to: Option<&ExportTo>) {
        if let Some(ExportTo::Only(namespaces)) = self.restricted.remove(key) {
            for namespace in namespaces.iter() {
                if let Some(seen) = self.seen.get_mut(namespace) {
                    seen.remove(key);
                    if seen.is_empty() {
                        self.seen.remove(namespace);
                    }
                }
            }
        }
        let Some(export_to @ ExportTo::Only(namespaces)) = export_to else { return };
        for namespace in namespaces.iter() {
            self.seen.entry(namespace.clone()).or_default().insert(key.clone());
        }
        self.restricted.insert(key.clone(), export_to.clone());
    }

    /// Whether proxies of this namespace (of none) see the service.
    pub(super) fn sees(&self, namespace: Option<&str>, key: &ServiceKey) -> bool {
        self.restricted.get(key).is_none_or(|export_to| export_to.reaches(namespace))
    }

    /// The services that this namespace sees and not everybody.
    pub(super) fn seen_by(&self, namespace: &str) -> impl Iterator<Item = &ServiceKey> {
        self.seen.get(namespace).into_iter().flatten()
    }
}

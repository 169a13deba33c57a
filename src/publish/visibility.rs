//! The one rule of who sees what: a service is exported to everybody or to some namespaces, and
//! whatever is made of it is seen by the proxies of those namespaces alone.
//!
//! [`RestrictedServices`] applies the rule to services, for tables and listeners that are made of
//! several; [`RestrictedResources`] to resources that belong to a single service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::Resource;

use super::layers::{Override, ResourceChanges};
use crate::model::{ExportTo, ServiceKey};

/// The services that not everybody sees. Nearly always few, hence kept apart.
#[derive(Debug, Default)]
pub(super) struct RestrictedServices {
    exports: BTreeMap<ServiceKey, ExportTo>,
    /// The restricted services that each namespace does see.
    by_namespace: BTreeMap<Arc<str>, BTreeSet<ServiceKey>>,
}

impl RestrictedServices {
    /// Puts `export_to` in the place of what was known of the service; `None` if it is gone.
    pub(super) fn set_export(&mut self, key: &ServiceKey, export_to: Option<&ExportTo>) {
        if let Some(ExportTo::Only(namespaces)) = self.exports.remove(key) {
            for namespace in namespaces.iter() {
                if let Some(seen) = self.by_namespace.get_mut(namespace) {
                    seen.remove(key);
                    if seen.is_empty() {
                        self.by_namespace.remove(namespace);
                    }
                }
            }
        }
        let Some(export_to @ ExportTo::Only(namespaces)) = export_to else { return };
        for namespace in namespaces.iter() {
            self.by_namespace.entry(namespace.clone()).or_default().insert(key.clone());
        }
        self.exports.insert(key.clone(), export_to.clone());
    }

    /// Whether proxies of this namespace (of none) see the service.
    pub(super) fn is_visible(&self, namespace: Option<&str>, key: &ServiceKey) -> bool {
        self.exports.get(key).is_none_or(|export_to| export_to.reaches(namespace))
    }

    /// The services that this namespace sees and not everybody.
    pub(super) fn visible_in(&self, namespace: &str) -> impl Iterator<Item = &ServiceKey> {
        self.by_namespace.get(namespace).into_iter().flatten()
    }
}

/// Resources that are not in everybody's set, by name, with the namespaces that have them.
#[derive(Debug, Default)]
pub(super) struct RestrictedResources {
    by_name: BTreeMap<Arc<str>, (ExportTo, Arc<Resource>)>,
    /// The names that each namespace sees and not everybody.
    by_namespace: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl RestrictedResources {
    /// Takes the resource if not everybody sees it; gives what everybody has under its name.
    pub(super) fn separate(
        &mut self,
        export_to: &ExportTo,
        resource: Arc<Resource>,
    ) -> (Arc<str>, Option<Arc<Resource>>) {
        let name = resource.name.clone();
        match export_to {
            ExportTo::Everyone => {
                self.remove(&name);
                (name, Some(resource))
            }
            ExportTo::Only(_) => {
                self.insert(export_to, resource);
                (name, None)
            }
        }
    }

    pub(super) fn insert(&mut self, export_to: &ExportTo, resource: Arc<Resource>) {
        self.remove(&resource.name);
        if let ExportTo::Only(namespaces) = export_to {
            for namespace in namespaces.iter() {
                let names = self.by_namespace.entry(namespace.clone()).or_default();
                names.insert(resource.name.clone());
            }
        }
        self.by_name.insert(resource.name.clone(), (export_to.clone(), resource));
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some((ExportTo::Only(namespaces), _)) = self.by_name.remove(name) else { return };
        for namespace in namespaces.iter() {
            if let Some(names) = self.by_namespace.get_mut(namespace) {
                names.remove(name);
                if names.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
        }
    }

    /// What proxies of this namespace (of none) have under a name.
    pub(super) fn override_in(&self, namespace: Option<&str>, name: &str) -> Override {
        match self.by_name.get(name) {
            Some((export_to, resource)) if export_to.reaches(namespace) => {
                Override::Replace(resource.clone())
            }
            _ => Override::Inherit,
        }
    }

    /// All that proxies of this namespace have and not everybody. Costs that, not the restricted ones of all.
    pub(super) fn overrides_in(&self, namespace: &str) -> ResourceChanges {
        let names = self.by_namespace.get(namespace).into_iter().flatten();
        let seen = names.filter_map(|name| Some((name, &self.by_name.get(name)?.1)));
        seen.map(|(name, resource)| (name.clone(), Some(resource.clone()))).collect()
    }

    /// All that everybody has.
    pub(super) fn overrides_everywhere(&self) -> ResourceChanges {
        let seen = self.by_name.iter().filter(|(_, (export_to, _))| export_to.reaches(None));
        seen.map(|(name, (_, resource))| (name.clone(), Some(resource.clone()))).collect()
    }
}

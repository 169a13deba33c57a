//! Which aliases must be resolved anew when a service changes: those that lead to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Model, ServiceKey};

/// An index from services to their aliases, whether or not the services exist. It says only who
/// names whom directly, so it follows from the aliases themselves.
#[derive(Debug, Default)]
pub(super) struct AliasIndex {
    targets: BTreeMap<ServiceKey, ServiceKey>,
    aliases: BTreeMap<ServiceKey, BTreeSet<ServiceKey>>,
}

impl AliasIndex {
    /// Records whom the changed services name now, and gives all aliases that lead to one of them,
    /// over however many others.
    pub(super) fn update(
        &mut self,
        model: &Model,
        changed: &BTreeSet<ServiceKey>,
        domain: &str,
    ) -> BTreeSet<ServiceKey> {
        for key in changed {
            let target = model.service(key).and_then(|service| service.alias_of(domain));
            self.set_target(key, target);
        }
        self.leading_to(changed)
    }

    /// All aliases that lead to one of these services, over however many others.
    pub(super) fn leading_to(&self, services: &BTreeSet<ServiceKey>) -> BTreeSet<ServiceKey> {
        let mut found = BTreeSet::new();
        let mut next: Vec<&ServiceKey> = services.iter().collect();
        while let Some(key) = next.pop() {
            for alias in self.aliases.get(key).into_iter().flatten() {
                if found.insert(alias.clone()) {
                    next.push(alias);
                }
            }
        }
        found
    }

    fn set_target(&mut self, alias: &ServiceKey, target: Option<ServiceKey>) {
        if let Some(before) = self.targets.remove(alias)
            && let Some(aliases) = self.aliases.get_mut(&before)
        {
            aliases.remove(alias);
            if aliases.is_empty() {
                self.aliases.remove(&before);
            }
        }
        if let Some(target) = target {
            self.aliases.entry(target.clone()).or_default().insert(alias.clone());
            self.targets.insert(alias.clone(), target);
        }
    }
}

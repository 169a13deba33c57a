//! Who must be looked at again when a service changes: the aliases that lead to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Model, ServiceKey};

/// An index from services to their aliases, whether or not the services exist. It says only who
/// names whom directly, so it follows from the aliases themselves.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    targets: BTreeMap<ServiceKey, ServiceKey>,
    of: BTreeMap<ServiceKey, BTreeSet<ServiceKey>>,
}

impl Aliases {
    /// Notes whom the changed services name now, and gives all aliases that lead to one of them,
    /// over however many others.
    pub(super) fn follow(
        &mut self,
        model: &Model,
        changed: &BTreeSet<ServiceKey>,
        domain: &str,
    ) -> BTreeSet<ServiceKey> {
        for key in changed {
            let target = model.service(key).and_then(|service| service.alias_of(domain));
            self.put(key, target);
        }
        let mut found = BTreeSet::new();
        let mut next: Vec<&ServiceKey> = changed.iter().collect();
        while let Some(key) = next.pop() {
            for alias in self.of.get(key).into_iter().flatten() {
                if found.insert(alias.clone()) {
                    next.push(alias);
                }
            }
        }
        found
    }

    fn put(&mut self, alias: &ServiceKey, target: Option<ServiceKey>) {
        if let Some(before) = self.targets.remove(alias)
            && let Some(aliases) = self.of.get_mut(&before)
        {
            aliases.remove(alias);
            if aliases.is_empty() {
                self.of.remove(&before);
            }
        }
        if let Some(target) = target {
            self.of.entry(target.clone()).or_default().insert(alias.clone());
            self.targets.insert(alias.clone(), target);
        }
    }
}

//! Which routes apply to whom: the rules in effect for each Service, and what has become of each route.
//!
//! [`RouteIndex`] holds every route as it was last published, by its parents, its backends and the namespaces
//! whose ReferenceGrants it needs. A change costs work for the routes concerned: those that changed, those that
//! name a Service that changed, those that need a grant of a namespace whose grants changed; and for the other
//! routes of their parents, since routes of one parent decide among themselves (GRPCRoutes go before
//! HTTPRoutes). A mesh without routes pays for one look whether there are any.
//!
//! What comes out is the same, to whoever compares pointers, as long as it says the same. No async.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::service_index::ServiceIndex;
use crate::model::route::{
    AcceptedReason, ParentTarget, ParentVerdict, RefsReason, ResolvedBackends, Route, RouteReport,
    RouteVerdict, ServiceRules, Verdict,
};
use crate::model::{Dirty, Model, RouteKey, ServiceKey};

mod backends;
mod parents;

#[derive(Debug, Default)]
pub(super) struct RouteIndex {
    routes: BTreeMap<RouteKey, IndexedRoute>,
    by_parent: BTreeMap<ServiceKey, BTreeSet<RouteKey>>,
    by_backend: BTreeMap<ServiceKey, BTreeSet<RouteKey>>,
    /// Routes that mirror requests to this Service.
    by_mirror: BTreeMap<ServiceKey, BTreeSet<RouteKey>>,
    /// Routes with a backend in this namespace, which is not their own.
    by_grants: BTreeMap<Arc<str>, BTreeSet<RouteKey>>,
    /// The Services for which clients of this namespace have consumer routes.
    consumed: BTreeMap<Arc<str>, BTreeSet<ServiceKey>>,
    report: RouteReport,
}

/// What differs from what was last published.
#[derive(Debug, Default)]
pub(super) struct RouteChanges {
    /// Services whose rules changed.
    pub(super) services: BTreeSet<ServiceKey>,
    /// Namespaces whose clients got their first rules of their own (true), or lost their last.
    pub(super) consuming: BTreeMap<Arc<str>, bool>,
    /// Services that were named as mirrors, or are.
    pub(super) mirrored: BTreeSet<ServiceKey>,
}

#[derive(Debug)]
struct IndexedRoute {
    route: Arc<Route>,
    backends: Arc<ResolvedBackends>,
    /// One for each of the route's parents.
    verdicts: Vec<ParentVerdict>,
}

impl RouteIndex {
    /// Takes in what is `dirty`, and the Services in `redefined`, as `services` has them now; gives what
    /// changed.
    pub(super) fn update(
        &mut self,
        model: &Model,
        dirty: &Dirty,
        services: &ServiceIndex,
        redefined: &BTreeSet<ServiceKey>,
    ) -> RouteChanges {
        let mut changes = RouteChanges::default();
        if self.routes.is_empty() && dirty.routes.is_empty() {
            return changes;
        }
        let mut concerned = dirty.routes.clone();
        let by_grants = dirty.grants.iter().filter_map(|namespace| self.by_grants.get(namespace));
        concerned.extend(by_grants.flatten().cloned());
        let by_backend = redefined.iter().filter_map(|key| self.by_backend.get(key));
        concerned.extend(by_backend.flatten().cloned());

        let mut parents: BTreeSet<_> =
            redefined.iter().filter(|key| self.by_parent.contains_key(*key)).cloned().collect();
        let mut judged = BTreeSet::new();
        for key in concerned {
            if self.index(&key, model, services, &mut parents, &mut changes.mirrored) {
                judged.insert(key);
            }
        }
        for parent in parents {
            judged.extend(self.by_parent.get(&parent).into_iter().flatten().cloned());
            if self.update_rules(&parent, services, &mut changes.consuming) {
                changes.services.insert(parent);
            }
        }
        judged.iter().for_each(|key| self.update_verdict(key));
        changes
    }

    /// The rules in effect for a Service, if it has any.
    pub(super) fn rules(&self, service: &ServiceKey) -> Option<&Arc<ServiceRules>> {
        self.report.services.get(service)
    }

    /// Whether some route mirrors requests to this Service, in effect or not.
    pub(super) fn is_mirrored(&self, service: &ServiceKey) -> bool {
        self.by_mirror.contains_key(service)
    }

    /// Whether no Service has any rules.
    pub(super) fn is_empty(&self) -> bool {
        self.report.services.is_empty()
    }

    /// The Services for which clients of this namespace have rules of their own.
    pub(super) fn consumed_in(&self, namespace: &str) -> impl Iterator<Item = &ServiceKey> {
        self.consumed.get(namespace).into_iter().flatten()
    }

    /// What has become of each route.
    pub(super) fn report(&self) -> &RouteReport {
        &self.report
    }

    /// Takes one route in as it is in the model; whether anything about it changed. Adds to `parents` the
    /// Services that have or had it as a route, to `mirrored` those that it mirrors or mirrored to.
    fn index(
        &mut self,
        key: &RouteKey,
        model: &Model,
        services: &ServiceIndex,
        parents: &mut BTreeSet<ServiceKey>,
        mirrored: &mut BTreeSet<ServiceKey>,
    ) -> bool {
        let before = self.routes.get(key);
        let Some(route) = model.route(key) else {
            let Some(before) = self.routes.remove(key) else { return false };
            parents.extend(service_parents(&before.route).cloned());
            mirrored.extend(backends::mirrors_of(&before.route).cloned());
            self.set_references(key, &before.route, false);
            return true;
        };
        let backends = backends::resolve(route, services, model);
        if before.is_some_and(|one| Arc::ptr_eq(&one.route, route) && *one.backends == backends) {
            return false;
        }
        let refs = backends::verdict(route, &backends);
        let verdicts = route.parents.iter().map(|parent| ParentVerdict {
            parent: parent.clone(),
            role: None,
            accepted: not_ours(&parent.target),
            resolved_refs: refs.clone(),
            ports: Vec::new(),
        });
        let now = IndexedRoute {
            route: route.clone(),
            backends: Arc::new(backends),
            verdicts: verdicts.collect(),
        };
        if let Some(before) = self.routes.insert(key.clone(), now) {
            parents.extend(service_parents(&before.route).cloned());
            mirrored.extend(backends::mirrors_of(&before.route).cloned());
            self.set_references(key, &before.route, false);
        }
        parents.extend(service_parents(route).cloned());
        mirrored.extend(backends::mirrors_of(route).cloned());
        self.set_references(key, route, true);
        true
    }

    /// Records (or takes back) whom a route names.
    fn set_references(&mut self, key: &RouteKey, route: &Route, names: bool) {
        for parent in service_parents(route) {
            set(&mut self.by_parent, parent, key, names);
        }
        for backend in backends::services_of(route) {
            set(&mut self.by_backend, backend, key, names);
            if backend.namespace != key.namespace {
                set(&mut self.by_grants, &backend.namespace, key, names);
            }
        }
        for mirror in backends::mirrors_of(route) {
            set(&mut self.by_mirror, mirror, key, names);
        }
    }

    /// Makes the rules of a Service anew, and the verdicts of its routes there; whether the rules changed.
    fn update_rules(
        &mut self,
        parent: &ServiceKey,
        services: &ServiceIndex,
        consuming: &mut BTreeMap<Arc<str>, bool>,
    ) -> bool {
        let keys = self.by_parent.get(parent).into_iter().flatten();
        let routes: Vec<_> = keys.filter_map(|key| self.routes.get(key)).collect();
        let service = services.entry(parent).and_then(|entry| entry.source.as_deref());
        let before = self.report.services.get(parent).cloned();
        let (rules, verdicts) = parents::decide(parent, service, &routes, before.as_deref());
        for (key, at, verdict) in verdicts {
            if let Some(own) = self.routes.get_mut(&key).and_then(|one| one.verdicts.get_mut(at)) {
                own.role = Some(verdict.role);
                own.accepted = verdict.accepted;
                own.ports = verdict.ports;
            }
        }
        if before.as_deref().is_some_and(|before| *before == rules)
            || before.is_none() && is_nothing(&rules)
        {
            return false;
        }
        let old = before.iter().flat_map(|before| before.consumers.keys());
        let namespaces: BTreeSet<&Arc<str>> = old.chain(rules.consumers.keys()).collect();
        for namespace in namespaces {
            let was = self.consumed.contains_key(namespace);
            set(&mut self.consumed, namespace, parent, rules.consumers.contains_key(namespace));
            let is = self.consumed.contains_key(namespace);
            // What came and went in one go is no change.
            if was != is && consuming.remove(namespace).is_none() {
                consuming.insert(namespace.clone(), is);
            }
        }
        if is_nothing(&rules) {
            self.report.services.remove(parent);
        } else {
            self.report.services.insert(parent.clone(), Arc::new(rules));
        }
        true
    }

    /// Puts a route's verdict into the report, if it differs from what is there.
    fn update_verdict(&mut self, key: &RouteKey) {
        let Some(IndexedRoute { route, verdicts, .. }) = self.routes.get(key) else {
            self.report.routes.remove(key);
            return;
        };
        let verdict = RouteVerdict {
            generation: route.generation,
            created: route.created.clone(),
            parents: verdicts.clone(),
        };
        if self.report.routes.get(key).is_none_or(|known| **known != verdict) {
            self.report.routes.insert(key.clone(), Arc::new(verdict));
        }
    }
}

/// The Services among a route's parents.
fn service_parents(route: &Route) -> impl Iterator<Item = &ServiceKey> {
    route.parents.iter().filter_map(|parent| match &parent.target {
        ParentTarget::Service(key) => Some(key),
        ParentTarget::Other { .. } => None,
    })
}

/// What is said of a parent until its Service has its say.
fn not_ours(target: &ParentTarget) -> Verdict<AcceptedReason> {
    let message = match target {
        ParentTarget::Service(_) => String::new(),
        ParentTarget::Other { group, kind, namespace, name } => {
            format!("{group}/{kind} {namespace}/{name} is no Service: another controller's to say")
        }
    };
    Verdict { reason: AcceptedReason::NoMatchingParent, message: message.into() }
}

fn is_nothing(rules: &ServiceRules) -> bool {
    rules.producer.is_empty() && rules.consumers.is_empty()
}

/// Adds a value to (or takes it from) those under a key; a key without values is not kept.
pub(super) fn set<K: Ord + Clone, V: Ord + Clone>(
    index: &mut BTreeMap<K, BTreeSet<V>>,
    key: &K,
    value: &V,
    is_there: bool,
) {
    if is_there {
        index.entry(key.clone()).or_default().insert(value.clone());
    } else if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;

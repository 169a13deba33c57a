//! What a complete list changes, object by object: for people, who would otherwise see only that
//! something was listed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Action, Change, EndpointSlice, Model, ObjectRef, Service};

/// An object that a list tells something new of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub object: ObjectRef,
    pub action: Action,
    /// Its `resourceVersion`, where it is kept.
    pub version: Option<u64>,
}

/// How many objects a list changes, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub total: usize,
    pub first: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, limit: usize, difference: impl FnOnce() -> Difference) {
        self.total += 1;
        if self.first.len() < limit {
            self.first.push(difference());
        }
    }
}

impl Model {
    /// What a complete list will change: at most `limit` objects by name, those that are new or
    /// changed before those that are gone. Nothing for other changes, and for Nodes, of which there
    /// is no more to say than that they were listed.
    pub fn differences(&self, change: &Change, limit: usize) -> Differences {
        let mut found = Differences::default();
        match change {
            Change::Services(scope, list) => {
                for service in list {
                    if self.service(&service.key).is_none_or(|known| !known.same_meaning(service)) {
                        found.add(limit, || applied_service(service));
                    }
                }
                let kept: BTreeSet<_> = list.iter().map(|service| &service.key).collect();
                let known = self.services().map(|service| &service.key);
                for key in known.filter(|key| scope.covers(&key.namespace) && !kept.contains(key)) {
                    found.add(limit, || deleted(ObjectRef::service(key)));
                }
            }
            Change::Slices(scope, list) => {
                for slice in list {
                    let known = self.slice(&slice.service, &slice.name);
                    if known.is_none_or(|known| !same_slice(known, slice)) {
                        found.add(limit, || applied_slice(slice));
                    }
                }
                let kept: BTreeSet<_> =
                    list.iter().map(|slice| (&slice.service.namespace, &slice.name)).collect();
                let known = self.slice_names();
                for (namespace, name) in known.filter(|id| scope.covers(id.0) && !kept.contains(id))
                {
                    found.add(limit, || deleted(ObjectRef::slice(namespace, name)));
                }
            }
            _ => {}
        }
        found
    }
}

/// A source that keeps what it has read sends the same allocation again.
fn same_slice(known: &Arc<EndpointSlice>, slice: &Arc<EndpointSlice>) -> bool {
    Arc::ptr_eq(known, slice) || known == slice
}

fn applied_service(service: &Service) -> Difference {
    Difference {
        object: ObjectRef::service(&service.key),
        action: Action::Applied,
        version: service.resource_version.parse().ok(),
    }
}

fn applied_slice(slice: &EndpointSlice) -> Difference {
    Difference {
        object: ObjectRef::slice(&slice.service.namespace, &slice.name),
        action: Action::Applied,
        version: None,
    }
}

fn deleted(object: ObjectRef) -> Difference {
    Difference { object, action: Action::Deleted, version: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Scope, ServiceKey, ServiceKind};

    fn service(namespace: &str, name: &str, version: &str) -> Arc<Service> {
        let key = ServiceKey::new(namespace, name);
        let kind = ServiceKind::ClusterIp(Vec::new());
        Arc::new(Service {
            resource_version: version.into(),
            ..Service::new(key, kind, Vec::new())
        })
    }

    fn slice(namespace: &str, name: &str, service: &str) -> Arc<EndpointSlice> {
        let service = ServiceKey::new(namespace, service);
        Arc::new(EndpointSlice { name: name.into(), service, subsets: Vec::new() })
    }

    fn text(found: &Differences) -> Vec<String> {
        let one = |one: &Difference| {
            let ObjectRef { kind, namespace, name } = &one.object;
            let (namespace, name) = (namespace.as_deref().unwrap(), name.as_deref().unwrap());
            format!("{} {kind} {namespace}/{name} {:?}", one.action.as_str(), one.version)
        };
        found.first.iter().map(one).collect()
    }

    #[test]
    fn a_list_tells_what_is_new_changed_and_gone_within_its_scope() {
        let mut model = Model::default();
        let known = ["a", "b", "c"].map(|name| service("one", name, "1"));
        let other = service("two", "a", "1");
        let all = known.iter().cloned().chain([other]).collect();
        model.apply(Change::Services(Scope::All, all), &mut Default::default());

        let mut changed = Service::clone(&known[1]);
        changed.kind = ServiceKind::Headless;
        changed.resource_version = "7".into();
        // The first has another version alone, which means nothing.
        let list = vec![service("one", "a", "5"), Arc::new(changed), service("one", "new", "8")];
        let listed = Change::Services(Scope::Namespace("one".into()), list);
        let found = model.differences(&listed, 10);
        let expected = [
            "applied Service one/b Some(7)",
            "applied Service one/new Some(8)",
            "deleted Service one/c None",
        ];
        assert_eq!((text(&found), found.total), (expected.map(str::to_owned).into(), 3));
        let found = model.differences(&listed, 1);
        assert_eq!((text(&found), found.total), (vec![expected[0].to_owned()], 3));

        model.apply(listed.clone(), &mut Default::default());
        assert_eq!(model.differences(&listed, 10), Differences::default(), "nothing any more");
    }

    #[test]
    fn slices_and_endpoints_are_named_as_kubernetes_names_them() {
        let mut model = Model::default();
        let all = vec![slice("one", "web-1", "web"), slice("one", "endpoints/db", "db")];
        let listed = Change::Slices(Scope::All, all.clone());
        let expected = ["applied EndpointSlice one/web-1 None", "applied Endpoints one/db None"];
        assert_eq!(text(&model.differences(&listed, 10)), expected);
        model.apply(listed, &mut Default::default());
        assert_eq!(model.differences(&Change::Slices(Scope::All, all), 10).total, 0);
        // A slice that another service has now.
        let moved = Change::Slices(Scope::All, vec![slice("one", "web-1", "other")]);
        let expected = ["applied EndpointSlice one/web-1 None", "deleted Endpoints one/db None"];
        assert_eq!(text(&model.differences(&moved, 10)), expected);
    }
}

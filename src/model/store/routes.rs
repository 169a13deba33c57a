//! Routes and grants as the source tells of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use crate::model::{Dirty, ReferenceGrant, Route, RouteKey, RouteKind, Scope};

/// Namespace and name of a grant.
type GrantKey = (Arc<str>, Arc<str>);

#[derive(Clone, Debug, Default)]
pub(super) struct RouteStore {
    routes: OrdMap<RouteKey, Arc<Route>>,
    grants: OrdMap<GrantKey, Arc<ReferenceGrant>>,
}

impl RouteStore {
    pub(super) fn put(&mut self, route: Arc<Route>, dirty: &mut Dirty) {
        if self.routes.get(&route.key).is_some_and(|known| known.same_meaning(&route)) {
            return;
        }
        dirty.routes.insert(route.key.clone());
        self.routes.insert(route.key.clone(), route);
    }

    pub(super) fn remove(&mut self, key: &RouteKey, dirty: &mut Dirty) {
        if self.routes.remove(key).is_some() {
            dirty.routes.insert(key.clone());
        }
    }

    pub(super) fn replace(
        &mut self,
        scope: &Scope,
        kind: RouteKind,
        list: Vec<Arc<Route>>,
        dirty: &mut Dirty,
    ) {
        let kept: BTreeSet<_> = list.iter().map(|route| route.key.clone()).collect();
        let within = |key: &&RouteKey| key.kind == kind && scope.covers(&key.namespace);
        let gone = self.routes.keys().filter(within).filter(|key| !kept.contains(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.remove(&key, dirty);
        }
        list.into_iter().for_each(|route| self.put(route, dirty));
    }

    pub(super) fn put_grant(&mut self, grant: Arc<ReferenceGrant>, dirty: &mut Dirty) {
        let key = (grant.namespace.clone(), grant.name.clone());
        if self.grants.get(&key) != Some(&grant) {
            dirty.grants.insert(grant.namespace.clone());
            self.grants.insert(key, grant);
        }
    }

    pub(super) fn remove_grant(&mut self, key: &GrantKey, dirty: &mut Dirty) {
        if self.grants.remove(key).is_some() {
            dirty.grants.insert(key.0.clone());
        }
    }

    pub(super) fn replace_grants(
        &mut self,
        scope: &Scope,
        list: Vec<Arc<ReferenceGrant>>,
        dirty: &mut Dirty,
    ) {
        let kept: BTreeSet<GrantKey> =
            list.iter().map(|grant| (grant.namespace.clone(), grant.name.clone())).collect();
        let gone = self.grants.keys().filter(|key| scope.covers(&key.0) && !kept.contains(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.remove_grant(&key, dirty);
        }
        list.into_iter().for_each(|grant| self.put_grant(grant, dirty));
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    pub(super) fn route(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        self.routes.get(key)
    }

    pub(super) fn grants(&self, namespace: &str) -> impl Iterator<Item = &Arc<ReferenceGrant>> {
        let first: GrantKey = (namespace.into(), "".into());
        let grants = self.grants.range(first..);
        grants.take_while(move |(key, _)| *key.0 == *namespace).map(|(_, grant)| grant)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;
    use crate::model::Change;

    fn route(kind: RouteKind, namespace: &str, name: &str, version: &str) -> Route {
        Route {
            created: "2026-01-02T03:04:05Z".into(),
            generation: Some(1),
            resource_version: version.into(),
            ..Route::new(RouteKey::new(kind, namespace, name), Vec::new())
        }
    }

    fn grant(namespace: &str, name: &str, to: &str) -> ReferenceGrant {
        let from = vec![(RouteKind::Http, "shop".into())];
        let (namespace, name) = (namespace.into(), name.into());
        ReferenceGrant { namespace, name, from, to: vec![Some(to.into())] }
    }

    /// What a change touches: routes as `KIND NAMESPACE/NAME`, then namespaces of grants.
    fn touched(model: &mut Model, change: Change) -> Vec<String> {
        let mut dirty = Dirty::default();
        model.apply(change, &mut dirty);
        assert!(dirty.services.is_empty());
        let grants = dirty.grants.iter().map(|namespace| format!("grants of {namespace}"));
        dirty.routes.iter().map(ToString::to_string).chain(grants).collect()
    }

    #[test]
    fn a_route_is_touched_by_what_means_something_else_and_by_nothing_else() {
        let mut model = Model::default();
        let first = route(RouteKind::Http, "shop", "a", "1");
        assert_eq!(touched(&mut model, Change::Route(first.clone())), ["HTTPRoute shop/a"]);
        let again = route(RouteKind::Http, "shop", "a", "2");
        assert!(touched(&mut model, Change::Route(again)).is_empty(), "a status was written");
        let edited = Route { generation: Some(2), ..first.clone() };
        assert_eq!(touched(&mut model, Change::Route(edited)), ["HTTPRoute shop/a"]);
        assert_eq!(touched(&mut model, Change::RouteGone(first.key.clone())), ["HTTPRoute shop/a"]);
        assert!(touched(&mut model, Change::RouteGone(first.key)).is_empty(), "gone already");
    }

    #[test]
    fn a_list_replaces_the_routes_of_its_kind_within_its_scope() {
        let mut model = Model::default();
        for (kind, namespace, name) in [
            (RouteKind::Http, "shop", "a"),
            (RouteKind::Http, "shop", "b"),
            (RouteKind::Http, "bank", "a"),
            (RouteKind::Grpc, "shop", "a"),
        ] {
            model.apply(Change::Route(route(kind, namespace, name, "1")), &mut Dirty::default());
        }
        let list = vec![
            Arc::new(route(RouteKind::Http, "shop", "b", "9")),
            Arc::new(route(RouteKind::Http, "shop", "c", "9")),
        ];
        let scope = Scope::Namespace("shop".into());
        let listed = Change::Routes(scope, RouteKind::Http, list);
        assert_eq!(touched(&mut model, listed), ["HTTPRoute shop/a", "HTTPRoute shop/c"]);
        let known: Vec<_> = model.routes().map(|route| route.key.to_string()).collect();
        let expected =
            ["GRPCRoute shop/a", "HTTPRoute bank/a", "HTTPRoute shop/b", "HTTPRoute shop/c"];
        assert_eq!(known, expected);
        assert_eq!(Dirty::everything_in(&model).routes.len(), 4);
    }

    #[test]
    fn grants_are_told_apart_by_namespace() {
        let mut model = Model::default();
        let one = grant("bank", "one", "web");
        assert_eq!(touched(&mut model, Change::Grant(one.clone())), ["grants of bank"]);
        assert!(touched(&mut model, Change::Grant(one.clone())).is_empty());
        let two = grant("bankrupt", "two", "web");
        assert_eq!(touched(&mut model, Change::Grant(two)), ["grants of bankrupt"]);
        let names = |model: &Model| -> Vec<String> {
            model.grants("bank").map(|grant| grant.name.to_string()).collect()
        };
        assert_eq!(names(&model), ["one"], "a prefix is another namespace");
        let list = vec![Arc::new(grant("bank", "one", "db")), Arc::new(grant("bank", "new", "db"))];
        let listed = Change::Grants(Scope::All, list);
        assert_eq!(touched(&mut model, listed), ["grants of bank", "grants of bankrupt"]);
        assert_eq!(names(&model), ["new", "one"]);
        let (namespace, name) = (one.namespace, one.name);
        assert_eq!(touched(&mut model, Change::GrantGone { namespace, name }), ["grants of bank"]);
        assert_eq!(names(&model), ["new"]);
    }
}

use serde_json::{Value, json};

use super::*;
use crate::model::Model;

fn service(name: &str, port: i32) -> LenientDecode<core::Service> {
    parse(json!({"metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}))
}

/// A service that does not convert.
fn broken(name: &str) -> LenientDecode<core::Service> {
    parse(json!({"metadata": {"name": name, "namespace": "shop"}}))
}

fn slice(name: &str, kind: &str) -> LenientDecode<discovery::EndpointSlice> {
    parse(json!({"addressType": kind, "endpoints": [], "metadata":
        {"name": name, "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "reviews"}}}))
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's object is well-formed")
}

/// Feeds events and returns the names of the services in the model after each change.
struct Feed {
    index: WatchIndex<core::Service>,
    model: Model,
    health: Arc<Health>,
}

impl Feed {
    fn new(scope: Scope) -> Self {
        let health = Arc::new(Health::default());
        Self { index: WatchIndex::new(scope, health.clone()), model: Model::default(), health }
    }

    /// How many changes the events became.
    fn apply_event(
        &mut self,
        events: impl IntoIterator<Item = Event<LenientDecode<core::Service>>>,
    ) -> usize {
        let changes: Vec<_> =
            events.into_iter().filter_map(|event| self.index.apply(event)).collect();
        let count = changes.len();
        for change in changes {
            self.model.apply(change, &mut Default::default());
        }
        count
    }

    fn names(&self) -> Vec<&str> {
        self.model.services().map(|service| &*service.key.name).collect()
    }
}

#[test]
fn a_list_is_one_change_at_its_end() {
    let mut feed = Feed::new(Scope::All);
    let listing =
        [Event::Init, Event::InitApply(service("a", 80)), Event::InitApply(service("b", 80))];
    assert_eq!(feed.apply_event(listing), 0, "nothing may be known before the list is complete");
    assert_eq!(feed.apply_event([Event::InitDone]), 1);
    assert_eq!(feed.names(), ["a", "b"]);
}

#[test]
fn a_relist_removes_what_is_gone_and_keeps_the_old_state_until_then() {
    let mut feed = Feed::new(Scope::Namespace("shop".into()));
    feed.apply_event([Event::Init, Event::InitApply(service("a", 80)), Event::InitDone]);
    feed.apply_event([Event::Init, Event::InitApply(service("b", 80))]);
    assert_eq!(feed.names(), ["a"]);
    // The list broke off and begins anew: what it had brought does not count.
    feed.apply_event([Event::Init, Event::InitApply(service("c", 80)), Event::InitDone]);
    assert_eq!(feed.names(), ["c"]);
}

#[test]
fn an_object_that_does_not_convert_is_removed_alone_and_shown() {
    let mut feed = Feed::new(Scope::All);
    let listed = [Event::InitApply(service("a", 80)), Event::InitApply(broken("b"))];
    feed.apply_event([Event::Init].into_iter().chain(listed).chain([Event::InitDone]));
    assert_eq!(feed.names(), ["a"]);
    assert_eq!(feed.health.rejections()["Service shop/b"], "spec: missing");

    feed.apply_event([Event::Apply(broken("a")), Event::Apply(service("b", 80))]);
    assert_eq!(feed.names(), ["b"]);
    let rejected: Vec<_> = feed.health.rejections().into_keys().collect();
    assert_eq!(rejected, ["Service shop/a"]);

    feed.apply_event([Event::Delete(broken("a"))]);
    assert!(feed.health.rejections().is_empty());
}

#[test]
fn a_relist_forgets_what_was_said_of_objects_that_are_gone() {
    let mut feed = Feed::new(Scope::All);
    feed.apply_event([Event::Init, Event::InitApply(broken("b")), Event::InitDone]);
    assert_eq!(feed.health.rejections().len(), 1);
    feed.apply_event([Event::Init, Event::InitDone]);
    assert!(feed.health.rejections().is_empty());
}

#[test]
fn a_bad_port_costs_only_itself_and_is_noted() {
    let mut feed = Feed::new(Scope::All);
    feed.apply_event([Event::Apply(service("a", 70000))]);
    assert_eq!(feed.names(), ["a"]);
    assert!(feed.health.notes()["Service shop/a"].contains("spec.ports[0].port"));
    feed.apply_event([Event::Apply(service("a", 80))]);
    assert!(feed.health.notes().is_empty());
}

#[test]
fn a_bad_annotation_is_noted_as_any_other_flaw() {
    let mut feed = Feed::new(Scope::All);
    let annotated = |retries: &str| {
        parse(json!({"metadata": {"name": "a", "namespace": "shop",
            "annotations": {"pilothouse.io/retries": retries}}, "spec": {"ports": [{"port": 80}]}}))
    };
    feed.apply_event([Event::Apply(annotated("many"))]);
    assert_eq!(feed.names(), ["a"]);
    let note = &feed.health.notes()["Service shop/a"];
    assert!(note.starts_with("metadata.annotations[pilothouse.io/retries]: \"many\""), "{note}");
    feed.apply_event([Event::Apply(annotated("3"))]);
    assert!(feed.health.notes().is_empty());
}

#[test]
fn slices_go_by_their_own_name_and_also_when_no_longer_for_us() {
    let health = Arc::new(Health::default());
    let mut index = WatchIndex::new(Scope::All, health.clone());
    let mut model = Model::default();
    let mut take = |event| {
        let change = index.apply(event).expect("a change");
        model.apply(change, &mut Default::default());
        model.slice_count()
    };
    assert_eq!(take(Event::Apply(slice("one", "IPv4"))), 1);
    assert_eq!(take(Event::Apply(slice("two", "IPv4"))), 2);
    assert_eq!(take(Event::Delete(slice("one", "IPv4"))), 1);
    assert_eq!(take(Event::Apply(slice("two", "FQDN"))), 1, "known, but empty");
    assert!(health.notes()["EndpointSlice shop/two"].contains("FQDN"));
}

#[test]
fn endpoints_objects_serve_and_locks_are_passed_over() {
    let health = Arc::new(Health::default());
    let mut index = WatchIndex::new(Scope::All, health.clone());
    let mut model = Model::default();
    let endpoints = |name: &str| -> LenientDecode<core::Endpoints> {
        parse(json!({"metadata": {"name": name, "namespace": "shop"}}))
    };
    for name in ["reviews", "k8s.io-lock"] {
        let change = index.apply(Event::Apply(endpoints(name))).expect("a change");
        model.apply(change, &mut Default::default());
    }
    assert_eq!(model.slice_count(), 1);
    assert!(health.rejections().is_empty());
    let gone = index.apply(Event::Delete(endpoints("reviews"))).expect("a change");
    model.apply(gone, &mut Default::default());
    assert_eq!(model.slice_count(), 0);
}

#[test]
fn an_object_that_cannot_be_read_goes_alone_and_comes_back() {
    let unreadable = |name: &str| {
        parse(json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"},
            "spec": {"ports": [{"port": "eighty"}]}}))
    };
    let mut feed = Feed::new(Scope::All);
    let list = |one| {
        [Event::Init, Event::InitApply(one), Event::InitApply(service("b", 80)), Event::InitDone]
    };
    feed.apply_event(list(service("a", 80)));
    // As an event, its old state does not linger.
    feed.apply_event([Event::Apply(unreadable("a"))]);
    assert_eq!(feed.names(), ["b"]);
    let said = feed.health.rejections()["Service shop/a"].clone();
    assert!(said.contains("spec.ports[0].port") && said.contains("eighty"), "{said}");
    feed.apply_event([Event::Apply(service("a", 80))]);
    assert_eq!((feed.names(), feed.health.rejections().len()), (vec!["a", "b"], 0));
    // In a list, the others are there; deleted, nothing is left of it.
    feed.apply_event(list(unreadable("a")));
    assert_eq!((feed.names(), feed.health.rejections().len()), (vec!["b"], 1));
    feed.apply_event([Event::Delete(unreadable("a"))]);
    assert_eq!((feed.names(), feed.health.rejections().len()), (vec!["b"], 0));
}

use std::time::Duration;

use super::*;
use crate::model::{Change, Model, Service, ServiceKey, ServiceKind};

fn service(name: &str) -> Service {
    Service::new(ServiceKey::new("default", name), ServiceKind::Headless, Vec::new())
}

fn watch(scope: Scope) -> Option<WatchId> {
    Some(WatchId { kind: "Service", scope })
}

/// An event of the watch of all services.
fn event(change: Option<Change>, version: Option<u64>) -> SourceEvent {
    let seen = at(0);
    SourceEvent { change, action: None, seen, watch: watch(Scope::All), version }
}

fn applied(name: &str, version: u64) -> SourceEvent {
    event(Some(Change::Service(service(name))), Some(version))
}

fn listed(names: &[&str], version: Option<u64>) -> SourceEvent {
    let all = names.iter().map(|name| Arc::new(service(name))).collect();
    event(Some(Change::Services(Scope::All, all)), version)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

impl ChangeLog {
    fn take(&self, event: &SourceEvent, current: Option<u64>) {
        self.record(&Seen::of(event), Differences::default(), current, at(1));
    }

    /// `applied default/a 5 -> generation 3`, newest first.
    fn text(&self) -> Vec<String> {
        let one = |one: ChangeRecord| {
            let namespace = one.object.namespace.as_deref().unwrap_or("-");
            let name = one.object.name.as_deref().unwrap_or("-");
            let (version, published) = (one.version.unwrap_or_default(), one.published);
            let generation = published.map(|(_, generation)| generation);
            format!("{} {namespace}/{name} {version} -> {generation:?}", one.action.as_str())
        };
        self.records().into_iter().map(one).collect()
    }

    fn at_version(&self, version: u64) -> Reached {
        self.reached("Service", Some("default"), version)
    }
}

#[test]
fn a_change_is_pending_until_the_snapshot_with_it_is_published() {
    let log = ChangeLog::default();
    log.take(&applied("a", 5), None);
    log.take(&applied("b", 6), None);
    assert_eq!(log.text(), ["applied default/b 6 -> None", "applied default/a 5 -> None"]);
    assert_eq!(log.at_version(5), Reached::Pending);
    log.publish(3, at(2));
    log.take(&applied("c", 7), None);
    let expected = [
        "applied default/c 7 -> None",
        "applied default/b 6 -> Some(3)",
        "applied default/a 5 -> Some(3)",
    ];
    assert_eq!(log.text(), expected);
    assert_eq!(log.records()[1].published, Some((at(2), 3)));
    log.publish(4, at(3));
    assert_eq!(log.text()[1], expected[1], "an earlier one stays with its generation");
    assert_eq!(log.last_of("Service", Some("default"), "c").unwrap().published, Some((at(3), 4)));
    assert_eq!(log.last_of("Service", Some("default"), "d"), None);
    assert_eq!(log.last_of("EndpointSlice", Some("default"), "c"), None);
}

#[test]
fn a_version_has_the_first_generation_that_has_it() {
    let log = ChangeLog::default();
    assert_eq!(log.at_version(1), Reached::NotWatched(Vec::new()));
    log.take(&listed(&["a"], Some(10)), None);
    log.publish(1, at(2));
    log.take(&applied("a", 20), None);
    log.publish(2, at(3));
    // Changes that mean nothing, and a bookmark: nothing waits, so the snapshot that there is has them.
    log.take(&applied("a", 30), Some(2));
    log.take(&event(None, Some(40)), Some(2));
    log.take(&applied("a", 50), None);
    let reached = [5, 10, 11, 20, 40, 41, 50, 51].map(|version| log.at_version(version));
    let expected = [
        Reached::Published(1),
        Reached::Published(1),
        Reached::Published(2),
        Reached::Published(2),
        Reached::Published(2),
        Reached::Pending,
        Reached::Pending,
        Reached::NotSeen(50),
    ];
    assert_eq!(reached, expected);
    log.publish(3, at(4));
    assert_eq!(log.at_version(50), Reached::Published(3));
    assert_eq!(log.reached("Node", None, 1), Reached::NotWatched(vec![watch(Scope::All).unwrap()]));
}

#[test]
fn each_watch_has_a_position_of_its_own() {
    let log = ChangeLog::default();
    for (namespace, version) in [("one", 10), ("two", 20)] {
        let scope = Scope::Namespace(namespace.into());
        let list = Change::Services(scope.clone(), Vec::new());
        let listed = event(Some(list), Some(version));
        log.take(&SourceEvent { watch: watch(scope), ..listed }, Some(1));
    }
    let at = |namespace| log.reached("Service", Some(namespace), 15);
    assert_eq!(at("one"), Reached::NotSeen(10));
    assert_eq!(at("two"), Reached::Published(1));
    assert!(matches!(at("three"), Reached::NotWatched(all) if all.len() == 2));
}

#[test]
fn an_older_position_is_another_history_and_an_older_object_is_none() {
    let log = ChangeLog::default();
    log.take(&listed(&["a"], Some(100)), Some(1));
    // What is left in the list may be old, and a deletion may bring the version that the object had.
    log.take(&listed(&["b"], Some(50)), Some(1));
    log.take(&applied("b", 60), Some(1));
    assert_eq!(log.at_version(100), Reached::Published(1));
    log.take(&event(None, Some(70)), Some(2));
    assert_eq!(log.at_version(70), Reached::Published(2));
    assert_eq!(log.at_version(100), Reached::NotSeen(70), "restored from a backup");
}

#[test]
fn what_is_kept_is_bounded() {
    let log = ChangeLog::default();
    for number in 0..3000_u64 {
        log.take(&applied(&format!("s{number}"), number + 1), None);
        log.publish(number, at(2));
    }
    assert_eq!(log.records().len(), MAX_CHANGES);
    assert_eq!(log.newest_id(), 3000);
    let inner = log.lock();
    assert_eq!(inner.watches.values().map(|one| one.steps.len()).max(), Some(MAX_STEPS));
    drop(inner);
    // Older than what is kept of the watch: a generation that has it, if not the first.
    assert_eq!(log.at_version(1), Reached::Published(3000 - MAX_STEPS as u64));

    let long = applied(&"é".repeat(1000), 4000);
    log.take(&long, None);
    let name = log.records()[0].object.name.clone().unwrap();
    assert_eq!(&*name, "é".repeat(MAX_NAME / 2));
}

#[test]
fn what_means_nothing_and_comes_all_the_time_displaces_nothing() {
    let log = ChangeLog::default();
    log.take(&applied("a", 1), None);
    log.publish(1, at(2));
    for version in 2..2000 {
        log.take(&applied("lease", version), Some(1));
    }
    let expected = ["applied default/lease 1999 -> Some(1)", "applied default/a 1 -> Some(1)"];
    assert_eq!(log.text(), expected);
    log.take(&applied("lease", 2000), None);
    assert_eq!(log.text().len(), 3, "this one had an effect");
}

#[test]
fn a_list_is_one_change_and_the_objects_that_it_changed() {
    let (log, mut model) = (ChangeLog::default(), Model::default());
    model.apply(listed(&["a", "b"], None).change.unwrap(), &mut Default::default());
    let event = listed(&["a", "c"], Some(9));
    let differences = model.differences(event.change.as_ref().unwrap(), MAX_DIFFERENCES);
    log.record(&Seen::of(&event), differences, None, at(1));
    let expected =
        ["deleted default/b 0 -> None", "applied default/c 0 -> None", "relisted -/- 9 -> None"];
    assert_eq!(log.text(), expected);
    let [.., list] = &log.records()[..] else { panic!("a list") };
    assert_eq!((list.differences, list.object.kind), (Some(2), "Service"));
}

#[test]
fn an_object_that_is_applied_and_cannot_be_used_was_applied() {
    let log = ChangeLog::default();
    let gone = Change::ServiceGone(ServiceKey::new("default", "a"));
    let event = SourceEvent { action: Some(Action::Applied), ..event(Some(gone), Some(7)) };
    log.take(&event, None);
    assert_eq!(log.text(), ["applied default/a 7 -> None"]);
}

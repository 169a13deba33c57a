use super::*;
use crate::model::ServiceKey;
use crate::model::route::{
    AcceptedReason, ParentRef, ParentVerdict, RefsReason, RouteRole, Verdict,
};

fn key(kind: RouteKind, name: &str) -> RouteKey {
    RouteKey::new(kind, "shop", name)
}

fn http(name: &str) -> RouteKey {
    key(RouteKind::Http, name)
}

fn verdict(generation: i64, service: Option<&str>) -> Arc<RouteVerdict> {
    let parent = |name: &str| ParentVerdict {
        parent: ParentRef {
            target: ParentTarget::Service(ServiceKey::new("shop", name)),
            namespace: None,
            section_name: None,
            port: None,
        },
        role: Some(RouteRole::Producer),
        accepted: Verdict { reason: AcceptedReason::Accepted, message: "".into() },
        resolved_refs: Verdict { reason: RefsReason::ResolvedRefs, message: "".into() },
        ports: Vec::new(),
    };
    let parents = service.map(parent).into_iter().collect();
    Arc::new(RouteVerdict { generation: Some(generation), created: "".into(), parents })
}

fn report(routes: impl IntoIterator<Item = (RouteKey, Arc<RouteVerdict>)>) -> RouteReport {
    RouteReport { routes: routes.into_iter().collect(), ..RouteReport::default() }
}

/// All that may begin now, in order, each settled at once.
fn drain(pending: &mut Pending, now: Instant) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((key, _)) = pending.begin(now) {
        pending.settled(&key);
        all.push(key.name.to_string());
    }
    assert!(pending.due(now).is_none_or(|due| due > now), "begun is all that is due");
    all
}

#[test]
fn what_changes_goes_before_a_list_and_nothing_stands_twice() {
    let (mut pending, now) = (Pending::default(), Instant::now());
    let mut all = report((0..500).map(|n| (http(&format!("r{n}")), verdict(1, Some("a")))));
    pending.see(&all);
    assert_eq!(pending.len(), 500);
    assert_eq!(pending.due(now), Some(now));
    for generation in 2..5 {
        all.routes.insert(http("r7"), verdict(generation, Some("a")));
        pending.see(&all);
    }
    all.routes.insert(http("new"), verdict(1, Some("a")));
    pending.see(&all);
    pending.resync();
    let order = drain(&mut pending, now);
    assert_eq!((order.len(), &*order[0], &*order[1]), (501, "r7", "new"));
    assert_eq!((pending.len(), pending.due(now)), (0, None));
    // Nothing differs, nothing is to be done.
    pending.see(&all);
    assert_eq!(pending.len(), 0);
    pending.resync();
    assert_eq!(pending.len(), 501);
}

#[test]
fn replicas_do_not_begin_in_one_order() {
    let orders: BTreeSet<Vec<String>> = (0..4)
        .map(|_| {
            let mut pending = Pending::default();
            pending.see(&report((0..200).map(|n| (http(&format!("r{n}")), verdict(1, Some("a"))))));
            drain(&mut pending, Instant::now())
        })
        .collect();
    assert_eq!(orders.len(), 4);
}

#[test]
fn a_route_of_others_is_looked_at_once_since_it_may_have_been_ours() {
    let (mut pending, now) = (Pending::default(), Instant::now());
    let see = |pending: &mut Pending, generation, service| {
        pending.see(&report([(http("r"), verdict(generation, service))]));
        drain(pending, now).len()
    };
    assert_eq!(see(&mut pending, 1, None), 1);
    assert_eq!(see(&mut pending, 2, None), 0);
    assert_eq!(see(&mut pending, 3, Some("a")), 1);
    assert_eq!(see(&mut pending, 4, None), 1, "our entry is to go");
    assert_eq!(see(&mut pending, 5, None), 0);
    pending.resync();
    assert_eq!(pending.len(), 0);
}

#[test]
fn what_changes_while_it_is_looked_at_is_looked_at_again() {
    let (mut pending, now) = (Pending::default(), Instant::now());
    pending.see(&report([(http("r"), verdict(1, Some("a")))]));
    let (begun, of) = pending.begin(now).unwrap();
    assert_eq!(of.generation, Some(1));
    pending.see(&report([(http("r"), verdict(2, Some("a")))]));
    assert!(pending.begin(now).is_none(), "not by two at once");
    pending.settled(&begun);
    let (begun, of) = pending.begin(now).unwrap();
    assert_eq!(of.generation, Some(2));
    // One that is gone is not, whatever became of it.
    pending.see(&report([]));
    pending.again(&begun);
    pending.see(&report([]));
    assert_eq!((pending.len(), pending.begin(now)), (0, None));
}

#[test]
fn without_the_right_to_a_kind_the_other_goes_on() {
    let (mut pending, now) = (Pending::default(), Instant::now());
    let grpc = |name| key(RouteKind::Grpc, name);
    let routes = [http("h1"), http("h2"), grpc("g1")].map(|key| (key, verdict(1, Some("a"))));
    pending.see(&report(routes));
    let then = now + Duration::from_secs(180);
    loop {
        let (key, _) = pending.begin(now).unwrap();
        if key.kind == RouteKind::Http {
            pending.without_right(&key, then);
            break;
        }
        pending.settled(&key);
    }
    assert!(drain(&mut pending, now).iter().all(|name| name == "g1"));
    assert_eq!((pending.len(), pending.due(now)), (2, Some(then)));
    let mut rest = drain(&mut pending, then);
    rest.sort();
    assert_eq!(rest, ["h1", "h2"]);
}

#[test]
fn a_route_that_fails_by_itself_is_tried_more_and_more_rarely() {
    let (mut pending, mut now) = (Pending::default(), Instant::now());
    pending.see(&report([(http("r"), verdict(1, Some("a")))]));
    let mut pauses = Vec::new();
    for _ in 0..11 {
        let (key, _) = pending.begin(now).unwrap();
        pending.later(&key, now);
        assert!(pending.begin(now).is_none());
        let due = pending.due(now).unwrap();
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // A change is news.
    pending.see(&report([(http("r"), verdict(2, Some("a")))]));
    assert_eq!(drain(&mut pending, now), ["r"]);
    assert_eq!(pending.len(), 0);
}

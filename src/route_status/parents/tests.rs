use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ObjectMeta;

use super::*;
use crate::model::route::{AcceptedReason, ParentRef, RefsReason, RouteRole, Verdict};
use crate::model::{RouteKind, ServiceKey};

const CREATED: &str = "2026-01-02T03:04:05Z";
const BEFORE: &str = "2026-01-02T03:05:00Z";
const NOW: &str = "2026-01-02T04:00:00Z";

fn key() -> RouteKey {
    RouteKey::new(RouteKind::Http, "shop", "reviews")
}

fn parent(name: &str, port: Option<u16>, accepted: AcceptedReason) -> ParentVerdict {
    ParentVerdict {
        parent: ParentRef {
            target: ParentTarget::Service(ServiceKey::new("shop", name)),
            namespace: None,
            section_name: None,
            port,
        },
        role: Some(RouteRole::Producer),
        accepted: Verdict { reason: accepted, message: "as it is".into() },
        resolved_refs: Verdict { reason: RefsReason::ResolvedRefs, message: "all there".into() },
        ports: vec![9080],
    }
}

fn gateway() -> ParentVerdict {
    let [group, kind, namespace, name] =
        ["gateway.networking.k8s.io", "Gateway", "shop", "front"].map(Into::into);
    let target = ParentTarget::Other { group, kind, namespace, name };
    let accepted = parent("x", None, AcceptedReason::Accepted);
    ParentVerdict {
        parent: ParentRef { target, ..accepted.parent },
        role: None,
        ports: Vec::new(),
        ..accepted
    }
}

fn verdict(parents: Vec<ParentVerdict>) -> RouteVerdict {
    RouteVerdict { generation: Some(3), created: CREATED.into(), parents }
}

fn object(parents: Value) -> DynamicObject {
    DynamicObject {
        types: None,
        metadata: ObjectMeta {
            generation: Some(3),
            resource_version: Some("77".to_owned()),
            creation_timestamp: Some(Time(CREATED.parse().unwrap())),
            ..Default::default()
        },
        data: json!({ "spec": {}, "status": { "parents": parents } }),
    }
}

fn other(name: &str) -> Value {
    json!({
        "controllerName": "example.com/gateway",
        "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name },
        "conditions": [],
    })
}

fn condition(kind: &str, status: &str, reason: &str, since: &str, generation: i64) -> Value {
    let message = if kind == "Accepted" { "as it is" } else { "all there" };
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": generation,
    })
}

fn own(parent: Value, conditions: [Value; 2]) -> Value {
    json!({ "parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions })
}

fn service(name: &str) -> Value {
    json!({ "group": "", "kind": "Service", "name": name })
}

fn accepted(since: &str, generation: i64) -> [Value; 2] {
    [
        condition("Accepted", "True", "Accepted", since, generation),
        condition("ResolvedRefs", "True", "ResolvedRefs", since, generation),
    ]
}

fn decided(verdict: &RouteVerdict, object: &DynamicObject) -> Decision {
    decide(&key(), verdict, object, NOW.parse().unwrap())
}

/// The entries that are to be written, all of the list.
#[track_caller]
fn written(verdict: &RouteVerdict, object: &DynamicObject) -> Value {
    match decided(verdict, object) {
        Decision::Apply(applied) => {
            let metadata =
                json!({ "namespace": "shop", "name": "reviews", "resourceVersion": "77" });
            assert_eq!(applied["metadata"], metadata);
            assert_eq!(applied["apiVersion"], "gateway.networking.k8s.io/v1");
            assert_eq!(applied["kind"], "HTTPRoute");
            // Nothing else is anybody's to apply.
            assert_eq!(applied.as_object().unwrap().len(), 4);
            assert_eq!(applied["status"].as_object().unwrap().len(), 1);
            applied["status"]["parents"].clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_status_has_an_entry_for_each_service_and_none_for_a_gateway() {
    let mut by_port = parent("reviews", Some(9080), AcceptedReason::NoMatchingParent);
    by_port.parent.namespace = Some("shop".into());
    by_port.parent.section_name = Some("http".into());
    let verdict =
        verdict(vec![parent("ratings", None, AcceptedReason::Accepted), gateway(), by_port]);
    let of_port = json!({
        "group": "", "kind": "Service", "name": "reviews", "namespace": "shop",
        "sectionName": "http", "port": 9080,
    });
    let refused = [
        condition("Accepted", "False", "NoMatchingParent", NOW, 3),
        condition("ResolvedRefs", "True", "ResolvedRefs", NOW, 3),
    ];
    let expected = json!([own(service("ratings"), accepted(NOW, 3)), own(of_port, refused)]);
    let mut bare = object(json!([]));
    bare.data = json!({ "spec": {} });
    assert_eq!(written(&verdict, &bare), expected);
    assert_eq!(decided(&verdict, &object(expected)), Decision::Unchanged);
}

#[test]
fn others_keep_their_entries_and_their_places() {
    let verdict = verdict(vec![parent("reviews", None, AcceptedReason::Accepted)]);
    let known = json!([
        other("a"),
        own(service("gone"), accepted(BEFORE, 2)),
        own(service("reviews"), accepted(BEFORE, 3)),
        other("b"),
    ]);
    let expected = json!([other("a"), own(service("reviews"), accepted(BEFORE, 3)), other("b")]);
    assert_eq!(written(&verdict, &object(known)), expected);
    assert_eq!(decided(&verdict, &object(expected)), Decision::Unchanged);
}

#[test]
fn a_time_is_that_of_the_last_change_of_the_status() {
    let refused = [
        condition("Accepted", "False", "Conflicted", BEFORE, 2),
        condition("ResolvedRefs", "True", "ResolvedRefs", BEFORE, 2),
    ];
    let known = json!([own(service("reviews"), refused)]);
    let verdict = verdict(vec![parent("reviews", None, AcceptedReason::Accepted)]);
    let expected = [
        condition("Accepted", "True", "Accepted", NOW, 3),
        condition("ResolvedRefs", "True", "ResolvedRefs", BEFORE, 3),
    ];
    assert_eq!(written(&verdict, &object(known)), json!([own(service("reviews"), expected)]));
}

#[test]
fn another_reason_is_written_and_is_no_transition() {
    let refused = [
        condition("Accepted", "False", "Conflicted", BEFORE, 3),
        condition("ResolvedRefs", "True", "ResolvedRefs", BEFORE, 3),
    ];
    let known = json!([own(service("reviews"), refused)]);
    let verdict = verdict(vec![parent("reviews", None, AcceptedReason::NoMatchingParent)]);
    let written = written(&verdict, &object(known));
    assert_eq!(written[0]["conditions"][0]["reason"], "NoMatchingParent");
    assert_eq!(written[0]["conditions"][0]["lastTransitionTime"], BEFORE);
}

#[test]
fn the_last_parent_that_goes_takes_our_entry_along() {
    let verdict = verdict(vec![gateway()]);
    let known = json!([own(service("reviews"), accepted(BEFORE, 3)), other("a")]);
    assert_eq!(written(&verdict, &object(known)), json!([other("a")]));
    let alone = json!([own(service("reviews"), accepted(BEFORE, 3))]);
    assert_eq!(written(&verdict, &object(alone)), json!([]));
}

#[test]
fn a_route_of_others_is_never_touched() {
    for parents in [vec![gateway()], Vec::new()] {
        let verdict = verdict(parents);
        assert_eq!(decided(&verdict, &object(json!([other("a")]))), Decision::Unchanged);
        let mut bare = object(json!([]));
        bare.data = json!({ "spec": {} });
        assert_eq!(decided(&verdict, &bare), Decision::Unchanged);
    }
}

#[test]
fn a_verdict_of_another_version_or_of_a_route_that_was_deleted_is_not_written() {
    let verdict = verdict(vec![parent("reviews", None, AcceptedReason::Accepted)]);
    for generation in [Some(2), Some(4), None] {
        let mut object = object(json!([]));
        object.metadata.generation = generation;
        assert_eq!(decided(&verdict, &object), Decision::Stale, "{generation:?}");
    }
    let mut anew = object(json!([]));
    anew.metadata.creation_timestamp = Some(Time(BEFORE.parse().unwrap()));
    assert_eq!(decided(&verdict, &anew), Decision::Stale);
}

#[test]
fn the_lists_limit_is_kept_and_others_come_before_us() {
    let parents = (0..32)
        .map(|n| parent(&format!("s{n}"), None, AcceptedReason::Accepted))
        .collect::<Vec<_>>();
    let known = json!([other("a"), other("b")]);
    let written = written(&verdict(parents), &object(known.clone()));
    let written = written.as_array().unwrap();
    assert_eq!(written.len(), 32);
    assert_eq!(written[..2], *known.as_array().unwrap());
    assert_eq!(written[31]["parentRef"]["name"], "s29");
}

#[test]
fn a_long_message_is_cut_to_what_the_api_takes() {
    let mut long = parent("reviews", None, AcceptedReason::UnsupportedValue);
    long.accepted.message = "ä".repeat(40_000).into();
    let written = written(&verdict(vec![long]), &object(json!([])));
    let message = written[0]["conditions"][0]["message"].as_str().unwrap();
    assert_eq!(message.chars().count(), MAX_MESSAGE);
}

/// What one replica has written is what another would write, at any time.
#[test]
fn two_replicas_do_not_differ() {
    let verdict = verdict(vec![
        parent("reviews", None, AcceptedReason::Accepted),
        parent("ratings", Some(80), AcceptedReason::Conflicted),
    ]);
    let first = written(&verdict, &object(json!([other("a")])));
    let later: Timestamp = "2026-01-02T09:00:00Z".parse().unwrap();
    assert_eq!(decide(&key(), &verdict, &object(first), later), Decision::Unchanged);
}

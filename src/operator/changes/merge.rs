//! The logs of all replicas as one: each of them sees the same change by itself and tells its own proxies.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operator::answers::{text, time};

/// Stragglers that are named of a change.
const MAX_STRAGGLERS: usize = 20;

/// One page of `/debug/changes`.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::operator) struct ChangesPage {
    pub(in crate::operator) instance: String,
    #[serde(default)]
    pub(in crate::operator) generation: Option<u64>,
    pub(in crate::operator) changes: Vec<Change>,
}

/// One change, as one replica or as all of them have it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::operator) struct Change {
    /// Of one replica's own numbering.
    #[serde(default)]
    pub(in crate::operator) id: u64,
    #[serde(deserialize_with = "text")]
    pub(in crate::operator) kind: String,
    #[serde(default, deserialize_with = "text")]
    pub(in crate::operator) namespace: String,
    /// Empty if it is about all of them, as a list is.
    #[serde(default, deserialize_with = "text")]
    pub(in crate::operator) name: String,
    pub(in crate::operator) action: String,
    #[serde(default)]
    pub(in crate::operator) resource_version: Option<String>,
    pub(in crate::operator) seen: String,
    /// `None` until every replica that has seen it has published it.
    #[serde(default)]
    pub(in crate::operator) published: Option<String>,
    #[serde(default)]
    pub(in crate::operator) generation: Option<u64>,
    #[serde(default)]
    pub(in crate::operator) proxies: u64,
    #[serde(default)]
    pub(in crate::operator) sent: u64,
    #[serde(default)]
    pub(in crate::operator) acknowledged: u64,
    #[serde(default)]
    pub(in crate::operator) last_acknowledged: Option<String>,
    #[serde(default)]
    pub(in crate::operator) stragglers: Vec<Value>,
    #[serde(default)]
    pub(in crate::operator) stragglers_total: u64,
    /// How many replicas have seen it.
    #[serde(default = "one")]
    pub(in crate::operator) replicas: u64,
}

fn one() -> u64 {
    1
}

/// What tells the same change of two replicas; without versions, the how-manieth from the newest it is.
type Key = (String, String, String, String, Option<String>, usize);

/// The changes of all replicas, the newest first. Moments are the last ones of any replica, since it is
/// everywhere only then; only when it was seen is the first one.
pub(in crate::operator) fn merge(pages: Vec<Vec<Change>>) -> Vec<Change> {
    let mut places: HashMap<Key, usize> = HashMap::new();
    let mut merged: Vec<Change> = Vec::new();
    for page in pages {
        let mut met: HashMap<Key, usize> = HashMap::new();
        for change in page {
            let mut key = key(&change);
            let count = met.entry(key.clone()).or_default();
            key.5 = *count;
            *count += 1;
            match places.get(&key) {
                Some(place) => add(&mut merged[*place], change),
                None => {
                    places.insert(key, merged.len());
                    merged.push(change);
                }
            }
        }
    }
    merged.sort_by(|one, other| {
        let (seen, of_other) = (time(&one.seen), time(&other.seen));
        of_other.cmp(&seen).then_with(|| other.id.cmp(&one.id))
    });
    merged
}

fn key(change: &Change) -> Key {
    let Change { kind, namespace, name, action, resource_version, .. } = change.clone();
    (kind, namespace, name, action, resource_version, 0)
}

fn add(change: &mut Change, other: Change) {
    let later = |one: Option<String>, other: Option<String>| match (&one, &other) {
        (Some(a), Some(b)) if time(a) >= time(b) => one,
        (_, Some(_)) => other,
        (_, None) => one,
    };
    if time(&other.seen) < time(&change.seen) {
        change.seen = other.seen;
    }
    change.published = match (change.published.take(), other.published) {
        (Some(one), Some(other)) => later(Some(one), Some(other)),
        _ => None,
    };
    change.last_acknowledged = later(change.last_acknowledged.take(), other.last_acknowledged);
    // Each replica counts its own.
    change.generation = None;
    change.proxies += other.proxies;
    change.sent += other.sent;
    change.acknowledged += other.acknowledged;
    change.stragglers.extend(other.stragglers);
    change.stragglers.sort_by_key(rank);
    change.stragglers.truncate(MAX_STRAGGLERS);
    change.stragglers_total += other.stragglers_total;
    change.replicas += other.replicas;
}

/// The worst first.
fn rank(straggler: &Value) -> u8 {
    match straggler["state"].as_str() {
        Some("REJECTED") => 0,
        Some("STALE") => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(name: &str, version: Option<&str>, second: u8, state: Option<&str>) -> Change {
        let stragglers: Vec<Value> = state
            .iter()
            .map(|state| json!({ "name": format!("of {name}"), "state": state }))
            .collect();
        serde_json::from_value(json!({
            "id": second, "kind": "Service", "namespace": "default", "name": name, "action": "applied",
            "resource_version": version, "seen": format!("2026-11-26T14:00:{second:02}Z"),
            "published": format!("2026-11-26T14:00:{:02}Z", second + 1), "generation": 5,
            "proxies": 2, "sent": 2, "acknowledged": 1,
            "stragglers_total": stragglers.len(), "stragglers": stragglers,
        }))
        .unwrap()
    }

    #[test]
    fn each_replicas_proxies_are_added_and_the_last_moment_counts() {
        let one = vec![change("b", Some("9"), 20, None), change("a", Some("8"), 10, Some("STALE"))];
        let other =
            vec![change("a", Some("8"), 12, Some("REJECTED")), change("a", Some("7"), 3, None)];
        let merged = merge(vec![one, other]);
        let names: Vec<_> = merged
            .iter()
            .map(|one| (&*one.name, one.resource_version.as_deref(), one.replicas))
            .collect();
        assert_eq!(names, [("b", Some("9"), 1), ("a", Some("8"), 2), ("a", Some("7"), 1)]);
        let both = &merged[1];
        assert_eq!(
            (both.proxies, both.sent, both.acknowledged, both.stragglers_total),
            (4, 4, 2, 2)
        );
        assert_eq!(both.seen, "2026-11-26T14:00:10Z");
        assert_eq!(both.published.as_deref(), Some("2026-11-26T14:00:13Z"));
        assert_eq!(both.stragglers[0]["state"], "REJECTED", "the worst first");
    }

    #[test]
    fn without_versions_the_newest_of_each_are_the_same() {
        // The other one was started between the two.
        let one = vec![change("a", None, 20, None), change("a", None, 10, None)];
        let merged = merge(vec![one, vec![change("a", None, 21, None)]]);
        let counts: Vec<_> = merged.iter().map(|one| (one.id, one.replicas)).collect();
        assert_eq!(counts, [(20, 2), (10, 1)]);
    }

    #[test]
    fn what_one_replica_has_not_published_is_not_published() {
        let mut late = change("a", Some("8"), 12, None);
        late.published = None;
        assert_eq!(
            merge(vec![vec![change("a", Some("8"), 10, None)], vec![late]])[0].published,
            None
        );
    }
}

//! What several replicas say, in the shape in which one of them would say it. What the page shows of one
//! replica only has the replica's name in it; a list `unreachable` names those that have not answered.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::operator::changes::{self, ChangesPage};
use crate::operator::replicas::{Asked, Failure};
use crate::operator::status::Gathered;

/// Namespaces and kinds that are listed for a choice, as the server has it.
const MAX_CHOICES: usize = 200;

pub(super) fn proxies(gathered: Gathered, offset: usize, limit: usize) -> Value {
    let Gathered { rows, replicas, failures } = gathered;
    let of_all =
        |name: &str| -> Vec<&Value> { replicas.iter().map(|one| &one.about[name]).collect() };
    let shown = rows.into_iter().skip(offset).take(limit).map(|mut row| {
        name_replica(&mut row.value, &row.asked);
        row.value
    });
    json!({
        "replica": names(replicas.iter().map(|one| &*one.replica)),
        "instance": names(replicas.iter().map(|one| &*one.instance)),
        // Each replica counts its own.
        "generation": null,
        "total": sum(&of_all("total")),
        "matched": sum(&of_all("matched")),
        "states": counts(&of_all("states")),
        "namespaces": choices(&of_all("namespaces")),
        "kinds": choices(&of_all("kinds")),
        "proxies": shown.collect::<Vec<_>>(),
        "unreachable": failures,
    })
}

/// So that the row's own page is asked of the replica that has it.
pub(super) fn name_replica(row: &mut Value, replica: &str) {
    if let Some(row) = row.as_object_mut() {
        key_of(row, replica);
        row.insert("replica".to_owned(), replica.into());
    }
}

fn key_of(of: &mut Map<String, Value>, replica: &str) {
    let own = match of.get("key") {
        Some(Value::String(key)) => key.clone(),
        Some(Value::Number(key)) => key.to_string(),
        _ => return,
    };
    of.insert("key".to_owned(), format!("{replica}:{own}").into());
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn sum(numbers: &[&Value]) -> u64 {
    numbers.iter().filter_map(|number| number.as_u64()).fold(0, u64::saturating_add)
}

/// Objects with numbers, added up by name.
pub(super) fn counts(all: &[&Value]) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in all.iter().filter_map(|one| one.as_object()).flatten() {
        let sum = counts.entry(name.clone()).or_default();
        *sum = sum.saturating_add(count.as_u64().unwrap_or_default());
    }
    counts
}

/// Lists of names with numbers of proxies, the most frequent first.
fn choices(all: &[&Value]) -> Vec<Value> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for choice in all.iter().filter_map(|one| one.as_array()).flatten() {
        let Some(name) = choice["name"].as_str() else { continue };
        let sum = counts.entry(name).or_default();
        *sum = sum.saturating_add(choice["proxies"].as_u64().unwrap_or_default());
    }
    let mut choices: Vec<_> = counts.into_iter().collect();
    choices.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let shown = choices.into_iter().take(MAX_CHOICES);
    shown.map(|(name, proxies)| json!({ "name": name, "proxies": proxies })).collect()
}

/// Of the replica that knows most of them.
pub(super) fn services(asked: Asked<Value>) -> Value {
    let Asked { answers, failures } = asked;
    let pages = answers.into_iter().map(|(_, page)| page);
    let page = pages.max_by_key(|page| page["total"].as_u64().unwrap_or_default());
    with_failures(page.unwrap_or_default(), &failures)
}

/// Of the replica where somebody is connected that was asked about, with those that lag behind at any.
pub(super) fn service(asked: Asked<Value>) -> Value {
    let Asked { answers, failures } = asked;
    let mut lagging: Vec<Value> = Vec::new();
    let mut total = 0;
    for (_, page) in &answers {
        lagging.extend(page["lagging"].as_array().into_iter().flatten().cloned());
        total += page["lagging_total"].as_u64().unwrap_or_default();
    }
    lagging.truncate(20);
    let pages = answers.into_iter().map(|(_, page)| page);
    let rank = |page: &Value| (page["exact"].as_bool(), !page["sent"].is_null());
    let mut page = pages.max_by_key(rank).unwrap_or_default();
    if let Some(page) = page.as_object_mut() {
        page.insert("lagging".to_owned(), lagging.into());
        page.insert("lagging_total".to_owned(), total.into());
    }
    with_failures(page, &failures)
}

pub(super) fn changes(asked: Asked<ChangesPage>, offset: usize, limit: usize) -> Value {
    let Asked { answers, failures } = asked;
    let replicas = names(answers.iter().map(|(name, _)| &**name));
    let instances = names(answers.iter().map(|(_, page)| &*page.instance));
    let pages = answers.into_iter().map(|(name, mut page)| {
        let stragglers = page.changes.iter_mut().flat_map(|change| &mut change.stragglers);
        stragglers.filter_map(Value::as_object_mut).for_each(|one| key_of(one, &name));
        page.changes
    });
    let merged = changes::merge(pages.collect());
    let matched = merged.len();
    let shown: Vec<_> = merged.into_iter().skip(offset).take(limit).collect();
    json!({
        "replica": replicas, "instance": instances, "generation": null, "total": matched,
        "matched": matched, "changes": shown, "unreachable": failures,
    })
}

/// Each watch of each replica; objects by name, as all of them say the same of one.
pub(super) fn sources(asked: Asked<Value>) -> Value {
    let Asked { answers, failures } = asked;
    let mut watches = Vec::new();
    let mut objects: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut waiting: Vec<String> = Vec::new();
    let mut views = Vec::new();
    for (replica, page) in &answers {
        for watch in page["watches"].as_array().into_iter().flatten() {
            let mut watch = watch.clone();
            let name = watch["name"].as_str().unwrap_or_default();
            watch["name"] = format!("{replica}: {name}").into();
            watches.push(watch);
        }
        for name in ["rejected", "noted", "skipped"] {
            let all = objects.entry(name).or_default();
            for (object, why) in page[name].as_object().into_iter().flatten() {
                all.entry(object.clone()).or_insert_with(|| why.clone());
            }
        }
        if page["ready"] != true {
            let what = page["waitingFor"].as_str().unwrap_or("it is not ready");
            waiting.push(format!("{replica}: {what}"));
        }
        for view in page["snapshot"]["views"].as_array().into_iter().flatten() {
            let mut view = view.clone();
            let name = view["view"].as_str().unwrap_or_default();
            view["view"] = format!("{replica}: {name}").into();
            views.push(view);
        }
    }
    let most = |name: &str| answers.iter().filter_map(|(_, page)| page[name].as_u64()).max();
    let of = |name: &str| objects.get(name).cloned().unwrap_or_default();
    json!({
        "ready": waiting.is_empty(),
        "waitingFor": (!waiting.is_empty()).then(|| waiting.join("; ")),
        "watches": watches,
        "rejected": of("rejected"), "noted": of("noted"), "skipped": of("skipped"),
        "services": most("services"), "endpointSlices": most("endpointSlices"),
        "snapshot": { "generation": null, "views": views },
        "unreachable": failures,
    })
}

fn with_failures(mut page: Value, failures: &[Failure]) -> Value {
    if let Some(page) = page.as_object_mut() {
        page.insert("unreachable".to_owned(), json!(failures));
    }
    page
}

/// The newest summary of each replica, as one.
pub(super) fn summary(of: &BTreeMap<String, Value>, failures: &[Failure]) -> Value {
    let of_all = |name: &str| -> Vec<&Value> { of.values().map(|one| &one[name]).collect() };
    json!({
        "replica": names(of.keys().map(|name| &**name)),
        "instance": names(of.values().filter_map(|one| one["instance"].as_str())),
        "generation": null,
        "generations": of.iter().map(|(name, one)| (name, &one["generation"])).collect::<BTreeMap<_, _>>(),
        "proxies": sum(&of_all("proxies")),
        "states": counts(&of_all("states")),
        // Not the newest id of any, but as it grows with each.
        "changes": sum(&of_all("changes")),
        "sources_stale": sum(&of_all("sources_stale")),
        "unreachable": failures,
    })
}

/// Traffic of a replica, its proxies with their replica before their keys.
pub(super) fn traffic(mut items: Value, replica: &str) -> Value {
    for item in items.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        let own = match item.get("proxy") {
            Some(Value::String(key)) => key.clone(),
            _ => continue,
        };
        item.insert("proxy".to_owned(), format!("{replica}:{own}").into());
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pages: [Value; 2]) -> Asked<Value> {
        let [one, other] = pages;
        let failure = Failure { replica: "c".to_owned(), error: "hangs".to_owned() };
        Asked {
            answers: vec![("a".to_owned(), one), ("b".to_owned(), other)],
            failures: vec![failure],
        }
    }

    #[test]
    fn one_service_has_the_laggards_of_all() {
        let page = |exact: bool, name: &str| json!({ "exact": exact, "sent": {}, "view": name, "lagging": [name], "lagging_total": 2 });
        let merged = service(asked([page(true, "x"), page(false, "y")]));
        assert_eq!(merged["view"], "x", "where somebody of that place is connected");
        assert_eq!(merged["lagging"], json!(["x", "y"]));
        assert_eq!(merged["lagging_total"], 4);
        assert_eq!(merged["unreachable"][0]["replica"], "c");
    }

    #[test]
    fn watches_have_their_replicas_name() {
        let page = |ready: bool| {
            json!({ "ready": ready, "waitingFor": "Services", "watches": [{ "name": "Services" }],
                    "rejected": { "x": "bad" }, "services": 3, "snapshot": { "views": [{ "view": "v" }] } })
        };
        let merged = sources(asked([page(true), page(false)]));
        assert_eq!(merged["ready"], false);
        assert_eq!(merged["waitingFor"], "b: Services");
        let watches: Vec<_> =
            merged["watches"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(watches, ["a: Services", "b: Services"]);
        assert_eq!((&merged["rejected"]["x"], &merged["services"]), (&json!("bad"), &json!(3)));
    }

    #[test]
    fn summaries_are_added_and_keys_say_whose_they_are() {
        let of = |proxies: u64| json!({ "proxies": proxies, "states": { "SYNCED": proxies, "STALE": 1 } });
        let all = BTreeMap::from([("a".to_owned(), of(3)), ("b".to_owned(), of(4))]);
        let summary = summary(&all, &[]);
        assert_eq!((&summary["proxies"], &summary["replica"]), (&json!(7), &json!("a, b")));
        assert_eq!(summary["states"], json!({ "SYNCED": 7, "STALE": 2 }));
        let items = traffic(json!([{ "proxy": "17" }, { "more": 3 }, { "proxy": null }]), "a:1");
        assert_eq!(items, json!([{ "proxy": "a:1:17" }, { "more": 3 }, { "proxy": null }]));
    }
}

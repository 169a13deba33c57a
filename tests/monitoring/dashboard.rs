//! The Grafana dashboard: what Grafana takes for granted, and what it would ask of Prometheus.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::prometheus::INTERVAL;
use pilothouse_testkit::repository;

/// The columns of Grafana's grid.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    let path = repository().join("manifests/monitoring/dashboard.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// Every expression with its panel's title, wherever it stands in the JSON, the variables filled in as
/// Grafana does for "all".
pub(crate) fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels(&dashboard()) {
        collect(panel, panel["title"].as_str().unwrap(), &mut found);
    }
    found
}

fn collect(value: &Value, title: &str, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            if let Some(expression) = fields.get("expr").and_then(Value::as_str) {
                into.push((title.to_owned(), filled_in(expression)));
            }
            fields.values().for_each(|value| collect(value, title, into));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, title, into)),
        _ => {}
    }
}

/// Grafana's $__rate_interval is four scrapes at least, or a step and a scrape.
fn filled_in(expression: &str) -> String {
    let rate = (4 * INTERVAL).max(STEP + INTERVAL);
    let filled = expression
        .replace("$__rate_interval", &format!("{rate}s"))
        .replace("$job", ".+")
        .replace("$instance", ".+");
    assert!(!filled.contains('$'), "a variable that the test does not know: {expression}");
    filled
}

/// Seconds between two points of a panel: an hour on a panel of some 700 pixels, at the shortest.
pub(crate) const STEP: u64 = 5;

/// The expressions by which the variables are filled in: `label_values(METRIC, LABEL)`.
pub(crate) fn variables() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let all = dashboard["templating"]["list"].as_array().unwrap().iter();
    all.filter_map(|variable| variable["query"]["query"].as_str())
        .map(|query| {
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (metric, label) = inner.rsplit_once(',').unwrap();
            (filled_in(metric), label.trim().to_owned())
        })
        .collect()
}

#[test]
fn panels_have_ids_places_and_words_of_their_own() {
    let dashboard = dashboard();
    let (mut ids, mut taken, mut titles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's too");
        assert!(titles.insert(title.to_owned()), "{title} twice");
        let place = |what: &str| panel["gridPos"][what].as_u64().unwrap();
        assert!(place("w") > 0 && place("h") > 0 && place("x") + place("w") <= COLUMNS, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} overlaps another panel at {x},{y}");
            }
        }
        let is_row = panel["type"] == "row";
        assert!(["row", "stat", "timeseries"].iter().any(|kind| panel["type"] == *kind), "{panel}");
        assert!(is_row || panel["description"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(is_row || !panel["targets"].as_array().unwrap().is_empty(), "{title}");
    }
    // Every panel can be asked about, and there are some.
    assert!(expressions().len() > 30);
}

#[test]
fn everything_is_asked_of_the_data_source_that_is_chosen() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "pilothouse");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: BTreeSet<&str> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["datasource", "instance", "job"]));
    assert_eq!(
        (&variables[0]["name"], &variables[0]["type"]),
        (&"datasource".into(), &"datasource".into())
    );
    let mut targets = 0;
    for panel in panels(&dashboard).iter().filter(|panel| panel["type"] != "row") {
        let mut refs = BTreeSet::new();
        for asked in std::iter::once(panel).chain(panel["targets"].as_array().unwrap()) {
            assert_eq!(asked["datasource"]["uid"], "${datasource}", "{asked}");
            assert_eq!(asked["datasource"]["type"], "prometheus", "{asked}");
        }
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap().to_owned()), "{target}");
            targets += 1;
        }
    }
    assert_eq!(targets, expressions().len());
}

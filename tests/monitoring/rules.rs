//! The rules as files: what stands in them, and that the operator's copy has the same.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use pilothouse_testkit::repository;

pub(crate) fn path() -> PathBuf {
    repository().join("manifests/monitoring/rules.yaml")
}

/// Any YAML as JSON.
pub(crate) fn read_yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(repository().join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All rules, recording and alerting.
pub(crate) fn all() -> Vec<Value> {
    let rules = read_yaml("manifests/monitoring/rules.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> BTreeSet<String> {
    all().iter().filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect()
}

const OPERATORS_HEAD: &str = "\
# The groups of ../rules.yaml for the Prometheus operator; UPDATE=1 cargo test --test monitoring makes it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: istio-pilot
  namespace: istio-system
  labels:
    app: pilot
spec:
";

#[test]
fn the_operators_copy_has_the_same_groups() {
    let rules = std::fs::read_to_string(path()).unwrap();
    let groups = &rules[rules.find("groups:").unwrap()..];
    let indented = groups.lines().map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("  {line}\n"),
    });
    let wanted = format!("{OPERATORS_HEAD}{}", indented.collect::<String>());
    let file = repository().join("manifests/monitoring/operator/prometheus-rule.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    let copy = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        copy == wanted,
        "UPDATE=1 cargo test --test monitoring makes prometheus-rule.yaml anew"
    );
}

/// Each alert is tested both ways, and somebody who is woken by it finds what to do.
#[test]
fn every_alert_has_unit_tests_and_a_line_in_the_documentation() {
    let tests = read_yaml("tests/monitoring/rules_test.yaml");
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().unwrap() {
        for one in test["alert_rule_test"].as_array().unwrap() {
            let fires = one["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            let name = one["alertname"].as_str().unwrap().to_owned();
            if fires {
                firing.insert(name)
            } else {
                silent.insert(name)
            };
        }
    }
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(firing, alerts, "tests in which each fires");
    assert_eq!(silent, alerts, "tests in which each does not");
    let page = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `Pilothouse"));
    let told: BTreeSet<String> =
        rows.map(|row| format!("Pilothouse{}", row.split('`').next().unwrap())).collect();
    assert_eq!(told, alerts, "docs/metrics.md says what to do on each alert");
}

//! promtool on what we serve and on the rules.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::rules;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::repository;

/// promtool with these arguments, and a text to read.
fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: tools/packages promtool=prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// It must be content; what it said.
fn content(arguments: &[&str], input: &str) -> String {
    let output = promtool(arguments, input);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{input}");
    said
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[tokio::test]
async fn check_metrics_finds_nothing() {
    let manifests = Manifests::new(&[Service::new("web", "http", 80)]);
    let control = ControlPlane::start(manifests.path()).await;
    let page = control.monitoring("metrics").await.unwrap().body;
    assert_eq!(content(&["check", "metrics"], &page), "");
    // It can find something.
    let broken = page.replace("# HELP pilothouse_proxies ", "# HELP other ");
    assert!(!promtool(&["check", "metrics"], &broken).status.success());
}

#[test]
fn check_rules_and_their_unit_tests_pass() {
    content(&["check", "rules", path(&rules::path())], "");
    let tests = repository().join("tests/monitoring/rules_test.yaml");
    content(&["test", "rules", path(&tests)], "");
}

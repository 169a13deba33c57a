//! The Gateway API's own conformance suite, unchanged, against the control plane, the injector and the sidecars as
//! users deploy them: every test that it has for meshes, none skipped. `make test-conformance` runs it, once with
//! sidecars that hold every cluster and once with sidecars on demand.
//!
//! `CONFORMANCE` is the command that runs the suite with the flags it is given. What the suite said and the report
//! that it wrote are left in `target/conformance/`, in a folder for each discovery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::admission::{inject_with_discovery, injecting};
use crate::deployed::NAMESPACE;
use crate::gateway_api;
use crate::harness::Kubectl;
use pilothouse_testkit::{repository, until};

const PROFILES: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];

/// Of the suite of 1.5.1. A newer one may have more, never fewer.
const MESH_TESTS: usize = 22;

/// It takes two minutes if all is well; each expectation that is not met costs another one.
const DEADLINE: Duration = Duration::from_mins(20);

/// Each test of the suite and how it ended: PASS, FAIL or SKIP, by the lines of Go's `-test.v`.
type Outcomes = BTreeMap<String, String>;

fn folder(discovery: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../conformance").join(discovery);
    std::fs::create_dir_all(&folder).unwrap();
    folder.canonicalize().unwrap()
}

/// The suite of 1.5.1 applies the manifest of MeshHTTPRoute303Redirect for this test, which then waits for what none
/// of its routes says. It gets its own here for as long as it runs, from the suite's module.
struct MissingManifest<'a> {
    kubectl: &'a Kubectl,
    file: String,
    applied: bool,
}

impl MissingManifest<'_> {
    const TEST: &'static str = "MeshHTTPRoute307Redirect";

    /// The suite begins a test.
    async fn test_begins(&mut self, test: &str) {
        if test == Self::TEST {
            self.kubectl.run(&["apply", "-f", &self.file]).await;
            self.applied = true;
        } else if self.applied {
            self.kubectl.run(&["delete", "-f", &self.file]).await;
            self.applied = false;
        }
    }
}

/// All pods of the suite have sidecars of this discovery, which its first test for meshes finds there.
async fn assert_discovery(kubectl: &Kubectl, discovery: &str) {
    let found = kubectl.run(&["-n", "gateway-conformance-mesh", "get", "pods", "-o", "json"]).await;
    let found: Value = serde_json::from_str(&found).unwrap();
    let pods = found["items"].as_array().unwrap();
    let on_demand = pods.iter().filter(|pod| pod.to_string().contains("\"--discovery=on-demand\""));
    let wanted = if discovery == "on-demand" { pods.len() } else { 0 };
    assert!(!pods.is_empty(), "no pods of the suite");
    assert_eq!(on_demand.count(), wanted, "pods on demand, of {}: {found}", pods.len());
}

/// How the suite ended, and its tests; what it prints goes to `log`.
async fn run(
    flags: &[&str],
    discovery: &str,
    log: &Path,
    mut missing: MissingManifest<'_>,
) -> (ExitStatus, Outcomes) {
    let program =
        std::env::var("CONFORMANCE").expect("make test-conformance says how to run the suite");
    let mut command = Command::new(program);
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut suite = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(suite.stdout.take().unwrap()).lines();
    let mut errors = suite.stderr.take().unwrap();
    let errors = tokio::spawn(async move {
        let mut said = Vec::new();
        errors.read_to_end(&mut said).await.unwrap();
        said
    });
    let mut log = tokio::fs::File::create(log).await.unwrap();
    let mut outcomes = Outcomes::new();
    let mut looked = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        log.write_all(line.as_bytes()).await.unwrap();
        log.write_all(b"\n").await.unwrap();
        // === RUN   TestConformance/MeshBasic
        if let Some((_, test)) = line.split_once("=== RUN   TestConformance/")
            && !test.contains('/')
        {
            if test.starts_with("Mesh") && !looked {
                assert_discovery(missing.kubectl, discovery).await;
                looked = true;
            }
            missing.test_begins(test).await;
        }
        // --- PASS: TestConformance/MeshBasic (0.05s)
        if let Some(result) = line.trim_start().strip_prefix("--- ")
            && let Some((outcome, test)) = result.split_once(": TestConformance/")
            && let Some((name, _)) = test.split_once(' ')
        {
            if outcome != "SKIP" {
                println!("{}", line.trim_start());
            }
            outcomes.insert(name.to_owned(), outcome.to_owned());
        }
    }
    let ended = suite.wait().await.unwrap();
    log.write_all(&errors.await.unwrap()).await.unwrap();
    log.flush().await.unwrap();
    (ended, outcomes)
}

/// Why a part of the report is not what it must be: all passed, none failed, none left out.
fn flaws(of: &str, status: &Value) -> Vec<String> {
    let mut flaws = Vec::new();
    let count = |what: &str| status["statistics"][what].as_u64();
    if status["result"] != "success" || count("Failed") != Some(0) || count("Skipped") != Some(0) {
        flaws.push(format!("{of}: {status}"));
    }
    if count("Passed").unwrap_or_default() == 0 {
        flaws.push(format!("{of}: no test passed"));
    }
    for what in ["failedTests", "skippedTests", "unsupportedFeatures"] {
        if !status[what].is_null() {
            flaws.push(format!("{of}: {what}: {}", status[what]));
        }
    }
    flaws
}

/// What control plane and injector have said last, for a run that failed.
async fn control_plane_logs(kubectl: &Kubectl) -> String {
    let mut all = String::new();
    for selector in ["istio=pilot", "app=pilothouse-injector"] {
        let logs = ["-n", NAMESPACE, "logs", "-l", selector, "--prefix", "--tail=60"];
        all += &kubectl.attempt(&logs).await.unwrap_or_else(|error| error);
    }
    all
}

#[tokio::test]
#[ignore = "needs a cluster and the suite: make test-conformance"]
async fn every_test_for_meshes_passes() {
    let kubectl = injecting().await;
    gateway_api::install(&kubectl).await;
    gateway_api::grant_rights(&kubectl).await;
    for discovery in ["all", "on-demand"] {
        inject_with_discovery(&kubectl, discovery).await;
        println!("sidecars with the discovery {discovery}:");
        conforms(&kubectl, discovery).await;
        until("the suite's namespaces to be gone", async || {
            let left = kubectl.attempt(&["get", "namespaces", "-o", "name"]).await?;
            if left.contains("gateway-conformance-") { Err(left) } else { Ok(()) }
        })
        .await;
    }
    gateway_api::take_rights(&kubectl).await;
    gateway_api::uninstall(&kubectl).await;
}

/// Every test of the suite for meshes passes with sidecars of this discovery, by what it prints and by its report.
async fn conforms(kubectl: &Kubectl, discovery: &str) {
    let folder = folder(discovery);
    let report_file = folder.join("report.yaml");
    let _ = std::fs::remove_file(&report_file);
    let report_flag = format!("--report-output={}", report_file.display());
    let profiles = format!("--conformance-profiles={}", PROFILES.join(","));
    let version = concat!("--version=", env!("CARGO_PKG_VERSION"));
    let flags = [
        "-test.v",
        &profiles,
        // All features that there are. That of Gateways, which no mesh has, would have the suite wait for one.
        "--all-features",
        "--exempt-features=Gateway",
        "--mesh-name=pilothouse",
        "--namespace-labels=istio-injection=enabled",
        "--organization=pilothouse",
        "--project=pilothouse",
        "--url=https://pilothouse.io",
        "--contact=https://pilothouse.io",
        version,
        &report_flag,
    ];
    let file = gateway_api::module("sigs.k8s.io/gateway-api/conformance").await;
    let file = file.join("tests/mesh/httproute-307-redirect.yaml").display().to_string();
    let missing = MissingManifest { kubectl, file, applied: false };
    let log = folder.join("suite.log");
    let timed = tokio::time::timeout(DEADLINE, run(&flags, discovery, &log, missing)).await;
    let Ok((ended, outcomes)) = timed else {
        panic!(
            "the suite did not end within {DEADLINE:?}: {}\n{}",
            log.display(),
            control_plane_logs(kubectl).await
        );
    };
    let report = std::fs::read_to_string(&report_file).unwrap_or_default();
    println!("{report}");

    let mut wrong = Vec::new();
    if !ended.success() {
        wrong.push(format!("the suite ended with {ended}"));
    }
    // Names of tests of a test have a slash; all other tests are for Gateways and need the feature of that name.
    let of_meshes = |name: &str| name.starts_with("Mesh") && !name.contains('/');
    let passed = outcomes.iter().filter(|(name, outcome)| of_meshes(name) && *outcome == "PASS");
    if passed.count() < MESH_TESTS {
        wrong.push(format!("fewer than {MESH_TESTS} tests for meshes passed"));
    }
    for (name, outcome) in &outcomes {
        if outcome == "FAIL" || (outcome == "SKIP" && name.starts_with("Mesh")) {
            wrong.push(format!("{outcome}: {name}"));
        }
    }
    let parsed: Value = serde_saphyr::from_str(&report).unwrap_or_default();
    for name in PROFILES {
        let profiles = parsed["profiles"].as_array().into_iter().flatten();
        let Some(profile) = profiles.into_iter().find(|profile| profile["name"] == name) else {
            wrong.push(format!("{name} is not in the report"));
            continue;
        };
        wrong.extend(flaws(&format!("{name}, core"), &profile["core"]));
        // The suite has no extended tests for MESH-GRPC.
        if !profile["extended"].is_null() || name == "MESH-HTTP" {
            wrong.extend(flaws(&format!("{name}, extended"), &profile["extended"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nall that the suite said: {}\n{}",
        wrong.join("\n"),
        log.display(),
        control_plane_logs(kubectl).await
    );
    features_are_in_the_readme(&parsed);
}

/// Each extended feature that the report has as supported is named by the README.
fn features_are_in_the_readme(report: &Value) {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let profiles = report["profiles"].as_array().into_iter().flatten();
    let features = profiles
        .filter_map(|profile| profile["extended"]["supportedFeatures"].as_array())
        .flatten()
        .filter_map(Value::as_str);
    let missing: Vec<_> =
        features.filter(|feature| !readme.contains(&format!("`{feature}`"))).collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

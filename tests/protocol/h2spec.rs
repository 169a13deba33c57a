//! What h2spec (github.com/summerwind/h2spec) finds in the real program: RFC 7540 and RFC 7541 case
//! by case, from outside. `tools/install-go-tool h2spec` builds it; `make test` sees to that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{eventually, in_time};

/// Cases that fail, and why they must. One that does not fail any more has to go from here.
const FAIL: [(&str, &str); 2] = [
    (
        "http2/5.3.1: Sends HEADERS frame that depend on itself",
        "RFC 9113 has taken priorities away (section 5.3), and with them this error; its section 6.2 \
         knows the fields only to skip them",
    ),
    (
        "http2/5.3.1: Sends PRIORITY frame that depend on itself",
        "as above; besides, the stream is idle, and RST_STREAM must not be sent for one that is \
         (section 6.4)",
    ),
];

/// As many as h2spec has, so that a report of nothing is no success.
const CASES: usize = 145;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn h2spec_finds_what_is_known_and_nothing_else() {
    let h2spec = root().join(".tools/bin/h2spec");
    assert!(h2spec.exists(), "there is no {}: run tools/install-go-tool h2spec", h2spec.display());
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let _server = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0"])
        .args(["--monitoring-addr=127.0.0.1:0", "--manifests"])
        .arg(root().join("examples/bookinfo"))
        .stderr(std::fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut port = String::new();
    eventually("the port in the log", async || {
        let log = std::fs::read_to_string(&log).unwrap();
        let found = log.split_once("listening").and_then(|(_, rest)| rest.split_once("127.0.0.1:"));
        let (_, rest) = found.ok_or(log.clone())?;
        port = rest.chars().take_while(char::is_ascii_digit).collect();
        Ok(())
    })
    .await;

    let report = folder.path().join("report.xml");
    let output = Command::new(h2spec)
        // Longer than an answer takes on a busy machine: only what fails waits for so long.
        .args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5", "--junit-report"])
        .arg(&report)
        .output();
    let output = in_time("h2spec", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let outcomes = outcomes(&report);
    assert!(outcomes.len() >= CASES, "{} of {CASES} cases:\n{said}", outcomes.len());
    let failed: Vec<_> = outcomes.iter().filter(|(_, passed)| !**passed).collect();
    let unknown: Vec<_> =
        failed.iter().filter(|(case, _)| FAIL.iter().all(|(known, _)| known != *case)).collect();
    assert!(unknown.is_empty(), "these fail: {unknown:#?}\n{said}");
    for (case, reason) in FAIL {
        assert_eq!(outcomes.get(case), Some(&false), "{case} does not fail any more ({reason})");
    }
}

/// Which cases passed; what was skipped did not.
fn outcomes(report: &PathBuf) -> BTreeMap<String, bool> {
    let text = std::fs::read_to_string(report).unwrap();
    let mut outcomes = BTreeMap::new();
    for case in text.split("<testcase ").skip(1) {
        let attribute = |name: &str| {
            let (_, rest) = case.split_once(&format!("{name}=\"")).expect("an attribute");
            rest.split_once('"').expect("its end").0.replace("&#34;", "'")
        };
        let name = format!("{}: {}", attribute("package"), attribute("classname"));
        let passed = !["<error", "<failure", "<skipped"].iter().any(|tag| case.contains(tag));
        assert_eq!(outcomes.insert(name, passed), None, "two cases of one name");
    }
    outcomes
}

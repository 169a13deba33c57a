//! `pilothouse inject` as a command: golden files for each kind of workload, and what must hold for
//! all of them.
//!
//! `UPDATE_GOLDEN=1 cargo test --test inject` writes the files anew; read the difference before
//! you commit it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod cases;
mod readers;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Answer {
    text: String,
    notes: String,
    success: bool,
}

fn inject(text: &str, flags: &[&str]) -> Answer {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["inject", "-f", "-"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer {
        text: text(output.stdout),
        notes: text(output.stderr),
        success: output.status.success(),
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The input files, each with the flags that it asks for in its first lines.
fn golden() -> Vec<(PathBuf, String, Vec<String>)> {
    let folder = repository().join("tests/inject/golden");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.to_string_lossy().contains(".injected."))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("# flags: "));
            let flags = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
            (path, text, flags)
        })
        .collect()
}

fn same_as_file(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, text).unwrap();
        return;
    }
    let wanted = fs::read_to_string(file).unwrap_or_default();
    if wanted != text {
        let differs = wanted.lines().zip(text.lines()).position(|(wanted, line)| wanted != line);
        let line = differs.unwrap_or_else(|| wanted.lines().count().min(text.lines().count()));
        panic!(
            "{}, line {}: {:?} is wanted, not {:?}; if that is right: UPDATE_GOLDEN=1 cargo test --test inject",
            file.display(),
            line + 1,
            wanted.lines().nth(line),
            text.lines().nth(line),
        );
    }
}

#[test]
fn each_kind_of_workload_as_its_golden_file_says() {
    let files = golden();
    assert!(files.len() >= 14, "{files:?}");
    for (path, text, flags) in files {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let injected = inject(&text, &flags);
        assert!(injected.success, "{}: {}", path.display(), injected.notes);
        let ending = path.extension().unwrap().to_string_lossy();
        same_as_file(&path.with_extension(format!("injected.{ending}")), &injected.text);

        let twice = inject(&injected.text, &flags);
        assert!(twice.text == injected.text, "{}: twice is not the same as once", path.display());
    }
}

#[test]
fn bookinfo_of_the_examples_is_what_inject_makes_of_it() {
    let folder = repository().join("examples/kubernetes/sidecars");
    let text = fs::read_to_string(folder.join("bookinfo.yaml")).unwrap();
    let injected = inject(&text, &[]);
    assert!(injected.success && injected.notes.is_empty(), "{}", injected.notes);
    same_as_file(&folder.join("bookinfo.injected.yaml"), &injected.text);
}

#[test]
fn who_is_left_alone_is_told_why() {
    let (_, text, _) =
        golden().into_iter().find(|(path, _, _)| path.ends_with("skipped.yaml")).unwrap();
    let answer = inject(&text, &[]);
    assert_eq!(answer.text, text);
    assert_eq!(
        answer.notes,
        "Pod shop/on-the-node: left alone, it uses its node's network (hostNetwork)\n\
         Pod annotated: left alone, its annotation sidecar.istio.io/inject is \"false\"\n\
         Pod labelled: left alone, its label sidecar.istio.io/inject is \"false\"\n\
         Pod kube-system/dns: left alone, kube-system is the cluster's own namespace\n\
         Deployment empty: left alone, it has no spec.template\n"
    );
    let job = "{apiVersion: batch/v1, kind: Job, metadata: {name: once}, \
               spec: {template: {spec: {containers: [{name: a, image: b}]}}}}";
    let answer = inject(job, &[]);
    assert!(answer.notes.starts_with("Job once: its pods will not complete"), "{}", answer.notes);
    let again = inject(&answer.text, &[]);
    assert_eq!(again.notes, "Job once: left alone, it has its sidecar already\n");
}

#[test]
fn what_has_no_workload_comes_out_byte_for_byte() {
    for text in [
        "",
        "\n\n",
        "# a comment alone\n",
        "---\n",
        "---\n---\n# x\n---\n",
        "%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n",
        "\u{feff}apiVersion: v1\r\nkind: Service\r\n",
        "a:   [1,2]  # odd\nb: &x {c: d}\ne: *x",
        "--- |\n  kind: Pod\n--- [1, 2]\n",
        "{\"kind\": \"Service\"}{\"kind\":\"Secret\"}\n\n[1]\n",
        "plain text",
    ] {
        let answer = inject(text, &[]);
        assert!(answer.success, "{text:?}: {}", answer.notes);
        assert_eq!(answer.text, text);
    }
}

#[test]
fn wrong_input_is_refused_as_a_whole_and_in_its_place() {
    let pod = |annotation: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: b\n  annotations: {{{annotation}}}\n\
             spec: {{containers: [{{name: a, image: b}}]}}\n"
        )
    };
    let good = pod("");
    for (text, said) in [
        (
            format!("{good}---\na: 1\nb: ]\n"),
            "standard input: document 2: misplaced bracket at line 10",
        ),
        (
            pod("traffic.sidecar.istio.io/includeInboundPorts: http"),
            "includeInboundPorts: \"http\": not a port",
        ),
        (pod("traffic.sidecar.istio.io/excludeOutboundIPRanges: 10/8"), "\"10/8\" is not a range"),
        (
            pod("sidecar.istio.io/interceptionMode: TPROXY"),
            "Pod b/a: annotation sidecar.istio.io/interceptionMode",
        ),
        (good.replace("containers: [", "volumes: {}, containers: ["), "volumes is no list"),
    ] {
        let answer = inject(&text, &[]);
        assert!(!answer.success && answer.text.is_empty(), "{}", answer.text);
        assert!(answer.notes.contains(said), "{}", answer.notes);
    }
    let answer = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["inject", "-f", "/no/such/file.yaml"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(said.starts_with("error: /no/such/file.yaml: No such file"), "{said}");
}

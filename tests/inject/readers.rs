//! What is printed is read by kubectl, so it is tested with kubectl's own reader (sigs.k8s.io/yaml, in
//! Go), on text that readers and writers of YAML are known to disagree about.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{inject, repository};

/// What kubectl makes of each document.
fn as_kubectl(documents: &[&str]) -> Vec<Result<Value, String>> {
    let mut child = Command::new("go")
        .args(["run", "."])
        .current_dir(repository().join("tests/inject/kubectl-reader"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("go is installed");
    let input = serde_json::to_vec(documents).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<BTreeMap<String, Value>> = serde_json::from_slice(&output.stdout).unwrap();
    let answers = answers.into_iter().map(|mut answer| match answer.remove("json") {
        Some(json) => Ok(json),
        None => Err(answer["error"].to_string()),
    });
    answers.collect()
}

/// Text as every reader takes it: in quotes, with nothing but ASCII.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        c => format!("\\U{:08X}", u32::from(c)),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Pieces of which text is made that has tripped somebody.
const PIECES: [&str; 68] = [
    "\t",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{0}",
    "\u{7}",
    "\u{1b}",
    "\u{7f}",
    "\u{9f}",
    "\u{fffd}",
    "\u{ffff}",
    "ä",
    "😀",
    "\u{10ffff}",
    "---",
    "--- ",
    "...",
    "- ",
    "-",
    "? ",
    "?",
    ": ",
    ":",
    " #",
    "#",
    "\"",
    "'",
    "\\",
    "|",
    ">",
    "|-\n",
    "%",
    "@",
    "`",
    "&a",
    "*a",
    "!!str ",
    "!",
    "[",
    "]",
    "{",
    "}",
    ",",
    "=",
    "<<",
    "~",
    "null",
    "y",
    "n",
    "on",
    "Off",
    "0o7",
    "0x1F",
    "1_0",
    "1e3",
    ".5",
    "12:30",
    "a",
    "kind: Pod",
    "\ta\n",
];

/// The same ones in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn text(&mut self) -> String {
        let pieces = 1 + self.below(6);
        (0..pieces).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }
}

#[test]
fn kubectl_reads_any_text_as_it_was() {
    let mut dice = Dice(13);
    let mut texts: Vec<String> = [
        "\tfirst\nsecond\n",
        "\tfirst\nsecond",
        "a\n\tsecond",
        "set -e\nif true; then\n\techo '---'\nfi\n",
        " first\nsecond\n",
        "\n\nfirst",
        "first\n\n\n",
        "first \nsecond  \n",
        "a\n   \nb",
        "trailing ",
        "",
    ]
    .map(str::to_owned)
    .into();
    texts.extend(PIECES.iter().map(|piece| (*piece).to_owned()));
    texts.extend((0..6_000).map(|_| dice.text()));
    texts.push("long ".repeat(1_000));

    let chunks: Vec<&[String]> = texts.chunks(50).collect();
    let pods = chunks.iter().map(|texts| {
        let items = |line: &dyn Fn(&str) -> String| texts.iter().map(|text| line(text)).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n{}spec:\n  containers:\n  - name: a\n    args:\n{}",
            items(&|text| format!("    ? {}\n    : {}\n", quoted(text), quoted(text))),
            items(&|text| format!("    - {}\n", quoted(text))),
        )
    });
    let pods: Vec<String> = pods.collect();
    let injected = inject(&pods.join("---\n"), &[]);
    assert!(injected.success, "{}", injected.notes);
    // As kubectl cuts them.
    let documents: Vec<&str> = injected.text.split("\n---\n").collect();
    assert_eq!(documents.len(), chunks.len());
    for ((texts, read), document) in chunks.iter().zip(as_kubectl(&documents)).zip(&documents) {
        let read = read.unwrap_or_else(|error| panic!("{error}: {document}"));
        let container = &read["spec"]["containers"][0];
        assert_eq!(container["args"], json!(texts), "{document}");
        for text in *texts {
            assert_eq!(read["metadata"]["annotations"][text], json!(text), "{document}");
        }
        assert_eq!(read["spec"]["containers"][1]["name"], "istio-proxy");
    }
}

#[test]
fn kubectl_reads_the_same_before_and_after() {
    let plain = [
        "y",
        "n",
        "Y",
        "yes",
        "No",
        "on",
        "OFF",
        "true",
        "True",
        "~",
        "null",
        "Null",
        "=",
        "0o7",
        "0o18",
        "017",
        "018",
        "0x1F",
        "0b11",
        "1_000",
        "+1",
        "-1",
        "-0",
        ".5",
        "1.",
        "1.0",
        "1e3",
        "1E-3",
        "12:30:45",
        "1:30",
        "2001-01-01",
        "18446744073709551615",
        "9007199254740993",
        "a b",
        "'single ''quoted'''",
        "\"double \\t quoted\"",
        "!!str 1",
        "[a, {b: c}]",
        "{}",
        "[]",
        "\"\"",
        "|\n    first\n\n     second\n",
        ">-\n    folded\n    text\n",
        "&x {a: b}",
    ];
    let pods: Vec<String> = plain
        .iter()
        .map(|value| {
            format!(
                "kind: Pod\nmetadata: {{name: a}}\nspec:\n  containers: [{{name: a}}]\n  field: {value}\n"
            )
        })
        .collect();
    let before: Vec<&str> = pods.iter().map(String::as_str).collect();
    let injected: Vec<String> = pods.iter().map(|pod| inject(pod, &[]).text).collect();
    let after: Vec<&str> = injected.iter().map(String::as_str).collect();
    let read = as_kubectl(&before).into_iter().zip(as_kubectl(&after));
    let differ: Vec<String> = read
        .zip(plain)
        .filter_map(|((before, after), plain)| {
            let field =
                |read: Result<Value, String>| read.map(|read| read["spec"]["field"].clone());
            let (before, after) = (field(before), field(after));
            (before != after).then(|| format!("{plain}: {before:?} became {after:?}"))
        })
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn kubectl_takes_every_golden_file() {
    for (path, text, flags) in crate::golden() {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let injected = inject(&text, &flags);
        let documents: Vec<&str> = injected.text.split("\n---\n").collect();
        for read in as_kubectl(&documents) {
            assert!(read.is_ok(), "{}: {read:?}", path.display());
        }
    }
}

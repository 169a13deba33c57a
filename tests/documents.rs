//! Holds that what the documents cite is there: files of the repository, headings that links lead to, and
//! the names of types in ARCHITECTURE.md.

// A test that cannot read the documents has failed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a path begins that is the repository's own; anything else in backticks is not a file's name.
const FOLDERS: &[&str] = &[
    ".ci",
    ".github",
    "benches",
    "crates",
    "docs",
    "examples",
    "fuzz",
    "manifests",
    "proto",
    "src",
    "tests",
    "tools",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document that is part of the repository.
fn documents() -> Vec<PathBuf> {
    let markdown = |folder: PathBuf| {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect::<Vec<_>>()
    };
    [markdown(root().to_owned()), markdown(root().join("docs"))].concat()
}

/// What stands in backticks, outside of code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let prose = text.split("```").step_by(2);
    for part in prose {
        found.extend(part.split('`').skip(1).step_by(2));
    }
    found
}

/// The file that a quotation names, if it names one of the repository's.
fn cited(quotation: &str) -> Option<&str> {
    let first = quotation.split('/').next()?;
    let is_path = FOLDERS.contains(&first) && !quotation.contains(['*', ' ', '{', '…']);
    is_path.then_some(quotation)
}

/// Targets of the links to files, `(file, heading)`.
fn links(text: &str) -> Vec<(&str, Option<&str>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let own = targets.map(|(target, _)| target).filter(|target| !target.contains("://"));
    own.map(|target| match target.split_once('#') {
        Some((file, heading)) => (file, Some(heading)),
        None => (target, None),
    })
    .collect()
}

/// The anchors of a document's headings, as they are made from them by the pages that show it.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn files_and_headings_that_documents_cite_are_there() {
    let mut problems = Vec::new();
    for document in documents() {
        let name = document.strip_prefix(root()).unwrap().display();
        let text = fs::read_to_string(&document).unwrap();
        for path in quoted(&text).into_iter().filter_map(cited) {
            if !root().join(path).exists() {
                problems.push(format!("{name} cites {path}, which is not there"));
            }
        }
        for (file, heading) in links(&text) {
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            if !target.exists() {
                problems.push(format!("{name} links to {file}, which is not there"));
            } else if let Some(heading) = heading
                && !anchors(&fs::read_to_string(&target).unwrap()).contains(heading)
            {
                problems
                    .push(format!("{name} links to {file}#{heading}, a heading that is not there"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn tests_that_the_table_of_routes_names_are_there() {
    let text = fs::read_to_string(root().join("docs/routes.md")).unwrap();
    let code = sources(&["src", "crates", "tests"]).concat();
    let (mut rows, mut shows) = (0, false);
    for line in text.lines() {
        // Names of tests are in the last column of tables that say so.
        shows &= line.starts_with('|');
        if line.ends_with("| shown by |") {
            shows = true;
        } else if shows && let Some((_, tests)) = line.trim_end_matches(" |").rsplit_once(" | ") {
            rows += 1;
            let names = quoted(tests);
            let missing: Vec<_> =
                names.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
            assert!(missing.is_empty(), "{missing:?} of docs/routes.md do not exist: {line}");
        }
    }
    assert!(rows > 20, "{rows} rows with tests");
}

#[test]
fn types_that_the_architecture_names_are_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let code = sources(&["src", "crates"]).concat();
    let is_type = |word: &&str| {
        word.starts_with(|c: char| c.is_uppercase())
            && word.contains(|c: char| c.is_lowercase())
            && word.chars().all(|c| c.is_alphanumeric() || c == ':' || c == '_')
    };
    // Envoy's are generated, and files of that look are no types.
    let foreign = ["ClusterLoadAssignment", "Dockerfile"];
    let mut problems = Vec::new();
    for word in quoted(&text).into_iter().filter(is_type).filter(|word| !foreign.contains(word)) {
        let (name, member) = word.split_once("::").unwrap_or((word, ""));
        let declared = ["struct", "enum", "trait", "type"]
            .iter()
            .any(|kind| ends(&code, &format!("{kind} {name}")));
        let member = member.is_empty()
            || ends(&code, &format!("fn {member}"))
            || ends(&code, &format!("    {member}"));
        if !declared || !member {
            problems.push(word);
        }
    }
    assert!(problems.is_empty(), "ARCHITECTURE.md names what is not there: {problems:?}");
}

/// Whether `declaration` stands in the code as a whole word.
fn ends(code: &str, declaration: &str) -> bool {
    code.match_indices(declaration).any(|(at, found)| {
        !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

fn sources(folders: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_test_finds_what_it_looks_for() {
    let text = "a `src/x.rs` and `pilothouse serve`\n```sh\n`src/no.rs`\n```\n[b](docs/c.md#d-e) [f](https://g.h)";
    let paths: Vec<_> = quoted(text).into_iter().filter_map(cited).collect();
    assert_eq!(paths, ["src/x.rs"]);
    assert_eq!(links(text), [("docs/c.md", Some("d-e"))]);
    assert!(anchors("# One\n## What is `it`, then?").contains("what-is-it-then"));
}

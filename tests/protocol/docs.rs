//! `docs/protocol.md` names a test for every rule; each must exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &Path, into: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read(&entry.unwrap().path(), into);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        into.push_str(&fs::read_to_string(path).unwrap());
    }
}

#[test]
fn every_test_that_the_table_names_exists_and_every_rule_has_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let mut sources = String::new();
    for folder in ["src", "crates", "tests/protocol", "tests/envoy"] {
        read(&root.join(folder), &mut sources);
    }
    let is_there = |name: &str| {
        sources.contains(&format!("fn {name}(")) || sources.contains(&format!("    {name},\n"))
    };

    let mut rules = BTreeSet::new();
    let mut names_tests = false;
    let lines: Vec<&str> = table.lines().collect();
    for (at, row) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [what, .., tests] = cells.as_slice() else { panic!("one cell: {row}") };
        let is_head = lines.get(at + 1).is_some_and(|next| next.starts_with("|-"));
        if is_head {
            names_tests = *tests == "shown by";
            continue;
        }
        if !names_tests {
            continue;
        }
        rules.extend(what.parse::<u32>());
        // Names of tests are in backquotes; other code in that column is not.
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{what:?} has no test");
        for name in names {
            assert!(is_there(name), "{what:?} names the test {name}, which does not exist");
        }
    }
    assert_eq!(rules.into_iter().collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());
}

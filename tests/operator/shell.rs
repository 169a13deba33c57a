//! Completion in the shells themselves, and the man pages by the programs that show them.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::run;

/// Whether a program is there; `tools/packages` installs those that are not.
fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    found.status.success()
}

/// What a program prints, which must succeed.
fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.into_owned()
}

/// A folder with the completion for this shell in a file.
async fn completion(shell: &str) -> (TempDir, String) {
    let ran = run(&["completion", shell]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(if shell == "zsh" { "_pilothouse" } else { "pilothouse" });
    std::fs::write(&file, &ran.out).unwrap();
    (folder, file.display().to_string())
}

#[tokio::test]
async fn bash_completes_commands_flags_and_values() {
    let (_folder, file) = completion("bash").await;
    printed("bash", &["-n", &file]);
    for (line, wanted) in [
        ("pilothouse sta", &["status"][..]),
        ("pilothouse status --a", &["--address"]),
        ("pilothouse status --output ", &["wide", "json", "yaml"]),
        ("pilothouse wait --resource", &["--resource-version"]),
        ("pilothouse completion ", &["bash", "zsh", "fish"]),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (current, before) = (words[words.len() - 1], words[words.len() - 2]);
        // As bash does for whoever presses Tab.
        let script = format!(
            "source '{file}'; COMP_WORDS=({}); COMP_CWORD={}; _pilothouse pilothouse '{current}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1
        );
        let found = printed("bash", &["--norc", "-c", &script]);
        let found: Vec<&str> = found.lines().collect();
        assert!(wanted.iter().all(|word| found.contains(word)), "{line}: {found:?}");
        assert!(found.iter().all(|word| word.starts_with(current)), "{line}: {found:?}");
    }
    let hidden = printed("bash", &["-c", &format!("cat '{file}'")]);
    assert!(!hidden.contains("'parent-death-exec'"), "what is hidden is not offered");
}

#[tokio::test]
async fn zsh_and_fish_read_theirs() {
    let (_folder, file) = completion("zsh").await;
    assert!(is_there("zsh") && is_there("fish"), "tools/packages zsh=zsh fish=fish");
    printed("zsh", &["-n", &file]);
    let (_folder, file) = completion("fish").await;
    printed("fish", &["--no-execute", &file]);
    let found = printed(
        "fish",
        &["--no-config", "-c", &format!("source '{file}'; complete -C 'pilothouse sta'")],
    );
    assert!(found.lines().any(|line| line.starts_with("status\t")), "{found}");
}

#[tokio::test]
async fn man_pages_of_all_commands_are_shown_without_complaint() {
    let folder = TempDir::new().unwrap();
    let pages = folder.path().join("man1");
    let ran = run(&["man", &pages.display().to_string()]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    let mut names: Vec<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for command in
        ["serve", "doctor", "agent", "inject", "iptables", "status", "changes", "wait", "man"]
    {
        assert!(names.contains(&format!("pilothouse-{command}.1")), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("help") || name.contains("exec")), "{names:?}");
    assert!(is_there("mandoc") && is_there("groff"), "tools/packages mandoc=mandoc groff=groff");
    for name in &names {
        let page = pages.join(name).display().to_string();
        // Errors only: its warnings are about style, such as a date that is missing; groff's about breaks
        // are about words that are longer than a line.
        printed("mandoc", &["-T", "lint", "-W", "error", &page]);
        let said = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-Wbreak", "-z", &page])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{name}");
    }
    let page = pages.join("pilothouse-wait.1").display().to_string();
    // Bold is a character twice with a backspace between.
    let mut shown = String::new();
    for character in printed("mandoc", &["-T", "utf8", &page]).chars() {
        if character == '\u{8}' {
            shown.pop();
        } else {
            shown.push(character);
        }
    }
    assert!(
        shown.contains("--resource-version <VERSION>") && shown.contains("Exit code: 0"),
        "{shown}"
    );
    let ran = run(&["man"]).await;
    assert!(ran.out.contains(".TH pilothouse 1"), "{ran:?}");
    let ran = run(&["man", "/proc/nowhere"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("/proc/nowhere"), "{ran:?}");
}

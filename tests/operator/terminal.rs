//! What is different on a terminal: colours, and tables that fit.

use tokio::process::Command;

use crate::harness::{StandIn, row};
use pilothouse_testkit::program;

/// What the command prints on a terminal of this width (`script` of util-linux makes one).
async fn on_terminal(server: &StandIn, columns: u16, environment: &str, flags: &str) -> String {
    let program = program();
    let line = format!(
        "stty cols {columns}; {environment} {} status --address={} {flags} 2>/dev/null",
        program.display(),
        server.address
    );
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_remove("COLUMNS")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("script is installed");
    String::from_utf8(output.stdout).unwrap()
}

fn without_colors(text: &str) -> String {
    ["32", "33", "31", "2", "0"]
        .iter()
        .fold(text.replace('\r', ""), |text, code| text.replace(&format!("\u{1b}[{code}m"), ""))
}

#[tokio::test]
async fn a_table_fits_the_terminal_and_is_whole_in_a_pipe() {
    let name = "reviews-v1-very-long-name-of-a-deployment-5d4f8c7b9-x7k2p.production";
    let server =
        StandIn::with_proxies(vec![row(1, name, "REJECTED"), row(2, "b.shop", "SYNCED")]).await;
    let narrow = on_terminal(&server, 100, "", "").await;
    assert!(
        narrow.contains("\u{1b}[31mREJECTED\u{1b}[0m") && narrow.contains("\u{1b}[32mSYNCED"),
        "{narrow:?}"
    );
    let plain = without_colors(&narrow);
    assert_eq!(plain.lines().count(), 3, "{plain}");
    assert!(plain.lines().all(|line| line.chars().count() <= 100), "{plain}");
    assert!(plain.contains('…') && !plain.contains(name), "{plain}");
    let by_variable = without_colors(&on_terminal(&server, 80, "COLUMNS=200", "").await);
    assert!(by_variable.contains(name), "{by_variable}");
    let piped = crate::harness::ask(&["status"], &[server.address]).await;
    assert!(piped.out.contains(name) && !piped.out.contains('\u{1b}'), "{piped:?}");
}

#[tokio::test]
async fn colours_are_as_one_has_said() {
    let server = StandIn::with_proxies(vec![row(1, "b.shop", "SYNCED")]).await;
    for (environment, flags, colored) in [
        ("", "", true),
        ("NO_COLOR=1", "", false),
        ("NO_COLOR=", "", true),
        ("TERM=dumb", "", false),
        ("", "--color never", false),
        ("NO_COLOR=1", "--color always", true),
        ("", "-o json", false),
    ] {
        let text = on_terminal(&server, 200, environment, flags).await;
        assert!(text.contains("b.shop"), "{text:?}");
        assert_eq!(text.contains('\u{1b}'), colored, "{environment} {flags}: {text:?}");
    }
    let piped = crate::harness::ask(&["status", "--color", "always"], &[server.address]).await;
    assert!(piped.out.contains("\u{1b}[32mSYNCED\u{1b}[0m"), "{piped:?}");
}

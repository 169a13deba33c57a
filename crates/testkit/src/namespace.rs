//! A network namespace of a test's own, in which it may capture traffic without anybody else
//! noticing.

use std::process::{Command, ExitStatus};

/// Set inside.
const INSIDE: &str = "PILOTHOUSE_TEST_NAMESPACE";

/// Whether the test runs in a namespace of its own, with loopback up. If not, this runs it there
/// (`test` is its full name) and panics if it fails; the caller then has nothing left to do.
pub fn entered(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run(&["ip", "link", "set", "lo", "up"]);
        return true;
    }
    let own = std::env::current_exe().expect("a test knows its program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--map-root-user", "--"]).arg(own);
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().unwrap_or_else(|error| panic!("cannot start unshare: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(ran, "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// For a program that is no test: nothing if it runs in a namespace of its own, with loopback up. If not, it
/// is run there with the arguments that it has, and this is how it ended.
pub fn reentered() -> Option<ExitStatus> {
    if std::env::var_os(INSIDE).is_some() {
        run(&["ip", "link", "set", "lo", "up"]);
        return None;
    }
    let own = std::env::current_exe().expect("a program knows itself");
    let mut command = Command::new("unshare");
    command.args(["--net", "--map-root-user", "--"]).arg(own).args(std::env::args_os().skip(1));
    let status = command.env(INSIDE, "1").status();
    Some(status.unwrap_or_else(|error| panic!("cannot start unshare: {error}")))
}

/// Makes every address of this range (`10.0.0.0/8`) one of loopback.
pub fn take_in(range: &str) {
    run(&["ip", "route", "add", "local", range, "dev", "lo"]);
}

/// Redirects TCP to `address` into a sidecar's inbound capture, except what the sidecar itself
/// sends on.
pub fn capture_inbound(address: std::net::IpAddr) {
    let address = address.to_string();
    let rule = ["-A", "OUTPUT", "-p", "tcp", "-d", &address, "!", "-s", "127.0.0.6"];
    let target = ["-j", "REDIRECT", "--to-ports", "15006"];
    run(&[&["iptables", "-t", "nat"][..], &rule, &target].concat());
}

/// Redirects TCP from `client` into a sidecar's outbound capture, wherever it goes.
pub fn capture_outbound(client: std::net::IpAddr) {
    let client = client.to_string();
    let rule = ["-A", "OUTPUT", "-p", "tcp", "-s", &client, "-j", "REDIRECT"];
    run(&[&["iptables", "-t", "nat"][..], &rule, &["--to-ports", "15001"]].concat());
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {}: {error}", command[0]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

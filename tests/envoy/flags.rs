//! Flags and variables, as the program itself takes them.

use std::process::Command;

use rustix::process::Signal;

use crate::wire::Client;
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, same};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// Exit status and everything that was said.
async fn ended(command: &mut Command) -> (Option<i32>, String) {
    let mut process = Process::start("pilothouse", command);
    let status = process.end(DEADLINE).await;
    (status.code(), process.log())
}

/// What each flag that bounds something may be at the least, at "no limit", and at the most.
const BOUNDS: [(&str, &str, &str, &str); 16] = [
    ("--pace", "0", "0", "5s"),
    ("--linger", "0", "0s", "1h"),
    ("--max-request-bytes", "4096", "4096", "1073741824"),
    ("--max-names", "1000", "0", "1000000000"),
    ("--max-types", "4", "0", "1000000000"),
    ("--max-requests-per-second", "1", "0", "1000000000"),
    ("--max-streams-per-peer", "1", "0", "1000000000"),
    ("--max-starting", "1", "0", "1000000000"),
    ("--max-connection-memory", "1048576", "0", "1099511627776"),
    ("--max-peer-memory", "1048576", "0", "1099511627776"),
    ("--first-request-timeout", "100ms", "0", "365days"),
    ("--ack-timeout", "100ms", "0", "365days"),
    ("--send-timeout", "100ms", "0s", "365days"),
    ("--keepalive", "1s", "1s", "1h"),
    ("--shutdown-timeout", "1ms", "1ms", "1h"),
    ("--log", "info", "info", "trace"),
];

#[tokio::test]
async fn at_the_ends_of_what_flags_may_be_proxies_are_served() {
    for end in 0..3 {
        let manifests = Manifests::new(&[Service::new("first", "http", 80)]);
        let mut arguments = vec!["--manifests".to_owned(), manifests.path().display().to_string()];
        arguments.extend(
            BOUNDS
                .iter()
                .map(|(flag, least, none, most)| format!("{flag}={}", [least, none, most][end])),
        );
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut control = ControlPlane::start_with(&arguments, &[]).await;
        control.becomes_ready().await;
        let mut client = Client::open(control.grpc).await;
        client.subscribe(CLUSTER).await;
        let response = client.response().await.expect("clusters");
        assert!(response.resources.len() > 1, "{arguments:?}: {response:?}");
        control.process.signal(Signal::TERM);
        assert_eq!(control.process.end(DEADLINE).await.code(), Some(0), "{arguments:?}");
        let log = control.process.log();
        assert!(!log.contains("panicked"), "{arguments:?}: {log}");
    }
}

#[tokio::test]
async fn just_beyond_them_they_are_refused_by_name() {
    for (flag, least, _, most) in BOUNDS {
        let mut beyond =
            vec![format!("{most}0"), format!("-{most}"), "18446744073709551615s".into()];
        if flag == "--keepalive" {
            beyond.extend(["0s", "1ns", "1ms", "999ms"].map(str::to_owned));
        }
        beyond.push(least.replace(|c: char| c.is_ascii_digit(), "x"));
        for value in beyond.iter().filter(|value| *value != "info") {
            let given = format!("{flag}={value}");
            let (code, said) = ended(&mut pilothouse(&["serve", "--manifests=.", &given])).await;
            assert_eq!(code, Some(2), "{given}: {said}");
            assert!(said.contains(flag), "{given}: {said}");
        }
    }
}

#[tokio::test]
async fn a_variable_that_is_empty_counts_as_not_set_and_one_that_nothing_reads_is_told() {
    let manifests = Manifests::new(&[Service::new("first", "http", 80)]);
    let source = ["--manifests", manifests.path().to_str().unwrap()];
    let environment = [
        ("PILOTHOUSE_NAMESPACE", ""),
        ("PILOTHOUSE_PACE", ""),
        ("PILOTHOUSE_SOURCE", ""),
        ("PILOTHOUSE_LOG", ""),
        ("PILOTHOUSE_WATCH_NODES", "0"),
        ("PILOTHOUSE_GRPC_ADRR", "127.0.0.1:1"),
        ("PILOTHOUSE_SERVICE_HOST", "10.96.0.1"),
    ];
    let control = ControlPlane::start_with(&source, &environment).await;
    control.becomes_ready().await;
    let log = control.process.log();
    assert!(log.contains("namespaces=all") && log.contains("pace=100ms"), "{log}");
    let warnings = log.lines().filter(|line| line.contains("nothing reads it")).count();
    assert!(log.contains("PILOTHOUSE_GRPC_ADRR") && warnings == 1, "{log}");
}

#[tokio::test]
async fn an_error_names_the_variable_that_its_value_came_from() {
    for (name, value, flag) in [
        ("PILOTHOUSE_PACE", "soon", "--pace"),
        ("PILOTHOUSE_NAMESPACE", "Bad Name", "--namespace"),
        ("PILOTHOUSE_DOMAIN", "a b", "--domain"),
        ("PILOTHOUSE_WATCH_NODES", "maybe", "--watch-nodes"),
        ("PILOTHOUSE_LOG", "inof", "--log"),
        ("PILOTHOUSE_WATCH_TIMEOUT", "30s", "--watch-timeout"),
    ] {
        let mut command = pilothouse(&["serve", "--manifests", "."]);
        let (code, said) = ended(command.env(name, value)).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(flag) && said.contains(name), "{said}");
    }
    // The command line wins, and is blamed.
    let mut command = pilothouse(&["serve", "--manifests", ".", "--pace=later"]);
    let (_, said) = ended(command.env("PILOTHOUSE_PACE", "1s")).await;
    assert!(said.contains("'later'") && !said.contains("PILOTHOUSE_PACE"), "{said}");
}

#[tokio::test]
async fn yes_and_no_are_read_as_people_write_them() {
    // With manifests the flag is refused, so what was read as yes is seen.
    for (value, yes) in
        [("1", true), ("TRUE", true), ("yes", true), ("true", true), ("0", false), ("no", false)]
    {
        let mut command = pilothouse(&["serve", "--manifests", "/no/such/folder"]);
        let (code, said) = ended(command.env("PILOTHOUSE_WATCH_NODES", value)).await;
        assert_eq!(code, Some(if yes { 2 } else { 1 }), "{value}: {said}");
        assert_eq!(said.contains("--watch-nodes"), yes, "{value}: {said}");
    }
}

#[tokio::test]
async fn why_it_ends_is_said_without_a_log_too() {
    for level in ["off", "error", "pilothouse=off"] {
        let arguments = ["serve", "--manifests", "/no/such/folder", "--log", level];
        let (code, said) = ended(&mut pilothouse(&arguments)).await;
        assert_eq!(code, Some(1), "{said}");
        let told = said.lines().filter(|line| line.contains("/no/such/folder")).count();
        assert_eq!(told, 1, "{said}");
    }
}

#[tokio::test]
async fn paths_are_divided_by_commas_in_the_variable_only() {
    let (one, two) = (Service::new("one", "http", 80), Service::new("two", "http", 81));
    let (first, second) = (Manifests::new(&[one]), Manifests::new(&[two]));
    let both = format!("{},{}", first.path().display(), second.path().display());
    let control = ControlPlane::start_with(&[], &[("PILOTHOUSE_MANIFESTS", &both)]).await;
    control.becomes_ready().await;
    eventually(DEADLINE, "services of both", async || {
        same(control.debug("registryz").await?.as_array().map(Vec::len), Some(2))
    })
    .await;
    let (code, said) = ended(&mut pilothouse(&["serve", "--manifests", &both])).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("commas are part of the path"), "{said}");
}

#[tokio::test]
async fn a_namespace_is_taken_from_manifests_as_from_a_cluster() {
    let services = ["shop", "bank"].map(|of| Service::new("web", "http", 80).in_namespace(of));
    let manifests = Manifests::new(&services);
    let source = ["--manifests", manifests.path().to_str().unwrap(), "--namespace", "shop"];
    let control = ControlPlane::start_with(&source, &[]).await;
    control.becomes_ready().await;
    let page = control.debug("registryz").await.unwrap().to_string();
    assert!(page.contains("web.shop.svc") && !page.contains("web.bank.svc"), "{page}");
}

/// `cluster.local.`: full names were unknown, since hosts are compared byte by byte.
#[tokio::test]
async fn a_domain_with_a_dot_at_its_end_is_the_one_without() {
    let manifests = Manifests::new(&[Service::new("first", "http", 80)]);
    let folder = manifests.path().to_str().unwrap();
    let source = ["--manifests", folder, "--domain", "Cluster.Local."];
    let control = ControlPlane::start_with(&source, &[]).await;
    control.becomes_ready().await;
    let page = control.debug("registryz").await.unwrap().to_string();
    assert!(page.contains("first.default.svc.cluster.local\""), "{page}");
}

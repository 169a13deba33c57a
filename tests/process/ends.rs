//! How it ends, and how it does not begin.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Place, Running};
use pilothouse_testkit::{get, until};

#[tokio::test]
async fn a_terminal_that_is_closed_ends_it_as_sigterm_does() {
    let place = Place::new();
    let (log, file) = place.file("log");
    let mut serve = Running::start(heeds_hangups(&place.serve(&[])).stderr(file));
    place.is_ready().await;
    serve.signal(Signal::HUP);
    assert_eq!(serve.end().await.code(), Some(0));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("SIGHUP: ending") && said.trim_end().ends_with("ended"), "{said}");

    let place = Place::new();
    let (log, file) = place.file("log");
    let command = place.agent("exec sleep 1000", &["--termination-drain-duration=10ms"]);
    let mut agent = Running::start(heeds_hangups(&command).stderr(file));
    place.agent_answers().await;
    agent.signal(Signal::HUP);
    assert_eq!(agent.end().await.code(), Some(0));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("SIGHUP: draining"), "{said}");
}

/// Whoever runs the tests may do so under nohup, which its children inherit.
fn heeds_hangups(of: &Command) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(of.get_program()).args(of.get_args());
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[tokio::test]
async fn nohup_holds() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let mut command = Command::new("nohup");
    command.arg(serve.get_program()).args(serve.get_args()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).env_remove("PILOTHOUSE_LOG");
    // A group of its own, for a signal that is for it alone.
    let mut serve = Running::start(command.process_group(0));
    place.is_ready().await;
    serve.signal(Signal::HUP);
    place.is_ready().await;
    assert_eq!(serve.status(), None);
    serve.signal(Signal::TERM);
    assert_eq!(serve.end().await.code(), Some(0));
}

/// What it says when it does not start.
fn refusal(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_port_that_may_not_be_had_is_explained_even_if_nothing_is_logged() {
    let place = Place::new();
    let occupant = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupant.local_addr().unwrap().to_string();
    for log in ["info", "off"] {
        let said = refusal(&mut place.serve(&["--log", log, "--http-addr", &taken]));
        assert!(said.contains("Another process listens there"), "{said}");
        let own = place.grpc.to_string();
        let said = refusal(&mut place.serve(&["--log", log, "--http-addr", &own]));
        assert!(said.contains("--grpc-addr has this port already"), "{said}");
        let said =
            refusal(&mut place.serve(&["--log", log, "--monitoring-addr", "192.0.2.1:15014"]));
        assert!(said.contains("192.0.2.1 is no address of this machine"), "{said}");
    }
    let status = format!("--status-addr={taken}");
    let said = refusal(&mut place.agent("exit 0", &[&status]));
    assert!(said.contains("--status-addr") && said.contains("Another process"), "{said}");
}

#[test]
fn a_pod_name_that_would_forge_the_node_id_is_refused() {
    let place = Place::new();
    let said = refusal(&mut place.agent("exit 0", &["--pod-name=web~10.0.0.9~other.admin"]));
    assert!(said.contains("--pod-name") && said.contains("node id"), "{said}");
}

#[tokio::test]
async fn a_status_port_that_the_system_chose_is_told_to_everybody() {
    let place = Place::new();
    let (log, file) = place.file("log");
    let mut command = place.agent("exec sleep 1000", &["--status-addr=127.0.0.1:0"]);
    let _agent = Running::start(command.stderr(file));
    let address = until("the log to name the port", async || {
        let said = std::fs::read_to_string(&log).unwrap();
        let word = said.split_whitespace().find_map(|word| word.strip_prefix("status="));
        word.map(str::to_owned).ok_or(said)
    })
    .await;
    let (_, port) = address.rsplit_once(':').unwrap();
    assert_ne!(port, "0");
    until("the agent to answer there", async || {
        get(&format!("http://{address}/healthz/live")).await.map(drop)
    })
    .await;
    let bootstrap = std::fs::read_to_string(place.folder.path().join("envoy-rev.json")).unwrap();
    let named = format!(": {port}");
    assert!(bootstrap.contains(&named), "Envoy asks the agent where it is: {bootstrap}");
}

//! Every command does the same whatever is logged.

use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, Running, pilothouse};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// By flag and by environment.
fn ways() -> impl Iterator<Item = (&'static str, bool)> {
    LEVELS.into_iter().flat_map(|level| [(level, false), (level, true)])
}

#[tokio::test]
async fn serve_serves_until_it_is_asked_to_end_at_every_level() {
    for (level, by_environment) in ways() {
        let place = Place::new();
        let flags: &[&str] = if by_environment { &[] } else { &["--log", level] };
        let mut command = place.serve(flags);
        if by_environment {
            command.env("PILOTHOUSE_LOG", level);
        }
        let (log, file) = place.file("log");
        let mut serve = Running::start(command.stderr(file));
        place.is_ready().await;
        assert_eq!(serve.status(), None, "--log {level}");
        serve.signal(Signal::TERM);
        assert_eq!(serve.end().await.code(), Some(0), "--log {level}");
        let said = std::fs::read_to_string(log).unwrap();
        let silent = ["off", "error", "warn"].contains(&level);
        assert_eq!(said.is_empty(), silent, "--log {level}: {said}");
    }
}

#[tokio::test]
async fn the_agent_runs_envoy_until_it_is_asked_to_end_at_every_level() {
    for (level, by_environment) in ways() {
        let place = Place::new();
        let mut flags = vec!["--termination-drain-duration=10ms"];
        if !by_environment {
            flags.extend(["--log", level]);
        }
        let mut command = place.agent("exec sleep 1000", &flags);
        if by_environment {
            command.env("PILOTHOUSE_LOG", level);
        }
        let mut agent = Running::start(command.stderr(Stdio::null()));
        place.agent_answers().await;
        assert_eq!(agent.status(), None, "--log {level}");
        agent.signal(Signal::TERM);
        assert_eq!(agent.end().await.code(), Some(0), "--log {level}");
    }
}

#[test]
fn commands_that_do_one_thing_do_it_at_every_level() {
    for level in LEVELS {
        let place = Place::new();
        let manifest = place.folder.path().join("manifests/web.yaml");
        for (arguments, code) in [
            (&["inject", "-f", manifest.to_str().unwrap()][..], 0),
            (&["iptables", "--dry-run"], 0),
            (&["agent", "--bootstrap-only", "--instance-ip=10.1.2.3"], 0),
            (&["doctor", "--discovery-address=127.0.0.1:1", "--no-envoy", "--no-kubernetes"], 1),
        ] {
            let output = pilothouse(arguments).env("PILOTHOUSE_LOG", level).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{arguments:?} at {level}: {output:?}");
            assert!(!output.stdout.is_empty(), "{arguments:?} at {level}: {output:?}");
        }
    }
}

//! Nobody reads, or the disk is full.

use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, Running, closed_pipe, full_disk, pilothouse};
use pilothouse_testkit::{get, until};

/// A service that is added is known.
async fn follows_its_source(place: &Place) {
    let more = crate::harness::SERVICE.replace("web", "more");
    std::fs::write(place.folder.path().join("manifests/more.yaml"), more).unwrap();
    until("the new service to be known", async || match place.metric("pilot_services").await {
        2.0 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

/// The control plane goes on with everything that it does.
async fn serves_with(log: Stdio) {
    let place = Place::new();
    let mut serve = Running::start(place.serve(&["--log=debug"]).stderr(log));
    place.is_ready().await;
    follows_its_source(&place).await;
    // And so do connections of proxies.
    for _ in 0..5 {
        let url = format!("http://{}/", place.grpc);
        _ = get(&url).await;
    }
    assert!(place.metric("pilothouse_log_lines_lost_total").await > 0.0);
    assert_eq!(place.metric("pilothouse_connection_panics_total{door=\"gRPC\"}").await, 0.0);
    assert_eq!(serve.status(), None);
    serve.signal(Signal::TERM);
    assert_eq!(serve.end().await.code(), Some(0));
}

#[tokio::test]
async fn serve_serves_although_the_logs_disk_is_full() {
    serves_with(full_disk()).await;
}

#[tokio::test]
async fn serve_serves_although_the_logs_reader_has_gone() {
    serves_with(closed_pipe()).await;
}

#[tokio::test]
async fn serve_serves_although_the_logs_reader_hangs() {
    let place = Place::new();
    // Never read, and full: its other writer stands still.
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut filler = std::process::Command::new("cat");
    let _filler = Running::start(filler.arg("/dev/zero").stdout(writer.try_clone().unwrap()));
    let mut serve = Running::start(place.serve(&["--log=debug"]).stderr(writer));
    place.is_ready().await;
    follows_its_source(&place).await;
    serve.signal(Signal::TERM);
    assert_eq!(serve.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_agent_keeps_envoy_although_nobody_reads_its_log() {
    for log in [full_disk(), closed_pipe()] {
        let place = Place::new();
        let flags = ["--termination-drain-duration=10ms"];
        let mut command = place.agent("exec sleep 1000 2>/dev/null", &flags);
        let mut agent = Running::start(command.stderr(log));
        place.agent_answers().await;
        // Readiness says what it waits for, in the log as well.
        let url = format!("http://{}/healthz/ready", place.monitoring);
        until("readiness to know", async || match get(&url).await? {
            (503, body) if body.contains("does not answer") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(agent.status(), None);
        agent.signal(Signal::TERM);
        assert_eq!(agent.end().await.code(), Some(0));
    }
}

#[test]
fn what_cannot_be_printed_is_an_error_and_what_nobody_reads_is_none_to_speak_of() {
    let place = Place::new();
    let manifest = place.folder.path().join("manifests/web.yaml");
    for arguments in [
        &["inject", "-f", manifest.to_str().unwrap()][..],
        &["iptables", "--dry-run"],
        &["agent", "--bootstrap-only", "--instance-ip=10.1.2.3"],
    ] {
        let full = pilothouse(arguments).stdout(full_disk()).output().unwrap();
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {full:?}");
        let said = String::from_utf8(full.stderr).unwrap();
        assert!(said.contains("standard output cannot be written: No space left"), "{said}");
        assert!(!said.contains("panic"), "{said}");

        let unread = pilothouse(arguments).stdout(closed_pipe()).output().unwrap();
        assert_eq!(unread.status.code(), Some(1), "{arguments:?}: {unread:?}");
        assert_eq!(String::from_utf8(unread.stderr).unwrap(), "", "{arguments:?}");

        // And if not even that can be said.
        let mut mute = pilothouse(arguments);
        mute.stdout(full_disk()).stderr(full_disk());
        assert_eq!(mute.status().unwrap().code(), Some(1), "{arguments:?}");
    }
    let doctor = ["doctor", "--discovery-address=127.0.0.1:1", "--no-envoy", "--no-kubernetes"];
    let full = pilothouse(&doctor).stdout(full_disk()).output().unwrap();
    assert_eq!(full.status.code(), Some(3), "{full:?}");
    let unread = pilothouse(&doctor).stdout(closed_pipe()).output().unwrap();
    assert_eq!((unread.status.code(), unread.stderr.len()), (Some(1), 0));
}

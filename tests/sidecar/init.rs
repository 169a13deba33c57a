//! As the first process of a container: in a process namespace of its own.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::agent::{Child, children, command, executable, state};
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, places, same};

#[tokio::test]
async fn orphans_are_reaped_and_envoys_end_is_not_missed() {
    let folder = TempDir::new().unwrap();
    let (gone, go) = (folder.path().join("gone"), folder.path().join("go"));
    // The inner shell ends before what it started, which becomes the first process's.
    let script = format!(
        "sh -c '(while [ ! -e {} ]; do sleep 0.05; done; touch {}) &'\nexec sleep 1000",
        go.display(),
        gone.display()
    );
    let envoy = format!("--envoy={}", executable(folder.path(), &script));
    let nobody = ([127, 0, 0, 1], 1).into();
    let agent = command(places::address(), folder.path(), nobody, &[&envoy]);
    let mut inside = Command::new("unshare");
    // Root's rights are given to whoever asks, in namespaces of their own.
    inside.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    inside.arg(agent.get_program()).args(agent.get_args());
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    let mut process = Process::start("agent", &mut inside);

    let first = eventually(DEADLINE, "the agent in its namespace", async || {
        match children(process.id()).as_slice() {
            [one] => Ok(*one),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let both = eventually(DEADLINE, "Envoy and the orphan", async || match &*children(first) {
        [one, two] => Ok([*one, *two]),
        other => Err(format!("{other:?}")),
    })
    .await;
    std::fs::write(&go, "").unwrap();
    eventually(DEADLINE, "the orphan's end", async || {
        if gone.exists() { Ok(()) } else { Err("not there".to_owned()) }
    })
    .await;
    let envoy = eventually(DEADLINE, "the orphan to be reaped", async || {
        match children(first).as_slice() {
            [one] => Ok(*one),
            other => Err(format!("{:?}", other.iter().map(|id| state(*id)).collect::<Vec<_>>())),
        }
    })
    .await;
    same(both.contains(&envoy), true).unwrap();

    Child(envoy).signal(Signal::KILL);
    assert_eq!(process.end(DEADLINE).await.code(), Some(128 + 9));
    assert!(process.log().contains("Envoy ended by signal 9"), "{}", process.log());
}

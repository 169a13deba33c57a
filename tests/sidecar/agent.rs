//! The real agent on an address of its own, so that its ports can be the usual ones.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::envoy::program;
use pilothouse_testkit::http::Answer;
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, http, places, same};

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) address: IpAddr,
    /// Where its bootstrap is.
    folder: TempDir,
}

/// The command for an agent whose ports are all on `address`; `more` wins over what is here.
pub(crate) fn command(
    address: IpAddr,
    folder: &Path,
    control: SocketAddr,
    more: &[&str],
) -> Command {
    let at = |flag: &str, port: u16| format!("--{flag}-addr={}", SocketAddr::new(address, port));
    let mut arguments = vec![
        "agent".to_owned(),
        format!("--discovery-address={control}"),
        format!("--config-dir={}", folder.display()),
        at("admin", 15000),
        at("status", 15020),
        at("health", 15021),
        at("prometheus", 15090),
    ];
    if !more.iter().any(|flag| flag.starts_with("--envoy=")) {
        arguments.push(format!("--envoy={}", program().display()));
    }
    arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
    let mut command = pilothouse(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let names = ["POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "PROXY_CONFIG"];
    let istios =
        std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ISTIO_META"));
    for name in names.into_iter().map(str::to_owned).chain(istios) {
        command.env_remove(name);
    }
    // Listeners are bound, for nothing redirects to them here.
    command.env("ISTIO_META_INTERCEPTION_MODE", "NONE");
    command.envs([("INSTANCE_IP", "10.1.2.3"), ("POD_NAME", "details-0")]);
    command
}

impl Agent {
    pub(crate) fn start(control: SocketAddr, more: &[&str]) -> Self {
        Self::start_with_env(control, more, &[])
    }

    pub(crate) fn start_with_env(control: SocketAddr, more: &[&str], env: &[(&str, &str)]) -> Self {
        let (address, folder) = (places::address(), TempDir::new().expect("a temporary folder"));
        let mut command = command(address, folder.path(), control, more);
        command.envs(env.iter().copied());
        let process = Process::start("agent", &mut command);
        Self { process, address, folder }
    }

    /// The next container of the same pod, once the last one has ended by this signal.
    pub(crate) async fn start_again(
        mut self,
        signal: Signal,
        control: SocketAddr,
        more: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        self.process.signal(signal);
        self.process.end(DEADLINE).await;
        let mut command = command(self.address, self.folder.path(), control, more);
        command.envs(env.iter().copied());
        Self { process: Process::start("agent", &mut command), ..self }
    }

    /// A file beside its bootstrap.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With an Envoy that a shell script stands in for.
    pub(crate) fn start_with_script(control: SocketAddr, script: &str, more: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let envoy = format!("--envoy={}", executable(folder.path(), script));
        let address = places::address();
        let flags: Vec<&str> = more.iter().copied().chain([&*envoy]).collect();
        let process =
            Process::start("agent", &mut command(address, folder.path(), control, &flags));
        Self { process, address, folder }
    }

    /// A page of the agent's own port.
    pub(crate) async fn page(&self, path: &str) -> Result<Answer, String> {
        http::get(&self.url(15020, path), None).await
    }

    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.address)
    }

    /// Waits until readiness answers this; the first line of its body.
    pub(crate) async fn answers(&self, status: u16, body: &str) {
        eventually(DEADLINE, &format!("readiness to answer {status} {body:?}"), async || {
            let answer = self.page("/healthz/ready").await?;
            if answer.status == status && answer.body.contains(body) {
                return Ok(());
            }
            Err(format!("{answer:?}"))
        })
        .await;
    }

    pub(crate) async fn becomes_ready(&self) {
        self.answers(200, "ready").await;
    }

    /// Waits until the log has this in one line.
    pub(crate) async fn says(&self, words: &str) {
        eventually(DEADLINE, &format!("the log to say {words:?}"), async || {
            let lines = self.process.lines();
            let found = lines.iter().any(|line| line.contains(words));
            if found { Ok(()) } else { Err(format!("{lines:#?}")) }
        })
        .await;
    }

    /// The Envoy that it runs.
    pub(crate) async fn envoy(&self) -> Child {
        eventually(DEADLINE, "the agent's child", async || {
            match children(self.process.id()).as_slice() {
                [one] => Ok(Child(*one)),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// A number of Envoy's own statistics.
    pub(crate) async fn stat(&self, name: &str) -> Result<u64, String> {
        let page = self.url(15000, &format!("/stats?format=json&filter=^{name}$"));
        let page: Value = http::json(&page).await?;
        let value = page["stats"].as_array().and_then(|all| all.first()?["value"].as_u64());
        value.ok_or_else(|| format!("no {name} in {page}"))
    }
}

/// A process that is somebody else's child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child(pub(crate) u32);

impl Child {
    pub(crate) fn signal(self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.0.try_into().expect("an id")).expect("an id");
        rustix::process::kill_process(id, signal).expect("it is there");
    }

    /// Waits until there is no such process.
    pub(crate) async fn is_gone(self) {
        eventually(DEADLINE, &format!("process {} to be gone", self.0), async || {
            same(state(self.0).filter(|state| *state != 'Z'), None)
        })
        .await;
    }
}

/// The letter of a process's state.
pub(crate) fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub(crate) fn children(parent: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
}

/// Writes a script that may be run; its path.
pub(crate) fn executable(folder: &Path, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("envoy");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path.to_str().expect("a path in UTF-8").to_owned()
}

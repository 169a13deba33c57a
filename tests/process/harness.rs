//! Processes with an output of one's own choice.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use pilothouse_testkit::{free_port, get, until};

/// `pilothouse` with these arguments and nothing from the environment of whoever runs the tests.
pub(crate) fn pilothouse(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PILOTHOUSE_")) {
        command.env_remove(name);
    }
    command
}

/// A process that ends with the test.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Its status, if it has ended.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is our child")
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// The most memory that it ever had, bytes.
    pub(crate) fn peak(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
        kilobytes.parse::<usize>().unwrap() << 10
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it is our child");
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        until("the process to end", async || self.status().ok_or("it runs".to_owned())).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A folder with one service, the ports of a control plane over it, and files for what it says.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) grpc: SocketAddr,
    pub(crate) monitoring: SocketAddr,
}

pub(crate) const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  ports: [{name: http, port: 80}]
";

impl Place {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("manifests")).unwrap();
        std::fs::write(folder.path().join("manifests/web.yaml"), SERVICE).unwrap();
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { folder, grpc: address(), monitoring: address() }
    }

    pub(crate) fn file(&self, name: &str) -> (PathBuf, File) {
        let path = self.folder.path().join(name);
        let file = File::create(&path).unwrap();
        (path, file)
    }

    pub(crate) fn serve(&self, more: &[&str]) -> Command {
        let manifests = self.folder.path().join("manifests");
        let (grpc, monitoring) = (self.grpc.to_string(), self.monitoring.to_string());
        let mut arguments = vec!["serve", "--manifests", manifests.to_str().unwrap()];
        arguments.extend(["--grpc-addr", &grpc]);
        if !more.contains(&"--monitoring-addr") {
            arguments.extend(["--monitoring-addr", &monitoring]);
        }
        if !more.contains(&"--http-addr") {
            arguments.extend(["--http-addr", "127.0.0.1:0"]);
        }
        arguments.extend(more);
        pilothouse(&arguments)
    }

    pub(crate) async fn is_ready(&self) {
        let url = format!("http://{}/ready", self.monitoring);
        until("pilothouse to be ready", async || match get(&url).await? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.monitoring);
        until(name, async || {
            let (_, page) = get(&url).await?;
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.parse().ok()).ok_or(page)
        })
        .await
    }

    /// An agent whose Envoy a script stands in for.
    pub(crate) fn agent(&self, script: &str, more: &[&str]) -> Command {
        let envoy = executable(self.folder.path(), script);
        let envoy = format!("--envoy={}", envoy.display());
        let folder = format!("--config-dir={}", self.folder.path().display());
        let status = format!("--status-addr={}", self.monitoring);
        let admin = format!("--admin-addr={}", self.grpc);
        let mut arguments = vec!["agent", "--instance-ip=10.1.2.3", "--pod-name=web-0"];
        arguments.extend(["--discovery-address=127.0.0.1:1", &*envoy, &*folder, &*status, &*admin]);
        arguments.extend(["--health-addr=127.0.0.1:1", "--prometheus-addr=127.0.0.1:2"]);
        arguments.extend(more);
        let mut command = pilothouse(&arguments);
        for name in ["POD_NAME", "POD_NAMESPACE", "INSTANCE_IP", "INSTANCE_IPS", "PROXY_CONFIG"] {
            command.env_remove(name);
        }
        command
    }

    /// Waits until the agent answers at all.
    pub(crate) async fn agent_answers(&self) {
        let url = format!("http://{}/healthz/live", self.monitoring);
        until("the agent to answer", async || get(&url).await.map(drop)).await;
    }
}

fn executable(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("envoy");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A pipe that nobody reads any more, to write into.
pub(crate) fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A disk without room.
pub(crate) fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

//! The real program on an address of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::certificates::SecretVolume;
use crate::process::Process;
use crate::{DEADLINE, LONG_DEADLINE, eventually, http, places, program, same};

/// `pilothouse` with these arguments and nothing from the environment of whoever runs the tests.
pub fn pilothouse(arguments: &[&str]) -> Command {
    launched_by(Command::new(program()), arguments)
}

/// The same, started by another program that goes over into the one which its last argument names
/// (`prlimit`, `sh -c`).
pub fn pilothouse_under(mut launcher: Command, arguments: &[&str]) -> Command {
    launcher.arg(program());
    launched_by(launcher, arguments)
}

fn launched_by(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PILOTHOUSE_")) {
        command.env_remove(name);
    }
    command
}

#[derive(Debug)]
pub struct ControlPlane {
    pub process: Process,
    pub grpc: SocketAddr,
    /// Where it serves xDS over TLS, if it was told to.
    pub secure_grpc: Option<SocketAddr>,
    pub http: SocketAddr,
    pub monitoring: SocketAddr,
    source: Vec<String>,
}

impl ControlPlane {
    /// Serves a folder, and is ready.
    pub async fn start(manifests: &Path) -> Self {
        let source = ["--manifests", manifests.to_str().expect("a path in UTF-8")];
        let control = Self::start_with(&source, &[]).await;
        control.becomes_ready().await;
        control
    }

    /// The same with xDS over TLS as well, by these files, and with more flags.
    pub async fn start_secure(manifests: &Path, files: &SecretVolume, more: &[&str]) -> Self {
        let any = SocketAddr::new(places::address(), 0);
        let mut command = pilothouse(&["serve"]);
        command.arg("--manifests").arg(manifests);
        command.args(["--secure-grpc-addr", &any.to_string()]).args(files.flags()).args(more);
        let control = Self::start_command(command, any).await;
        control.becomes_ready().await;
        control
    }

    /// Listens, maybe without being ready.
    pub async fn start_with(source: &[&str], environment: &[(&str, &str)]) -> Self {
        let source: Vec<String> = source.iter().map(|one| (*one).to_owned()).collect();
        let address = SocketAddr::new(places::address(), 0);
        Self::listen(source, environment, address).await
    }

    async fn listen(source: Vec<String>, environment: &[(&str, &str)], grpc: SocketAddr) -> Self {
        let mut arguments = vec!["serve"];
        arguments.extend(source.iter().map(String::as_str));
        let mut command = pilothouse(&arguments);
        command.envs(environment.iter().copied());
        Self { source, ..Self::start_command(command, grpc).await }
    }

    /// Of a command that is `pilothouse serve` with a source and any flags but addresses; listens, maybe
    /// without being ready.
    pub async fn start_command(command: Command, grpc: SocketAddr) -> Self {
        // The debug port is on loopback, wherever the others are.
        let loopback = Some(grpc.ip()).filter(IpAddr::is_loopback);
        let http = loopback.unwrap_or(Ipv4Addr::LOCALHOST.into());
        Self::start_command_at(command, grpc, SocketAddr::new(http, 0)).await
    }

    /// The same with the debug port at an address of one's own choice.
    pub async fn start_command_at(
        mut command: Command,
        grpc: SocketAddr,
        http: SocketAddr,
    ) -> Self {
        let any = SocketAddr::new(grpc.ip(), 0).to_string();
        command.args(["--grpc-addr", &grpc.to_string(), "--http-addr", &http.to_string()]);
        command.args(["--monitoring-addr", &any]).env("NO_COLOR", "1");
        let process = Process::start("pilothouse", &mut command);
        let listening = eventually(LONG_DEADLINE, "pilothouse to listen", async || {
            let lines = process.lines();
            let line = lines.iter().find(|line| line.contains("listening"));
            line.cloned().ok_or_else(|| format!("{lines:?}"))
        })
        .await;
        let given = |what: &str| {
            let word = listening.split_whitespace().find_map(|word| word.strip_prefix(what));
            word.and_then(|address| address.parse().ok())
        };
        let address =
            |what: &str| given(what).unwrap_or_else(|| panic!("no {what}ADDRESS in {listening:?}"));
        let secure_grpc = given("secure_grpc=");
        let (grpc, http) = (address("grpc="), address("http="));
        let monitoring = address("monitoring=");
        Self { grpc, secure_grpc, http, monitoring, process, source: Vec::new() }
    }

    pub async fn becomes_ready(&self) {
        let url = format!("http://{}/ready", self.monitoring);
        eventually(DEADLINE, "pilothouse to be ready", async || {
            let answer = http::get(&url, None).await?;
            same(answer.status, 200).map_err(|_| answer.body)
        })
        .await;
    }

    /// Ends it; what it listened on stays known.
    pub async fn stop(&mut self, signal: Signal) {
        self.process.signal(signal);
        self.process.end(DEADLINE).await;
    }

    /// Starts it again where it was, after [`Self::stop`].
    pub async fn start_again(&mut self) {
        *self = Self::listen(std::mem::take(&mut self.source), &[], self.grpc).await;
        self.becomes_ready().await;
    }

    /// A page of the debug port, JSON.
    pub async fn debug(&self, page: &str) -> Result<Value, String> {
        http::json(&format!("http://{}/debug/{page}", self.http)).await
    }

    /// A page of the monitoring port.
    pub async fn monitoring(&self, page: &str) -> Result<http::Answer, String> {
        http::get(&format!("http://{}/{page}", self.monitoring), None).await
    }

    /// A sample of `/metrics`, by its name with labels as it stands there.
    pub async fn metric(&self, sample: &str) -> Result<f64, String> {
        let page = self.monitoring("metrics").await?.body;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = value.and_then(|value| value.parse().ok());
        value.ok_or_else(|| format!("no {sample} among the metrics:\n{page}"))
    }

    /// What syncz says of the only proxy.
    pub async fn sync(&self) -> Result<Sync, String> {
        match self.debug("syncz").await?.as_array().map(Vec::as_slice) {
            Some([one]) => Ok(Sync(one.clone())),
            other => Err(format!("syncz lists not one proxy but {other:?}")),
        }
    }
}

/// One entry of syncz.
#[derive(Debug)]
pub struct Sync(pub Value);

impl Sync {
    /// The status of one type: `cds`, `eds`, `lds` or `rds`.
    pub fn type_status(&self, short: &str) -> Result<&Value, String> {
        let url = match short {
            "cds" => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "eds" => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "lds" => "type.googleapis.com/envoy.config.listener.v3.Listener",
            "rds" => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            _ => panic!("there is no type {short}"),
        };
        self.0["resources"].get(url).ok_or_else(|| format!("no {short} in {}", self.0))
    }

    pub fn count(&self, short: &str, what: &str) -> Result<u64, String> {
        let status = self.type_status(short)?;
        status[what].as_u64().ok_or_else(|| format!("no {what} in {status}"))
    }

    /// Every response of these types was accepted.
    pub fn is_synced(&self, types: &[&str]) -> Result<(), String> {
        for short in types {
            let status = self.type_status(short)?;
            let accepted = self.count(short, "responses")? == self.count(short, "acks")?;
            if status["state"] != "SYNCED" || !accepted || self.count(short, "nacks")? != 0 {
                return Err(format!("{short} is not simply synced: {status}"));
            }
        }
        Ok(())
    }
}

//! The child processes of a run: what they say, and what they cost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::Options;

pub(crate) struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(options: &Options, role: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--role", role])
            .args(["--port", &options.port.to_string()])
            .args(["--streams", &options.streams.to_string()])
            .args(["--services", &options.services.to_string()])
            .args(["--endpoints", &options.endpoints.to_string()])
            .args(["--stalled", &options.stalled.to_string()])
            .args(["--starting", &options.starting.to_string()])
            .args(["--pace", &options.pace.to_string()])
            .args(["--namespaces", &options.namespaces.to_string()])
            .args(options.one_namespace.then_some("--one-namespace"))
            .args(["--zones", &options.zones.to_string()])
            .args(["--ports", &options.ports.to_string()])
            .args(["--tables", &options.tables.to_string()])
            .args(options.inbound.then_some("--inbound"))
            .args(options.pods.then_some("--pods"))
            .args(["--listen-ports", &options.listen_ports.to_string()])
            .args(["--routes", &options.routes.to_string()])
            .args(["--views", &options.views.to_string()])
            .args(["--connecting", &options.connecting.to_string()])
            .args(["--peer-memory", &options.peer_memory.to_string()])
            .args(options.delta.then_some("--delta"))
            .args(options.mute.then_some("--mute"))
            .args(options.on_demand.then_some("--on-demand"))
            .args(["--users", &options.users.to_string()]);
        if let Some(certificates) = &options.certificates {
            command.arg("--certificates").arg(certificates);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, to, from })
    }

    pub(crate) fn say(&mut self, word: &str) -> anyhow::Result<()> {
        writeln!(self.to, "{word}")?;
        Ok(self.to.flush()?)
    }

    pub(crate) fn expect(&mut self, name: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the child ended before it said {name:?}");
        }
        match line.trim_end_matches('\n').split_once(' ') {
            Some((said, value)) if said == name => Ok(value.to_owned()),
            _ => bail!("expected {name:?}, got {line:?}"),
        }
    }

    pub(crate) fn ask(&mut self, word: &str, answer: &str) -> anyhow::Result<String> {
        self.say(word)?;
        self.expect(answer)
    }

    /// Seconds of CPU used so far by the threads it has, in user and kernel. From the scheduler,
    /// because `stat` counts hundredths.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let mut nanos = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            nanos += stat.split_whitespace().next().context("schedstat")?.parse::<f64>()?;
        }
        Ok(nanos / 1e9)
    }

    /// A line of /proc/PID/status in KiB.
    pub(crate) fn memory(&self, line: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let found = status.lines().find(|one| one.starts_with(line)).context("status")?;
        Ok(found.split_whitespace().nth(1).context("status")?.parse()?)
    }

    /// Lets VmHWM begin anew.
    pub(crate) fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Allows this process a descriptor for each stream.
pub(crate) fn raise_files(streams: usize) -> anyhow::Result<()> {
    let needed = streams as u64 + 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .with_context(|| format!("{streams} streams need `ulimit -Hn {needed}` or fewer --streams"))
}

/// A port with as long a queue as the kernel gives, equal for all servers.
pub(crate) fn listen() -> anyhow::Result<TcpListener> {
    Ok(pilothouse_xds_server::listener::listen("127.0.0.1:0".parse()?)?)
}

/// What the kernel holds for all TCP sockets of the machine, KiB.
pub(crate) fn kernel_memory() -> u64 {
    let stat = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = stat.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok());
    pages.unwrap_or_default() * 4
}

//! Envoy's process: found, started, signalled, waited for.
//!
//! It must not outlive the agent, even one that was killed hard: nobody would answer its probes, and
//! its ports would be taken. Only the kernel can see to that (`PR_SET_PDEATHSIG`), and a process can
//! ask it only for itself. So the agent starts itself once more ([`ParentDeathExec`]), which asks and then
//! becomes Envoy.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::config::EnvoyOptions;
use crate::output;

/// Why Envoy was not started.
#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("there is no Envoy at {}: {error}; --envoy (PILOTHOUSE_ENVOY) names one", .program.display())]
    Missing { program: PathBuf, error: std::io::Error },
    #[error("{} is no program that may be run; --envoy (PILOTHOUSE_ENVOY) names Envoy", .program.display())]
    NotExecutable { program: PathBuf },
    #[error(
        "there is no {} in any folder of PATH; --envoy (PILOTHOUSE_ENVOY) names Envoy's place",
        .program.display()
    )]
    NotOnPath { program: PathBuf },
    #[error("Envoy cannot be started: {0}")]
    Start(std::io::Error),
}

/// The program that `name` means: a path, or a name that is looked for in PATH.
///
/// # Errors
/// It is not there, or is not to be run.
pub fn find(name: &Path) -> Result<PathBuf, LaunchError> {
    let program = name.to_owned();
    if name.components().count() > 1 {
        let metadata = std::fs::metadata(name);
        let metadata =
            metadata.map_err(|error| LaunchError::Missing { program: program.clone(), error })?;
        return match is_executable(&metadata) {
            true => Ok(program),
            false => Err(LaunchError::NotExecutable { program }),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| std::fs::metadata(file).is_ok_and(|metadata| is_executable(&metadata)));
    found.ok_or(LaunchError::NotOnPath { program })
}

fn is_executable(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// Whether Envoy knows this level; with another it does not start.
///
/// # Errors
/// With those that it knows.
pub fn check_log_level(level: &str) -> Result<(), String> {
    const LEVELS: [&str; 8] =
        ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];
    match LEVELS.contains(&level) {
        true => Ok(()),
        false => Err(format!("{level:?} is no log level of Envoy: {}", LEVELS.join(", "))),
    }
}

/// Likewise for `PART:LEVEL,PART:LEVEL`.
///
/// # Errors
/// See [`check_log_level`].
pub fn check_component_log_levels(list: &str) -> Result<(), String> {
    list.split(',').filter(|part| !part.is_empty()).try_for_each(|part| {
        let (name, level) = part
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("{part:?} is not PART:LEVEL, like upstream:debug"))?;
        check_log_level(level).map_err(|error| format!("{name}: {error}"))
    })
}

/// Longer than Envoy takes to say it, on a machine that is busy starting pods.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// What it says is one line.
const VERSION_BYTES: u64 = 4 << 10;

/// Major and minor version of the program.
///
/// # Errors
/// It does not say them as Envoy does, `version: REVISION/1.40.0/...`.
pub async fn version(program: &Path) -> Result<(u32, u32), String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let asked = async {
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| error.to_string())?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(VERSION_BYTES).read_to_string(&mut said).await;
            read.map_err(|error| error.to_string())?;
        }
        _ = child.wait().await;
        read_version(&said).ok_or_else(|| format!("{} says {:?}", program.display(), said.trim()))
    };
    tokio::time::timeout(VERSION_TIMEOUT, asked).await.unwrap_or_else(|_| {
        Err(format!("no answer of {} within {VERSION_TIMEOUT:?}", program.display()))
    })
}

fn read_version(said: &str) -> Option<(u32, u32)> {
    let line = said.lines().find_map(|line| line.split_once("version: "))?.1;
    let mut numbers = line.split('/').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    pid: Pid,
}

impl Envoy {
    /// Starts it with what it says going where the agent's goes. To be called on the main thread:
    /// the kernel kills Envoy when the thread ends that started it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(
        program: &Path,
        launch: &EnvoyOptions,
        bootstrap: &Path,
    ) -> Result<Self, LaunchError> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("parent-death-exec")
            .arg(getpid().as_raw_nonzero().to_string())
            .arg("--")
            .arg(program);
        command.arg("-c").arg(bootstrap).arg("--disable-hot-restart");
        command.arg("--drain-time-s").arg(launch.drain_time.as_secs().to_string());
        command.args(["--drain-strategy", "immediate"]);
        command.arg("--log-level").arg(&launch.log_level);
        if !launch.component_log_level.is_empty() {
            command.arg("--component-log-level").arg(&launch.component_log_level);
        }
        if launch.concurrency != 0 {
            command.arg("--concurrency").arg(launch.concurrency.to_string());
        }
        command.args(&launch.more);
        // Ctrl-C at a terminal reaches its whole process group; Envoy is to end in the agent's order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(LaunchError::Start)?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let gone = || LaunchError::Start(std::io::Error::other("it has no process id"));
        Ok(Self { pid: pid.ok_or_else(gone)?, child })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its end. May be called again after that, and dropped before it.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// An Envoy that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        // Its id is known as long as nobody has waited for it, so it is nobody else's.
        if self.child.id().is_some() {
            _ = kill_process(self.pid, signal);
        }
    }
}

/// Why it ended, in words, and the exit code that says the same.
pub fn describe(status: ExitStatus) -> (String, u8) {
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            (format!("with exit code {code}"), u8::try_from(code).unwrap_or(u8::MAX))
        }
        (None, Some(signal)) => {
            let name = match signal {
                4 => " (SIGILL)",
                6 => " (SIGABRT)",
                7 => " (SIGBUS)",
                9 => " (SIGKILL; out of memory is the usual reason)",
                11 => " (SIGSEGV)",
                15 => " (SIGTERM)",
                _ => "",
            };
            // As shells have it.
            let code = u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128));
            (format!("by signal {signal}{name}"), code.unwrap_or(u8::MAX))
        }
        (None, None) => (status.to_string(), u8::MAX),
    }
}

/// What runs between the agent's fork and Envoy: for the agent itself, not for people.
#[derive(Clone, Debug, clap::Args)]
pub struct ParentDeathExec {
    /// Who starts it
    parent: i32,
    program: PathBuf,
    #[arg(last = false, allow_hyphen_values = true, trailing_var_arg = true)]
    arguments: Vec<OsString>,
}

impl ParentDeathExec {
    /// Becomes the program, which the kernel kills when the agent ends. Returns only if that fails.
    pub fn run(self) -> ExitCode {
        let tied = set_parent_process_death_signal(Some(Signal::KILL));
        if let Err(error) = tied {
            output::eprint_line(format_args!(
                "error: Envoy cannot be tied to the agent's life: {error}"
            ));
            return ExitCode::FAILURE;
        }
        // The agent may have ended before the kernel was asked.
        if getppid().map(Pid::as_raw_pid) != Some(self.parent) {
            return ExitCode::FAILURE;
        }
        let error = std::process::Command::new(&self.program).args(self.arguments).exec();
        output::eprint_line(format_args!(
            "error: {} cannot be run: {error}",
            self.program.display()
        ));
        ExitCode::from(126)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_envoy_says_it() {
        let said = "\nenvoy  version: 9e558093/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(read_version(said), Some((1, 40)));
        assert_eq!(
            read_version("x  version: 1a/1.36.0-dev/Modified/DEBUG/BoringSSL"),
            Some((1, 36))
        );
        for other in ["", "1.40.0", "version: 1.40", "version: a/b.c/d", "version: a"] {
            assert_eq!(read_version(other), None, "{other:?}");
        }
    }
}

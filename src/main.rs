//! The program: arguments, logging, runtime, signals. Everything else is in the library.

// They panic where nobody reads; see `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use pilothouse::app;
use pilothouse::cli::{self, Command, LogFormat, Serve};
use pilothouse::door::descriptors;
use pilothouse::logging::{self, Format, Logging};
use pilothouse::output::{self, Unwritten};
use pilothouse::sidecar::{agent, doctor, inject, iptables};
use pilothouse::signals::Signals;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    match cli::parse().command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Agent(arguments) => agent(*arguments),
        Command::ParentDeathExec(command) => command.run(),
        Command::Inject(arguments) => done(inject::run(&arguments)),
        Command::Iptables(arguments) => done(iptables::run(&arguments)),
        Command::Doctor(arguments) => doctor(&arguments),
    }
}

/// For commands that do one thing and end: what went wrong goes to standard error.
fn done(result: anyhow::Result<()>) -> ExitCode {
    let Err(problem) = result else { return ExitCode::SUCCESS };
    if !problem.downcast_ref::<Unwritten>().is_some_and(Unwritten::is_unread) {
        output::say(format_args!("error: {problem:#}"));
    }
    ExitCode::FAILURE
}

fn doctor(arguments: &doctor::args::DoctorArgs) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(arguments.run()),
        Err(problem) => {
            output::say(format_args!("error: cannot start the runtime: {problem}"));
            ExitCode::from(doctor::Outcome::Unknown.exit_code())
        }
    }
}

fn serve(serve: Serve) -> ExitCode {
    let config = match serve.config() {
        Ok(config) => config,
        Err(usage) => usage.exit(),
    };
    let Some(_log) = start_logging(&serve.log, serve.log_format) else { return ExitCode::from(2) };
    let Some(runtime) = said(app::runtime().context("cannot start the runtime")) else {
        return ExitCode::FAILURE;
    };
    info!(version = pilothouse::version::VERSION, "pilothouse serve {serve}");
    warn_of_unread_variables();
    descriptors::raise();
    let ended = said(runtime.block_on(run(config)));
    // What has not ended by now was given up.
    runtime.shutdown_background();
    ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// On one thread: there is one of it in every pod.
fn agent(arguments: agent::AgentArgs) -> ExitCode {
    let Some(_log) = start_logging(&arguments.log, LogFormat::Text) else {
        return ExitCode::from(2);
    };
    warn_of_unread_variables();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Some(runtime) = said(runtime.context("cannot start the runtime")) else {
        return ExitCode::FAILURE;
    };
    let ended = runtime.block_on(agent::run(arguments));
    if let Err(agent::AgentError::Unwritten(unwritten)) = &ended
        && unwritten.is_unread()
    {
        return ExitCode::FAILURE;
    }
    said(ended.map_err(Into::into)).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The result, or what went wrong is said.
fn said<T>(result: anyhow::Result<T>) -> Option<T> {
    result.inspect_err(logging::fatal).ok()
}

fn warn_of_unread_variables() {
    for name in cli::unread_variables() {
        warn!("the environment variable {name} is set, and nothing reads it: see --help for names");
    }
}

/// Serves until a signal asks for the end, or a part fails; a second signal ends the process at once.
async fn run(config: app::Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut running = app::start(config).await?;
    let failure = tokio::select! {
        name = signals.next() => {
            info!("{name}: ending; a second signal ends at once");
            None
        }
        failure = running.failed() => {
            error!("{failure}: ending");
            Some(failure)
        }
    };
    tokio::select! {
        () = running.shutdown() => {}
        name = signals.next() => bail!("{name} again: ended at once"),
    }
    match failure {
        None => Ok(()),
        Some(failure) => bail!("ended because {failure}"),
    }
}

fn start_logging(log: &str, format: LogFormat) -> Option<Logging> {
    let format = match format {
        LogFormat::Text => {
            // Colours are for people: in `kubectl logs` or a file they are noise.
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            Format::Text { colours: wanted && std::io::stderr().is_terminal() }
        }
        LogFormat::Json => Format::Json,
    };
    let started = logging::start(log, format);
    started.inspect_err(|problem| output::say(format_args!("error: --log {log:?}: {problem}"))).ok()
}

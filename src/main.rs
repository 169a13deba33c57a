//! The program: arguments, logging, runtime, signals. Everything else is in the library.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use pilothouse::agent;
use pilothouse::app;
use pilothouse::cli::{self, Command, LogFormat, Serve};
use pilothouse::doctor;
use pilothouse::{inject, iptables};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, enabled, error, info, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match cli::parse().command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Agent(arguments) => agent(*arguments),
        Command::Tether(tether) => tether.run(),
        Command::Inject(arguments) => done(inject::run(&arguments)),
        Command::Iptables(arguments) => done(iptables::run(&arguments)),
        Command::Doctor(arguments) => doctor(&arguments),
    }
}

/// For commands that do one thing and end: what went wrong goes to standard error.
fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn doctor(arguments: &doctor::args::Args) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(arguments.run()),
        Err(problem) => {
            eprintln!("error: cannot start the runtime: {problem}");
            ExitCode::from(doctor::Outcome::Unknown.exit_code())
        }
    }
}

fn serve(serve: Serve) -> ExitCode {
    let config = match serve.config() {
        Ok(config) => config,
        Err(usage) => usage.exit(),
    };
    if let Err(problem) = start_logging(&serve.log, serve.log_format) {
        eprintln!("error: --log {:?}: {problem}", serve.log);
        return ExitCode::from(2);
    }
    let Some(runtime) = said(app::runtime().context("cannot start the runtime")) else {
        return ExitCode::FAILURE;
    };
    info!(version = pilothouse::version::VERSION, "pilothouse serve {serve}");
    warn_of_unread_variables();
    match said(runtime.block_on(run(config))) {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// On one thread: there is one of it in every pod.
fn agent(arguments: agent::Args) -> ExitCode {
    if let Err(problem) = start_logging(&arguments.log, LogFormat::Text) {
        eprintln!("error: --log {:?}: {problem}", arguments.log);
        return ExitCode::from(2);
    }
    warn_of_unread_variables();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Some(runtime) = said(runtime.context("cannot start the runtime")) else {
        return ExitCode::FAILURE;
    };
    let ended = runtime.block_on(agent::run(arguments));
    said(ended.map_err(Into::into)).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The result, or the log says what went wrong; without a log standard error does.
fn said<T>(result: anyhow::Result<T>) -> Option<T> {
    let say = |problem: &anyhow::Error| match enabled!(Level::ERROR) {
        true => error!("{problem:#}"),
        // Where nobody can read it, there is no one left to tell.
        false => _ = writeln!(std::io::stderr(), "error: {problem:#}"),
    };
    result.inspect_err(say).ok()
}

fn warn_of_unread_variables() {
    for name in cli::unread_variables() {
        warn!("the environment variable {name} is set, and nothing reads it: see --help for names");
    }
}

/// Serves until SIGTERM or SIGINT; a second one ends the process at once.
async fn run(config: app::Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut asked = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let running = app::start(config).await?;
    info!("{}: ending; a second signal ends at once", asked().await);
    tokio::select! {
        () = running.shutdown() => Ok(()),
        name = asked() => anyhow::bail!("{name} again: ended at once"),
    }
}

fn start_logging(
    log: &str,
    format: LogFormat,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(log)?;
    // Colours are for people: in `kubectl logs` or a file they are noise.
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(wanted && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

//! The program: arguments, logging, runtime, signals. Everything else is in the library.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use pilothouse::app;
use pilothouse::cli::{Cli, Command, LogFormat, Serve};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => run_server(&serve),
        Command::Doctor(args) => match runtime() {
            Ok(runtime) => runtime.block_on(args.run()),
            Err(problem) => {
                eprintln!("error: cannot start the runtime: {problem}");
                ExitCode::from(2)
            }
        },
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn run_server(serve: &Serve) -> ExitCode {
    let config = match serve.config() {
        Ok(config) => config,
        Err(usage) => usage.exit(),
    };
    if let Err(problem) = start_logging(serve) {
        eprintln!("error: --log {:?}: {problem}", serve.log);
        return ExitCode::from(2);
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(problem) => {
            error!("cannot start the runtime: {problem}");
            return ExitCode::FAILURE;
        }
    };
    info!(version = pilothouse::version::VERSION, "pilothouse serve {serve}");
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem:#}");
            ExitCode::FAILURE
        }
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

fn start_logging(serve: &Serve) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&serve.log)?;
    // Colours are for people: in `kubectl logs` or a file they are noise.
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(wanted && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match serve.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

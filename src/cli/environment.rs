//! How environment variables stand in for flags, the same for every command.
//!
//! An empty variable counts as not set, since that is how manifests leave one out; yes and no may be
//! written as people write them; an error names the variable that its value came from; and a name
//! like ours that nothing reads is told, since it is a mistyped one.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, Command as Clap, CommandFactory as _, FromArgMatches as _};

use super::{Cli, Command};

const PREFIX: &str = "PILOTHOUSE_";

/// Read by the Makefile, its tests and the build, and so no mistake in a developer's shell.
const OTHERS: [&str; 6] = [
    "PILOTHOUSE_ENVOY",
    "PILOTHOUSE_GIT_REVISION",
    "PILOTHOUSE_IMAGE",
    "PILOTHOUSE_KIT",
    "PILOTHOUSE_MODEL_SEQUENCES",
    "PILOTHOUSE_TEST_NAMESPACE",
];

/// The command line of this process; ends it with a message if it cannot be read.
pub fn parse() -> Cli {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    read(&arguments).unwrap_or_else(|error| error.exit())
}

/// Reads a command line and the environment.
///
/// # Errors
/// What does not fit, naming the flag, and the variable if it came from there.
pub(super) fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = prepared()
        .try_get_matches_from(arguments)
        .map_err(|error| with_variables(error, arguments))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Command::Serve(serve) = &mut cli.command
        && let Some(matches) = matches.subcommand_matches("serve")
        && matches.value_source("manifests") == Some(ValueSource::EnvVariable)
    {
        serve.split_manifests();
    }
    Ok(cli)
}

/// What the program takes, for whoever describes it.
pub fn definition() -> Clap {
    Cli::command()
}

fn prepared() -> Clap {
    Cli::command().mut_subcommands(|command| command.mut_args(prepare))
}

fn prepare(argument: Arg) -> Arg {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let is_bool = argument.get_value_parser().type_id() == TypeId::of::<bool>();
    let argument = match argument.get_env().is_some_and(is_empty) {
        true => argument.env(Resettable::Reset),
        false => argument,
    };
    match is_bool {
        true => argument.value_parser(BoolishValueParser::new()),
        false => argument,
    }
}

/// Says of each flag that the error is about which variable it was read from, if from one.
fn with_variables(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let mut shown = Vec::new();
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        match error.get(kind) {
            Some(ContextValue::String(one)) => shown.push(one.clone()),
            Some(ContextValue::Strings(some)) => shown.extend(some.iter().cloned()),
            _ => {}
        }
    }
    let mut command = prepared();
    command.build();
    let name = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    let Some(command) = command.find_subcommand(name) else { return error };
    let read = command.get_arguments().filter(|one| shown.contains(&one.to_string()));
    let read = read.filter(|one| !is_given(one, arguments));
    let read = read.filter_map(|one| Some((one, one.get_env()?)));
    let tips = read.filter(|(_, name)| std::env::var_os(name).is_some()).map(|(one, name)| {
        let (flag, name) = (one.get_long().unwrap_or_default(), name.to_string_lossy());
        format!("--{flag} was read from the environment variable {name}").into()
    });
    let tips: Vec<_> = tips.collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

fn is_given(argument: &Arg, arguments: &[OsString]) -> bool {
    let aliases = argument.get_all_aliases().unwrap_or_default();
    let names: Vec<&str> = argument.get_long().into_iter().chain(aliases).collect();
    arguments.iter().filter_map(|one| one.to_str()?.strip_prefix("--")).any(|given| {
        let given = given.split_once('=').map_or(given, |(name, _)| name);
        names.contains(&given)
    })
}

/// Variables with our prefix that no command reads.
pub fn unread_variables() -> Vec<String> {
    let command = Cli::command();
    let known: Vec<&str> = command
        .get_subcommands()
        .flat_map(Clap::get_arguments)
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(OTHERS)
        .collect();
    let ours = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    ours.filter(|name| name.starts_with(PREFIX))
        .filter(|name| !known.contains(&name.as_str()) && !is_of_a_service(name))
        .collect()
}

/// Kubernetes tells each pod of the Services in its namespace by variables that begin with their
/// names: of a Service `pilothouse` or `pilothouse-proxy`, `PILOTHOUSE_SERVICE_HOST` and
/// `PILOTHOUSE_PROXY_PORT_80_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let of_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix('_').is_some_and(|rest| {
                let number = rest.split('_').next().unwrap_or_default();
                is_number(number)
            })
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, word)| of_port(&name[at + word.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_makes_of_services_are_no_mistakes() {
        for service in [
            "PILOTHOUSE_SERVICE_HOST",
            "PILOTHOUSE_SERVICE_PORT",
            "PILOTHOUSE_PROXY_SERVICE_PORT_HTTP",
            "PILOTHOUSE_PORT",
            "PILOTHOUSE_PORT_15010_TCP",
            "PILOTHOUSE_PROXY_PORT_80_TCP_ADDR",
        ] {
            assert!(is_of_a_service(service), "{service}");
        }
        for typo in ["PILOTHOUSE_GRPC_ADRR", "PILOTHOUSE_PORTS", "PILOTHOUSE_PACES"] {
            assert!(!is_of_a_service(typo), "{typo}");
        }
    }
}

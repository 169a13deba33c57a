//! `docs/flags.md` is made from the definitions of the flags, and this test holds that it is what they
//! say: `UPDATE=1 cargo test --test process flags_page` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use pilothouse::cli::Cli;

const HEAD: &str = "\
<!-- Made from the definitions of the flags: UPDATE=1 cargo test --test process flags_page. Not to be edited. -->

# Flags

Every flag of `serve`, `agent`, `doctor` and `injector` has an environment variable that stands in for it; the command
line wins. `inject` and `iptables` take flags only, so that what they write depends on nothing else; so do the
operator's commands (`status` and what follows), for which `KUBECONFIG` and `NO_COLOR` count.

- An empty variable counts as not set. A variable `PILOTHOUSE_…` that nothing reads is warned of.
- Yes and no may be written `1`, `true`, `yes`, `on`, `0`, `false`, `no`, `off`.
- A time is written as `500ms`, `30s` or `1m 30s`.
- 0 is \"no limit\" where something is limited; where that could not be meant, it is refused.
- An address to listen on is `IP:PORT`, `NAME:PORT`, or `:PORT` for every address of the machine.
";

#[test]
fn flags_page() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let made = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = made.lines().zip(found.lines()).find(|(made, found)| made != found);
    assert_eq!(differs, None, "of the flags and docs/flags.md; {}", "UPDATE=1 makes it anew");
    assert_eq!(made.len(), found.len(), "docs/flags.md ends elsewhere; UPDATE=1 makes it anew");
}

fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = HEAD.to_owned();
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        if command.get_name() != "help" {
            section(&mut page, command);
            // One level further down: `injector manifests`.
            command.get_subcommands().for_each(|below| section(&mut page, below));
        }
    }
    page
}

fn section(page: &mut String, command: &Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = about.trim_end_matches('.');
    let name = command.get_bin_name().unwrap_or_default();
    write!(page, "\n## {name}\n\n{about}.\n").unwrap();
    let arguments = || command.get_arguments().filter(|one| one.get_id() != "help");
    // What has no heading comes first, as in the help.
    let mut headings: Vec<Option<&str>> = Vec::new();
    headings.extend(arguments().any(|one| one.get_help_heading().is_none()).then_some(None));
    for argument in arguments() {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    let has_variables = arguments().any(|one| one.get_env().is_some());
    for heading in headings {
        if let Some(heading) = heading {
            write!(page, "\n### {heading}\n").unwrap();
        }
        page.push_str(match has_variables {
            true => "\n| flag | variable | default | meaning |\n|---|---|---|---|\n",
            false => "\n| flag | default | meaning |\n|---|---|---|\n",
        });
        for argument in arguments().filter(|one| one.get_help_heading() == heading) {
            row(page, argument, has_variables);
        }
    }
}

fn row(page: &mut String, argument: &Arg, has_variables: bool) {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let (meaning, told_default) = split_default(&help);
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| takes_value(argument))
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let meaning = match values.as_slice() {
        [] => meaning.to_owned(),
        values => format!("{meaning}: {}", values.join(", ")),
    };
    let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let cells: Vec<String> = [
        Some(format!("`{}`", spelling(argument))),
        has_variables.then(|| variable.unwrap_or_default()),
        Some(told_default.map_or_else(|| default(argument), str::to_owned)),
        Some(meaning),
    ]
    .into_iter()
    .flatten()
    // A cell's end must not stand in it.
    .map(|cell| cell.replace('|', "\\|"))
    .collect();
    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values() && !matches!(argument.get_action(), ArgAction::SetTrue)
}

fn spelling(argument: &Arg) -> String {
    let value = || {
        let names = argument.get_value_names().unwrap_or_default();
        names.first().map_or_else(|| argument.get_id().to_string(), ToString::to_string)
    };
    let several = matches!(argument.get_action(), ArgAction::Append);
    let Some(long) = argument.get_long() else {
        return if several { format!("-- {}…", value()) } else { value() };
    };
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    match takes_value(argument) {
        true => format!("{short}--{long} {}", value()),
        false => format!("{short}--{long}"),
    }
}

fn default(argument: &Arg) -> String {
    let values = argument.get_default_values().iter();
    let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
    match values.join(",") {
        text if !takes_value(argument) || values.is_empty() => {
            debug_assert!(text.is_empty() || text == "false");
            String::new()
        }
        text if text.is_empty() => "nothing".to_owned(),
        text => format!("`{text}`"),
    }
}

/// A default that depends on something else stands in words at the end of the help.
fn split_default(help: &str) -> (&str, Option<&str>) {
    match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
        Some((meaning, default)) => (meaning, Some(default)),
        None => (help, None),
    }
}

//! Completion for shells, and man pages: both from the definitions of the commands, so that they cannot
//! differ from what the program takes.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use crate::output;

/// Print what has a shell complete the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = shell())]
    pub shell: Shell,
}

/// Those that are tested.
fn shell() -> impl clap::builder::TypedValueParser<Value = Shell> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]).map(|name| {
        match name.as_str() {
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            _ => Shell::Bash,
        }
    })
}

/// Write the man pages of all commands.
#[derive(Clone, Debug, clap::Args)]
pub struct ManArgs {
    /// A folder to write all pages to, made if it is not there; the first page is printed if not given
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Prints the completion of `command`.
///
/// # Errors
/// Standard output does not take it.
pub fn complete(args: &CompletionArgs, mut command: Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    Ok(output::print(&String::from_utf8_lossy(&text))?)
}

/// Prints the page of `command`, or writes it and that of each of its commands.
///
/// # Errors
/// The folder, or standard output, cannot be written.
pub fn man(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(output::print(&String::from_utf8_lossy(&page))?);
    };
    let problem = || format!("the man pages cannot be written to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(problem)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder).with_context(problem)
}

//! How answers leave the program: as a table that fits the terminal, or as JSON or YAML for programs. What
//! strangers have said is escaped in each of them.

use std::io::{self, IsTerminal as _};

use serde_json::Value;

use super::args::{Color, OutputArgs, OutputFormat};
use super::replicas::Failure;
use super::table::Screen;
use crate::escape;
use crate::output::{self, Unwritten};

/// The terminal that standard output is, or what stands for one.
pub(super) fn screen(args: &OutputArgs) -> Screen {
    let terminal = io::stdout().is_terminal();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let colors = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb",
    };
    // A shell that exports COLUMNS says it for its children, wherever their output goes; cutting what
    // goes into a pipe would lose data.
    let width =
        terminal.then(|| variable("COLUMNS").parse().ok().or_else(terminal_width)).flatten();
    Screen { width: width.filter(|width| *width > 0), colors }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col.into())
}

/// Prints a document in the format for programs that is asked for; `false` if it is to be a table.
pub(super) fn document(args: &OutputArgs, document: &Value) -> Result<bool, Unwritten> {
    match args.output {
        Some(OutputFormat::Json) => {
            let text = serde_json::to_string_pretty(document).unwrap_or_default();
            // Line by line: those between the values are the JSON's own.
            let lines: String =
                text.lines().map(|line| format!("{}\n", escape::json(line))).collect();
            output::print(&lines)?;
            Ok(true)
        }
        Some(OutputFormat::Yaml) => {
            output::print(&yaml(document))?;
            Ok(true)
        }
        Some(OutputFormat::Wide) | None => Ok(false),
    }
}

/// Strings stand in quotes where they need to; one with anything unsafe in it is written as JSON has
/// it, which is YAML as well. (serde-saphyr leaves bidi overrides as they are, and in scalars without double
/// quotes no escape could stand in their place.)
fn yaml(document: &Value) -> String {
    let mut text = String::new();
    block(&mut text, document, 0);
    text
}

fn block(text: &mut String, value: &Value, indent: usize) {
    let blanks = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                text.push_str(&format!("{blanks}{}:", scalar(&Value::String(name.clone()))));
                nested(text, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(&mut inner, item, indent + 2);
                // The hyphen stands in the first line's own indentation.
                text.push_str(&format!("{blanks}- {}", inner.trim_start_matches(' ')));
            }
        }
        other => text.push_str(&format!("{blanks}{}\n", scalar(other))),
    }
}

fn nested(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            block(text, value, indent);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(text, value, indent - 2);
        }
        other => text.push_str(&format!(" {}\n", scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    let plain = |text: &str| {
        let first =
            text.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
        first && text.chars().all(rest) && !words.contains(&&*text.to_ascii_lowercase())
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        other => escape::json(&other.to_string()).into_owned(),
    }
}

/// Says which replicas could not be asked.
pub(super) fn failures(failures: &[Failure]) {
    for Failure { replica, error } in failures {
        warn(&format!("the replica {replica} could not be asked: {error}"));
    }
}

/// A line on standard error, of what others may have said.
pub(super) fn warn(text: &str) {
    output::eprint_line(format_args!("warning: {}", escape::line(text)));
}

/// Likewise, of what made the command end.
pub(super) fn error(text: &str) {
    output::eprint_line(format_args!("error: {}", escape::line(text)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_the_same_document_and_nothing_unsafe_is_in_it() {
        let document = json!({
            "replicas": [{ "name": "a-1", "tags": [], "more": {} }, ["x", ["y"]], 7],
            "on": "no", "text": "\u{1b}[2J\u{202e}\n- x: \"y\" # z", "empty": "", "number": "12e3",
            "nothing": null, "yes": true, "real": 1.5, "date": "2026-11-26T14:00:00.123Z",
            "deep": { "a": { "b": [{ "c": [1, 2] }] } }, "\u{9b}k: ": "v", "tilde": "~", "dots": "...",
        });
        let text = yaml(&document);
        let safe = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(text.chars().all(safe), "{text:?}");
        let read: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read, document, "{text}");
    }
}

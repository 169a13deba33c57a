//! Writes a manifest as YAML that is read alike by everybody, kubectl's reader (sigs.k8s.io/yaml) above
//! all: a plain scalar only where no version of YAML sees anything but text in it, a block only where
//! its lines are plain lines (go-yaml refuses some that begin with a tab), quotes for everything else.

use std::fmt::Write as _;

use super::node::{Map, Node};

/// A key that is longer than this is written with `? `: readers give up on the others (go-yaml after
/// 1,024 bytes).
const LONGEST_KEY: usize = 512;

pub(super) fn write(object: &Node) -> String {
    let mut text = String::new();
    match object {
        Node::Map(map) if !map.is_empty() => write_map(&mut text, map, 0, false),
        Node::List(list) if !list.is_empty() => write_list(&mut text, list, 0, false),
        scalar => {
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
    text
}

/// `inline`: the first key stands on a line that has begun.
fn write_map(text: &mut String, map: &Map, indent: usize, inline: bool) {
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 || !inline {
            spaces(text, indent);
        }
        let key = scalar(key);
        if key.len() > LONGEST_KEY {
            text.push_str("? ");
            text.push_str(&key);
            text.push('\n');
            spaces(text, indent);
        } else {
            text.push_str(&key);
        }
        text.push(':');
        write_value(text, value, indent);
    }
}

fn write_list(text: &mut String, list: &[Node], indent: usize, inline: bool) {
    for (at, item) in list.iter().enumerate() {
        if at > 0 || !inline {
            spaces(text, indent);
        }
        text.push('-');
        match item {
            Node::Map(map) if !map.is_empty() => {
                text.push(' ');
                write_map(text, map, indent + 2, true);
            }
            Node::List(list) if !list.is_empty() => {
                text.push(' ');
                write_list(text, list, indent + 2, true);
            }
            other => write_value(text, other, indent),
        }
    }
}

/// What stands behind `key:` or `-`, to the end of its last line.
fn write_value(text: &mut String, value: &Node, indent: usize) {
    match value {
        Node::Map(map) if !map.is_empty() => {
            text.push('\n');
            write_map(text, map, indent + 2, false);
        }
        Node::List(list) if !list.is_empty() => {
            text.push('\n');
            write_list(text, list, indent + 2, false);
        }
        Node::Text(lines) if is_block(lines) => {
            text.push_str(if lines.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in lines.lines() {
                if !line.is_empty() {
                    spaces(text, indent + 2);
                    text.push_str(line);
                }
                text.push('\n');
            }
        }
        scalar => {
            text.push(' ');
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
}

fn spaces(text: &mut String, count: usize) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// On one line.
fn flow(node: &Node) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Bool(truth) => truth.to_string(),
        Node::Unsigned(number) => number.to_string(),
        Node::Signed(number) => number.to_string(),
        Node::Float(number) if number.is_nan() => ".nan".to_owned(),
        Node::Float(number) if number.is_infinite() => {
            if *number > 0.0 { ".inf" } else { "-.inf" }.to_owned()
        }
        // With a point or an exponent, so that it stays a fraction.
        Node::Float(number) => format!("{number:?}"),
        Node::Text(text) => scalar(text),
        Node::List(_) => "[]".to_owned(),
        Node::Map(_) => "{}".to_owned(),
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Whether nobody takes this for anything but text, as it stands.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let begins = first.is_ascii_alphanumeric()
        || "/_$(".contains(first)
        || ("-.".contains(first) && text.len() > 1 && !text.starts_with("- "));
    begins
        && !text.starts_with("---")
        && !text.starts_with("...")
        && text.chars().all(|c| (' '..='~').contains(&c))
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !is_word(text)
        && !resembles_a_number(text)
}

/// Booleans and null, of YAML 1.1 too.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Numbers of any base, fractions, times and dates: whatever begins like one and has no character that
/// none of them has.
fn resembles_a_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && text.chars().all(|c| c.is_ascii_hexdigit() || "xXoO_.:+- TtZzinIN".contains(c))
}

/// Several lines of ordinary text.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    text.contains('\n')
        && !body.is_empty()
        && !body.ends_with('\n')
        && !body.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        && body
            .split('\n')
            .all(|line| !line.starts_with('\t') && (line.is_empty() || !line.trim().is_empty()))
}

/// Printable for YAML, and no character that some reader takes for the end of a line.
fn is_printable(c: char) -> bool {
    match c {
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        ' '..='~' | '\u{a0}'.. => true,
        _ => false,
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_printable(c) => quoted.push(c),
            c => {
                // To a String it cannot fail.
                _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::documents::read_yaml;
    use super::*;

    #[test]
    fn text_stays_text_and_is_quoted_only_where_it_must_be() {
        for plain in [
            "details",
            "-b",
            "--flag=a:b",
            "8080,9090",
            "10.96.0.0/16",
            "10m",
            "64Mi",
            "a b",
            "registry.example/proxy:2",
            "/path",
            "$(POD_NAME)",
            "it's",
            ".profile",
        ] {
            assert_eq!(scalar(plain), plain);
        }
        for text in [
            "",
            "~",
            "null",
            "Null",
            "y",
            "N",
            "yes",
            "On",
            "off",
            "TRUE",
            "1",
            "-1",
            "+1",
            "0o7",
            "0x1F",
            "0b1",
            "1_000",
            "1e3",
            ".5",
            "-.inf",
            ".nan",
            "12:30:45",
            "2001-01-01",
            "2001-12-14t21:59:43.10-05:00",
            "=",
            "<<",
            "- a",
            "-",
            "? a",
            "?",
            ": a",
            "a: b",
            "a:",
            "a #b",
            "#a",
            " a",
            "a ",
            "\ta",
            "a\t",
            "---",
            "--- a",
            "...",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "[a",
            "{a",
            "'a",
            "\"a",
            "a\u{85}b",
            "a\u{2028}b",
            "\u{feff}a",
            "\u{0}",
            "\u{7f}",
            "ä",
            "\r",
            "a\r\nb",
        ] {
            assert!(scalar(text).starts_with('"'), "{text:?}: {}", scalar(text));
        }
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        let map: Map = [
            ("block".to_owned(), Node::from("a\n\n  b\tc\n# d\n--- e\n")),
            ("no end".to_owned(), Node::from("a\nb")),
            ("two ends".to_owned(), Node::from("a\n\n")),
            ("tab".to_owned(), Node::from("\ta\nb\n")),
            (
                "y".to_owned(),
                Node::List(vec![
                    Node::List(vec![Node::Bool(true), Node::List(vec![])]),
                    Node::Map([("a".to_owned(), Node::Null)].into_iter().collect()),
                    Node::Map(Map::new()),
                    Node::Float(1.0),
                    Node::Signed(-1),
                ]),
            ),
            (
                "k".repeat(2000),
                Node::Map([("b".to_owned(), Node::from("c"))].into_iter().collect()),
            ),
        ]
        .into_iter()
        .collect();
        let object = Node::Map(map);
        let text = write(&object);
        assert_eq!(read_yaml(&text, 0), Ok(object), "{text}");
        assert!(text.contains("block: |\n  a\n\n    b\tc\n"), "{text}");
    }
}

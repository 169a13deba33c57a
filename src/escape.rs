//! What others say, on its way to a terminal or a log: characters that would not be seen as what they
//! are (a newline forges a line, ESC drives the terminal, bidi overrides reorder what stands around
//! them) are written as escapes.

use std::borrow::Cow;
use std::fmt;

/// Control characters (C0, DEL, C1), those that order or hide text without being seen, and Unicode's
/// own line breaks.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes into `W`, all that is unsafe as an escape of Rust's: `\n`, `\u{1b}`.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unsafe) {
            let (safe, after) = rest.split_at(at);
            self.0.write_str(safe)?;
            let mut chars = after.chars();
            if let Some(c) = chars.next() {
                write!(self.0, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// `text` on one line, with nothing unsafe in it.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    // A String takes everything.
    _ = fmt::Write::write_str(&mut Escaping(&mut escaped), text);
    escaped.into()
}

/// A line of JSON in which serde_json has left what JSON allows: the same value, nothing unsafe in it.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_as_what_it_is_becomes_an_escape() {
        for (text, shown) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{0}\u{7f}\u{9b}2J", "\\u{0}\\u{7f}\\u{9b}2J"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("\u{2028}\u{feff}\u{e0041}", "\\u{2028}\\u{feff}\\u{e0041}"),
            ("reviews.default, Äpfel, 日本, 🚀, C:\\x", "reviews.default, Äpfel, 日本, 🚀, C:\\x"),
            ("", ""),
        ] {
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = "\u{9b}\u{202e}\u{e0041}\n\u{7f} Äpfel 🚀";
        let text = serde_json::to_string(value).unwrap();
        let safe = json(&text);
        assert!(!safe.contains(is_unsafe), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), value);
    }
}

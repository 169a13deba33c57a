//! Whether a page of metrics is one: Prometheus refuses a whole page for one line that it cannot read, so
//! what comes from elsewhere is read by its rules before it is put beside the rest. Pure.
//!
//! A page of OpenMetrics becomes one of the text format 0.0.4 here: exemplars go, times are in
//! milliseconds, and there is no mark of the end.

use std::fmt::Write as _;

use thiserror::Error;

use crate::exposition::to_prometheus_text;

/// The first line that is wrong; shown in a log, so cut.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("its page is no metrics, line {line}: {text:?}: {what}")]
    Line { line: usize, text: String, what: &'static str },
    #[error("its page of OpenMetrics has no # EOF at its end: it is cut off")]
    NoEnd,
}

const SHOWN: usize = 80;

/// The page in the text format 0.0.4, with a line break at its end.
pub(super) fn checked(page: &str, openmetrics: bool) -> Result<String, Malformed> {
    let mut checked = String::with_capacity(page.len() + 1);
    if openmetrics && page.lines().next_back() != Some("# EOF") {
        return Err(Malformed::NoEnd);
    }
    let converted = openmetrics.then(|| to_prometheus_text(page));
    for (at, line) in converted.as_deref().unwrap_or(page).lines().enumerate() {
        let wrong =
            |what| Malformed::Line { line: at + 1, text: line.chars().take(SHOWN).collect(), what };
        if let Some(comment) = line.trim_start().strip_prefix('#') {
            checked.push_str(&head(comment, line, openmetrics).map_err(wrong)?);
        } else if !line.trim().is_empty() {
            sample(line, openmetrics, &mut checked).map_err(wrong)?;
        }
        checked.push('\n');
    }
    Ok(checked)
}

/// A comment; of those, `TYPE` must name a type of the text format.
fn head(comment: &str, line: &str, openmetrics: bool) -> Result<String, &'static str> {
    let mut words = comment.split_ascii_whitespace();
    if words.next() != Some("TYPE") {
        return Ok(line.to_owned());
    }
    let (Some(name), Some(kind), None) = (words.next(), words.next(), words.next()) else {
        return Err("TYPE is followed by a name and a type");
    };
    match kind {
        "counter" | "gauge" | "histogram" | "summary" | "untyped" => Ok(line.to_owned()),
        "gaugehistogram" if openmetrics => Ok(format!("# TYPE {name} untyped")),
        "stateset" if openmetrics => Ok(format!("# TYPE {name} gauge")),
        _ => Err("there is no such type"),
    }
}

/// `NAME{LABEL="VALUE",...} NUMBER [TIME]`.
fn sample(line: &str, openmetrics: bool, into: &mut String) -> Result<(), &'static str> {
    let trimmed = line.trim_start();
    let mut rest = trimmed;
    let named = name(&mut rest, true);
    rest = rest.trim_start_matches([' ', '\t']);
    if rest.starts_with('{') {
        labels(&mut rest, named)?;
    } else if !named {
        return Err("a sample begins with a name");
    }
    let series = trimmed[..trimmed.len() - rest.len()].trim_end();
    let rest = match rest.find(" # ") {
        // An exemplar.
        Some(at) if openmetrics => &rest[..at],
        _ => rest,
    };
    let mut words = rest.split_ascii_whitespace();
    let value = words.next().ok_or("there is no value")?;
    value.parse::<f64>().map_err(|_| "the value is no number")?;
    _ = write!(into, "{series} {value}");
    if let Some(time) = words.next() {
        let milliseconds = match openmetrics {
            true => time.parse::<f64>().ok().and_then(milliseconds),
            false => time.parse::<i64>().ok(),
        };
        let milliseconds = milliseconds.ok_or("the time is no number")?;
        _ = write!(into, " {milliseconds}");
    }
    match words.next() {
        None => Ok(()),
        Some(_) => Err("something stands after the value"),
    }
}

/// Of seconds; none where there are too many for a time.
fn milliseconds(seconds: f64) -> Option<i64> {
    let milliseconds = (seconds * 1e3).round();
    // Exact in a number of 64 bits, and some 280,000 years.
    const MOST: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)] // it is whole and within bounds
    (milliseconds.abs() <= MOST).then_some(milliseconds as i64)
}

/// Takes a name off; colons are for names of metrics alone.
fn name(rest: &mut &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
    if end == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    *rest = &rest[end..];
    true
}

/// Takes the labels off. A name of any characters stands among them, in quotes and first.
fn labels(rest: &mut &str, mut named: bool) -> Result<(), &'static str> {
    let blank = |rest: &mut &str| *rest = rest.trim_start_matches([' ', '\t']);
    let take = |rest: &mut &str, c: char| match rest.strip_prefix(c) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    };
    take(rest, '{');
    loop {
        blank(rest);
        if take(rest, '}') {
            return if named { Ok(()) } else { Err("a sample has a name") };
        }
        let quoted = rest.starts_with('"');
        match quoted {
            true => text(rest)?,
            false if name(rest, false) => {}
            false => return Err("a label has a name"),
        }
        blank(rest);
        if take(rest, '=') {
            blank(rest);
            if !rest.starts_with('"') {
                return Err("a label's value stands in quotes");
            }
            text(rest)?;
        } else if quoted && !named {
            named = true;
        } else {
            return Err("a label has a value");
        }
        blank(rest);
        if !take(rest, ',') && !rest.starts_with('}') {
            return Err("there is a comma between labels");
        }
    }
}

/// Takes a text in quotes off, in which a backslash, a quote and a line break are escaped.
fn text(rest: &mut &str) -> Result<(), &'static str> {
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Ok(());
            }
            '\\' => match characters.next() {
                Some((_, '\\' | '"' | 'n')) => {}
                _ => return Err("a backslash stands before \\, \" or n"),
            },
            _ => {}
        }
    }
    Err("a text has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_stay_as_they_are() {
        let page = "# HELP a Words {of} any \"kind\"\n# TYPE a counter\na 1\n\n# a comment\n#another\n\
                    a:b_total{x=\"y\",z=\"\\\\ \\\" \\n # }\",} +Inf 1700000000000\n\
                    b{} NaN\nc { x = \"\" } -1.5e-3\n{\"of.any\",\"l.1\"=\"v\"} 0\n";
        assert_eq!(checked(page, false).unwrap(), page);
        assert_eq!(checked("a 1", false).unwrap(), "a 1\n", "a last line without its end");
        assert_eq!(checked("a 1\r\nb 2\r\n", false).unwrap(), "a 1\nb 2\n");
        assert_eq!(checked("", false).unwrap(), "");
    }

    #[test]
    fn what_prometheus_would_refuse_is_found() {
        for (line, what) in [
            ("<html>", "a sample begins with a name"),
            ("hello world", "the value is no number"),
            ("a", "there is no value"),
            ("1a 1", "a sample begins with a name"),
            ("a-b 1", "the value is no number"),
            ("a 1 now", "the time is no number"),
            ("a 1 1.5", "the time is no number"),
            ("a 1 1 1", "something stands after the value"),
            ("a{x} 1", "a label has a value"),
            ("a{x=y} 1", "a label's value stands in quotes"),
            ("a{x=\"y} 1", "a text has no end"),
            ("a{x=\"\\y\"} 1", "a backslash stands before"),
            ("a{x=\"y\"z=\"\"} 1", "a comma"),
            ("a{:x=\"y\"} 1", "a label has a name"),
            ("{x=\"y\"} 1", "a sample has a name"),
            ("# TYPE a info", "no such type"),
            ("# TYPE a", "TYPE is followed by"),
            ("a_total 1 # {id=\"1\"} 1", "the time is no number"),
        ] {
            let page = format!("ok 1\n{line}\nok 2\n");
            let found = checked(&page, false).unwrap_err();
            assert!(found.to_string().contains(what), "{line}: {found}");
            assert!(found.to_string().contains("line 2"), "{line}: {found}");
        }
        let long = format!("{}\u{1F600} 1", "\u{e9}".repeat(500));
        assert!(checked(&long, false).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn openmetrics_becomes_text() {
        let page = "# HELP a Counted\n# TYPE a counter\na_total{x=\" # y\"} 1 1700000000.25 # {id=\"1\"} 0.5 17\n\
                    # TYPE g gaugehistogram\ng_bucket{le=\"1\"} 2\n# TYPE s stateset\ns{s=\"on\"} 1\n\
                    # TYPE i info\ni_info{v=\"1\"} 1\n# TYPE u unknown\n# UNIT u bytes\nu 1\n# EOF\n";
        let wanted = "# HELP a_total Counted\n# TYPE a_total counter\na_total{x=\" # y\"} 1 1700000000250\n\
                      # TYPE g untyped\ng_bucket{le=\"1\"} 2\n# TYPE s gauge\ns{s=\"on\"} 1\n\
                      # TYPE i_info gauge\ni_info{v=\"1\"} 1\n# TYPE u untyped\nu 1\n";
        assert_eq!(checked(page, true).unwrap(), wanted);
        assert_eq!(checked("a 1\n", true), Err(Malformed::NoEnd));
        assert!(checked("a 1 1e300\n# EOF\n", true).is_err());
    }
}

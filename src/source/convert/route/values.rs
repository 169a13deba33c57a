//! Texts of which the API says how they look.

use std::sync::Arc;
use std::time::Duration;

use super::super::names::{is_dns_label, is_subdomain};
use super::fields::{Findings, Object, shown};

/// A name of a rule, or of a port of a parent.
pub(super) fn section_name(
    object: &Object<'_>,
    name: &str,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    let text = object.bounded_text(name, (1, 253), findings)?;
    if !is_subdomain(text) {
        let reason = format!("{} is no name (of a-z, 0-9, '-' and '.')", shown(text));
        findings.invalid(object.path_of(name), reason);
        return None;
    }
    Some(text.into())
}

/// A namespace, if there is a valid one.
pub(super) fn namespace<'a>(object: &Object<'a>, findings: &mut Findings) -> Option<&'a str> {
    let text = object.text("namespace", findings)?;
    if !is_dns_label(text) {
        let reason = format!("{} is no namespace (up to 63 of a-z, 0-9 and '-')", shown(text));
        findings.invalid(object.path_of("namespace"), reason);
        return None;
    }
    Some(text)
}

/// A group; `default` where there is none.
pub(super) fn group<'a>(
    object: &Object<'a>,
    default: &'a str,
    findings: &mut Findings,
) -> Option<&'a str> {
    let Some(node) = object.get("group") else { return Some(default) };
    let text = node.text(findings)?;
    if !text.is_empty() && !is_subdomain(text) {
        findings.invalid(node.path, format!("{} is no API group", shown(text)));
        return None;
    }
    Some(text)
}

/// A kind; `default` where there is none.
pub(super) fn kind<'a>(
    object: &Object<'a>,
    default: &'a str,
    findings: &mut Findings,
) -> Option<&'a str> {
    let Some(node) = object.get("kind") else { return Some(default) };
    let text = node.bounded_text((1, 63), findings)?;
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let right = text.bytes().all(inner)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !text.ends_with('-');
    if !right {
        findings.invalid(node.path, format!("{} is no kind", shown(text)));
        return None;
    }
    Some(text)
}

/// A name of a header, as the API allows it: a token of RFC 9110.
pub(super) fn is_header_name(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(token)
}

/// Reports a text that is no name of a header (or of a query parameter).
pub(super) fn require_header_name(path: &str, text: &str, findings: &mut Findings) -> bool {
    let right = is_header_name(text);
    if !right {
        let reason = format!(
            "{} is no name of a header (1 to 256 letters, digits and !#$%&'*+-.^_`|~)",
            shown(text)
        );
        findings.invalid(path, reason);
    }
    right
}

/// Whether Envoy takes it for the value of a header: no control characters but tabs.
pub(super) fn is_header_value(text: &str) -> bool {
    !text.chars().any(|one| one.is_control() && one != '\t')
}

/// Reports a text that is no name of a host.
pub(super) fn require_hostname(path: &str, text: &str, findings: &mut Findings) -> bool {
    let right = is_subdomain(text);
    if !right {
        let reason = format!("{} is no name of a host (lower case, no address)", shown(text));
        findings.invalid(path, reason);
    }
    right
}

/// Whether the text has only characters of a path, with `%` before two hexadecimal digits alone.
pub(super) fn has_path_characters(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let right = match byte {
            b'%' => {
                let mut hex = || rest.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                hex() && hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !right {
            return false;
        }
    }
    true
}

/// `timeouts.request` and `timeouts.backendRequest`.
pub(super) fn timeouts(
    timeouts: &Object<'_>,
    findings: &mut Findings,
) -> (Option<Duration>, Option<Duration>) {
    timeouts.check_names(&["request", "backendRequest"], &[], findings);
    let mut read = |name| {
        let text = timeouts.text(name, findings)?;
        let read = duration(text);
        if read.is_none() {
            let reason = format!("{} is no duration (as in 1h30m, 10s or 500ms)", shown(text));
            findings.invalid(timeouts.path_of(name), reason);
        }
        read
    };
    let (request, backend) = (read("request"), read("backendRequest"));
    if let (Some(request), Some(backend)) = (request, backend)
        && !request.is_zero()
        && backend > request
    {
        let path = timeouts.path_of("backendRequest");
        findings.invalid(path, "longer than the timeout of the request as a whole");
    }
    (request, backend)
}

/// GEP-2257: one to four times one to five digits and a unit, `h`, `m`, `s` or `ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut parts, mut milliseconds) = (text, 0, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) || parts == 4 {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let (one, length) = match unit {
            _ if unit.starts_with("ms") => (1, 2),
            _ if unit.starts_with('h') => (3_600_000, 1),
            _ if unit.starts_with('m') => (60_000, 1),
            _ if unit.starts_with('s') => (1000, 1),
            _ => return None,
        };
        milliseconds += number.parse::<u64>().ok()? * one;
        rest = &unit[length..];
        parts += 1;
    }
    (parts > 0).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        let milliseconds = |text| duration(text).map(|read| read.as_millis());
        for (text, expected) in [
            ("0s", 0),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1m1ms", 60_001),
            ("1s1s1s1s", 4000),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
        for bad in ["", "1", "s", "1.5s", "-1s", "123456s", "1s1s1s1s1s", "1us", "1d", " 1s", "1S"]
        {
            assert_eq!(milliseconds(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn characters_of_paths_and_headers() {
        assert!(has_path_characters("/a-b_c/~d.e!$&'()*+,;=:@%2a"));
        for bad in ["/a b", "/é", "/%", "/%2", "/%2g", "/?a", "/#", "/\\", "/{a}", "/a\n"] {
            assert!(!has_path_characters(bad), "{bad:?}");
        }
        assert!(is_header_name("X-Request_Id!#$%&'*+.^`|~9"));
        let long = "a".repeat(257);
        for bad in ["", ":method", "a b", "a:", "a(b)", "é", &long] {
            assert!(!is_header_name(bad), "{bad:?}");
        }
        assert!(
            is_header_value("a\tb é") && !is_header_value("a\nb") && !is_header_value("\u{7f}")
        );
    }
}

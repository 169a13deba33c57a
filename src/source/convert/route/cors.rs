//! Cross-origin resource sharing.

use std::sync::Arc;

use super::fields::{Findings, Object, shown};
use super::values;
use crate::model::route::Cors;

const MAX_NAMES: usize = 64;
const MAX_METHODS: usize = 9;
const DEFAULT_MAX_AGE: i64 = 5;
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];

pub(super) fn cors(from: &Object<'_>, findings: &mut Findings) -> Cors {
    let known = [
        "allowOrigins",
        "allowCredentials",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
        "maxAge",
    ];
    from.check_names(&known, &[], findings);
    let max_age = match from.has("maxAge") {
        true => from.number("maxAge", (1, i32::MAX.into()), findings),
        false => Some(DEFAULT_MAX_AGE),
    };
    Cors {
        allow_origins: texts(from, "allowOrigins", MAX_NAMES, is_origin, findings),
        allow_credentials: from.boolean("allowCredentials", findings).unwrap_or_default(),
        allow_methods: texts(from, "allowMethods", MAX_METHODS, is_method, findings),
        allow_headers: texts(from, "allowHeaders", MAX_NAMES, values::is_header_name, findings),
        expose_headers: texts(from, "exposeHeaders", MAX_NAMES, values::is_header_name, findings),
        max_age: max_age.and_then(|age| u32::try_from(age).ok()).unwrap_or_default(),
    }
}

/// A list in which nothing is twice, and `*` is alone (in `exposeHeaders` it need not be).
fn texts(
    from: &Object<'_>,
    name: &str,
    most: usize,
    is_right: fn(&str) -> bool,
    findings: &mut Findings,
) -> Vec<Arc<str>> {
    let mut texts: Vec<Arc<str>> = Vec::new();
    for node in from.list(name, most, findings) {
        let Some(text) = node.bounded_text((1, 256), findings) else { continue };
        if !is_right(text) {
            findings.invalid(node.path, format!("{} is not allowed here", shown(text)));
        } else if texts.iter().any(|earlier| **earlier == *text) {
            findings.invalid(node.path, format!("{} is there already", shown(text)));
        } else {
            texts.push(text.into());
        }
    }
    if name != "exposeHeaders" && texts.len() > 1 && texts.iter().any(|text| **text == *"*") {
        findings.invalid(from.path_of(name), "has \"*\" beside others");
    }
    texts
}

fn is_method(text: &str) -> bool {
    METHODS.contains(&text)
}

/// `*`, or scheme and host, maybe a port: the host `*`, or a name that may begin with `*.`.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest.filter(|_| text.len() <= 253) else { return false };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let named = || host.strip_prefix("*.").unwrap_or(host).split('.').all(label);
    let digits = |port: &str| {
        (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    (host == "*" || named()) && port.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_of_the_crd() {
        for good in [
            "*",
            "http://*",
            "https://*:8080",
            "https://example.com",
            "http://*.example.com:80",
            "http://LOCALHOST:12345",
            "https://a-b.-c",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "**",
            "example.com",
            "ftp://a",
            "http://",
            "http://a.",
            "http://a..b",
            "http://*a",
            "http://*.",
            "http://a:",
            "http://a:123456",
            "http://a:b",
            "http://a/b",
            "http://a_b",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}

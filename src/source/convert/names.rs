//! Names as DNS and Kubernetes allow them (RFC 1123).

use super::Rejection;

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, up to 63 characters.
pub(in crate::source) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().copied().all(inner)
}

pub(super) fn require_dns_label(field: impl Into<String>, text: &str) -> Result<(), Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(field, "missing"));
    }
    if !is_dns_label(text) {
        let reason = format!(
            "{text:?} is no DNS label (up to 63 of a-z, 0-9 and '-', no '-' at either end)"
        );
        return Err(Rejection::new(field, reason));
    }
    Ok(())
}

/// DNS labels joined by dots, up to 253 characters.
pub(super) fn dns_name<'a>(field: &str, text: Option<&'a str>) -> Result<&'a str, Rejection> {
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Err(Rejection::new(field, "missing"));
    }
    if text.len() > 253 || !text.split('.').all(is_dns_label) {
        let reason = format!("{text:?} is no DNS name (labels of a-z, 0-9 and '-', with dots)");
        return Err(Rejection::new(field, reason));
    }
    Ok(text)
}

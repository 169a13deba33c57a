//! Names as DNS and Kubernetes allow them (RFC 1123).

use super::Rejection;
pub(in crate::source) use crate::names::is_dns_label;

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

//! Names as Kubernetes allows them (apimachinery's `util/validation`), and as DNS does.
//!
//! What the API server admits must pass here, or an object is lost for its name alone:
//!
//! | name | Kubernetes' check | here |
//! |---|---|---|
//! | Service | `IsDNS1035Label`, `IsDNS1123Label` with `RelaxedServiceNameValidation` | the latter |
//! | namespace; port names of Services, slices and Endpoints; an endpoint's hostname | `IsDNS1123Label` | the same |
//! | EndpointSlice, Endpoints, node | `IsDNS1123Subdomain` | the same |
//! | externalName | `IsDNS1123Subdomain`, maybe a dot at its end | the same, and what DNS can carry |
//! | appProtocol | `IsQualifiedName` | none: what is unknown is TCP |

use super::Rejection;
pub(in crate::source) use crate::names::is_dns_label;

/// `IsDNS1123Subdomain`: such parts joined by dots, up to 253 characters in all. How long a part is
/// does not matter: a name of 253 letters is one.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
}

pub(super) fn require_dns_label(field: impl Into<String>, text: &str) -> Result<(), Rejection> {
    let wanted = "DNS label (up to 63 of a-z, 0-9 and '-', no '-' at either end)";
    require(field, text, is_dns_label, wanted)
}

pub(super) fn require_subdomain(field: impl Into<String>, text: &str) -> Result<(), Rejection> {
    let wanted =
        "DNS subdomain (up to 253 of a-z, 0-9, '-' and '.', no '-' beside a dot or an end)";
    require(field, text, is_subdomain, wanted)
}

/// A subdomain that can be asked of DNS: its parts are labels of 63 characters at most.
pub(super) fn require_dns_name(field: impl Into<String>, text: &str) -> Result<(), Rejection> {
    let is_name = |text: &str| text.len() <= 253 && text.split('.').all(is_dns_label);
    let wanted = "DNS name (labels of up to 63 of a-z, 0-9 and '-', with dots, up to 253 in all)";
    require(field, text, is_name, wanted)
}

fn require(
    field: impl Into<String>,
    text: &str,
    is_right: impl Fn(&str) -> bool,
    wanted: &str,
) -> Result<(), Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(field, "missing"));
    }
    if !is_right(text) {
        return Err(Rejection::new(field, format!("{text:?} is no {wanted}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of apimachinery's own tests (`validation_test.go`), shortened.
    #[test]
    fn labels_and_subdomains_are_those_of_kubernetes() {
        let long = |count: usize| "a".repeat(count);
        for good in ["a", "ab", "a--1", "0", "1-2", "a-1", &long(63)] {
            assert!(is_dns_label(good) && is_subdomain(good), "{good:?}");
        }
        for bad in ["", "A", "-", "a-", "-a", "_", "a_b", "a b", " a", "a.", ".a", "a..b", "a.-b"] {
            assert!(!is_dns_label(bad) && !is_subdomain(bad), "{bad:?}");
        }
        let parts = format!("{0}.{0}.{0}.{1}", long(63), long(61));
        for good in ["a.b", "0.0.0.0", "a.b-c.d", &long(64), &long(253), &parts] {
            assert!(!is_dns_label(good) && is_subdomain(good), "{good:?}");
        }
        assert!(!is_subdomain(&long(254)) && !is_subdomain(&format!("{parts}a")));
        assert!(require_dns_name("f", &parts).is_ok() && require_dns_name("f", "a.b").is_ok());
        let error = require_dns_name("f", &format!("{}.com", long(64))).unwrap_err();
        assert!(error.reason.contains("is no DNS name (labels of up to 63"), "{error}");
        assert_eq!(require_subdomain("f", "").unwrap_err().reason, "missing");
    }
}

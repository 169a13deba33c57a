//! Istio's annotation for the namespaces that a service is exported to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::intern::StringInterner;
use super::names::is_dns_label;
use crate::model::ExportTo;

pub(super) const ANNOTATION: &str = "networking.istio.io/exportTo";

/// A list of namespaces separated by commas, in which `*` is all of them, `.` the service's own
/// and `~` none. An absent or empty annotation means all, as in Istio.
///
/// # Errors
/// What is wrong with it, and that the service is exported to all namespaces then.
pub(super) fn export_to(
    text: Option<&str>,
    own: &Arc<str>,
    strings: &mut StringInterner,
) -> Result<ExportTo, String> {
    let entries: Vec<&str> = text.unwrap_or_default().split(',').map(str::trim).collect();
    match entries.as_slice() {
        [""] | ["*"] => return Ok(ExportTo::Everyone),
        ["~"] => return Ok(ExportTo::Only(Arc::default())),
        _ => {}
    }
    let mut namespaces = BTreeSet::new();
    let mut everyone = false;
    for entry in entries {
        match entry {
            "." => _ = namespaces.insert(own.clone()),
            "*" => everyone = true,
            "~" => return Err(format!("\"~\" (nobody) beside others{TAKEN_FOR_ALL}")),
            name if is_dns_label(name) => _ = namespaces.insert(strings.intern(name)),
            other => {
                let reason = format!("{other:?} is no namespace, \".\", \"*\" or \"~\"");
                return Err(reason + TAKEN_FOR_ALL);
            }
        }
    }
    Ok(if everyone { ExportTo::Everyone } else { ExportTo::Only(namespaces.into_iter().collect()) })
}

const TAKEN_FOR_ALL: &str = ": everybody sees the service, as if it were \"*\"";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Vec<String>>, String> {
        let read = export_to(Some(text), &"shop".into(), &mut StringInterner::default())?;
        Ok(match read {
            ExportTo::Everyone => None,
            ExportTo::Only(namespaces) => {
                Some(namespaces.iter().map(ToString::to_string).collect())
            }
        })
    }

    #[test]
    fn it_names_namespaces_its_own_all_or_none() {
        for text in ["", " ", "*", "*,shop", "a, *"] {
            assert_eq!(read(text), Ok(None), "{text:?}");
        }
        for (text, expected) in
            [("~", &[][..]), (".", &["shop"]), ("b,a", &["a", "b"]), (" b , . ,b", &["b", "shop"])]
        {
            let expected = expected.iter().map(|one| (*one).to_owned()).collect();
            assert_eq!(read(text), Ok(Some(expected)), "{text:?}");
        }
        let absent = export_to(None, &"shop".into(), &mut StringInterner::default());
        assert_eq!(absent, Ok(ExportTo::Everyone));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_done_instead() {
        for (text, part) in
            [("~,a", "beside"), ("a,,b", "\"\""), ("Shop", "\"Shop\""), ("**", "\"**\"")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(part) && error.contains("everybody sees"), "{error}");
        }
    }
}

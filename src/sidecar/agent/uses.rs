//! The list of what a proxy on demand starts with, metadata `USES`: a person's (`--uses`, annotation
//! `pilothouse.io/uses`), then what the proxy used in its former life (`warm_file`). Pure.

use std::collections::HashSet;

use crate::names::{self, MAX_USES_BYTES, MAX_USES_ENTRIES};

/// Of a DNS name; a cluster's name has a little before it.
const MAX_HOST: usize = 253;
const MAX_ENTRY: usize = MAX_HOST + 32;

/// The entries of a list with commas or white space between them, each once: hosts of Services
/// (`reviews`, `ratings.shop`, the full name) and names of clusters (`outbound|PORT||HOST`).
///
/// # Errors
/// What is none, or that there are too many.
pub fn parse_uses(text: &str) -> Result<Vec<String>, String> {
    let mut entries: Vec<String> = Vec::new();
    for entry in names::uses_entries(text) {
        if !is_entry(entry) {
            return Err(format!(
                "{entry:?} is neither a Service's host, like reviews or ratings.shop, nor the name of \
                 a cluster, like outbound|9080||reviews.default.svc.cluster.local"
            ));
        }
        if !entries.iter().any(|one| one == entry) {
            entries.push(entry.to_owned());
        }
    }
    if entries.len() > MAX_USES_ENTRIES || joined_bytes(&entries) > MAX_USES_BYTES {
        return Err(format!(
            "it has {} names of {} bytes; at most {MAX_USES_ENTRIES} of {MAX_USES_BYTES} bytes are read. What is \
             not named comes when it is called",
            entries.len(),
            joined_bytes(&entries)
        ));
    }
    Ok(entries)
}

fn joined_bytes(entries: &[String]) -> usize {
    entries.iter().map(|entry| entry.len() + 1).sum::<usize>().saturating_sub(1)
}

/// Whether the control plane can make something of it.
pub(super) fn is_entry(text: &str) -> bool {
    if text.len() > MAX_ENTRY {
        return false;
    }
    let Some(rest) = text.strip_prefix(names::OUTBOUND) else { return is_host(text) };
    let mut parts = rest.split('|');
    let (port, subset, host, more) = (parts.next(), parts.next(), parts.next(), parts.next());
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
    port.is_some_and(is_port)
        && subset.is_some_and(|subset| subset.is_empty() || names::is_dns_label(subset))
        && host.is_some_and(|host| is_host(host) || is_address(host))
        && more.is_none()
}

fn is_host(text: &str) -> bool {
    let host = text.strip_suffix('.').unwrap_or(text);
    host.len() <= MAX_HOST && host.split('.').all(names::is_dns_label)
}

/// What the control plane is told: `named`, then of `remembered` as many as it reads.
pub(super) fn metadata(named: &[String], remembered: &[String]) -> String {
    let mut seen = HashSet::new();
    let mut text = String::new();
    for entry in named.iter().chain(remembered) {
        if seen.contains(entry) {
            continue;
        }
        let comma = usize::from(!text.is_empty());
        if seen.len() == MAX_USES_ENTRIES || text.len() + comma + entry.len() > MAX_USES_BYTES {
            break;
        }
        if comma == 1 {
            text.push(',');
        }
        text.push_str(entry);
        seen.insert(entry);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_people_write_it() {
        let read = |text: &str| parse_uses(text).unwrap();
        assert_eq!(read(""), Vec::<String>::new());
        assert_eq!(read(" reviews, ratings.shop\n\treviews ,"), ["reviews", "ratings.shop"]);
        let clusters =
            "outbound|80||10.96.1.1 outbound|80||fd00::1 outbound|80|v1|a.b.svc.cluster.local";
        assert_eq!(read(clusters).len(), 3);
        assert_eq!(read("a.b.svc.cluster.local.").len(), 1);
    }

    #[test]
    fn what_is_no_name_is_said() {
        for text in [
            "reviews;ratings",
            "Reviews",
            "*",
            "http://reviews",
            "reviews:80",
            "outbound|80||",
            "outbound|0||a",
            "outbound|80|a",
            "outbound|80||a|b",
            "inbound|80||",
            "$(POD_NAME)",
            "a..b",
        ] {
            let error = parse_uses(text).unwrap_err();
            assert!(error.contains("Service's host"), "{text}: {error}");
        }
        let many: Vec<String> = (0..201).map(|number| format!("s{number}")).collect();
        assert!(parse_uses(&many.join(",")).unwrap_err().contains("at most 200"));
        let long: Vec<String> =
            (0..30).map(|number| format!("{}{number}", "a.".repeat(90))).collect();
        assert!(parse_uses(&long.join(",")).unwrap_err().contains("4096 bytes"));
    }

    #[test]
    fn people_come_first_and_the_bounds_are_kept() {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(metadata(&own(&["b"]), &own(&["a", "b", "c"])), "b,a,c");
        let many: Vec<String> = (0..300).map(|number| format!("s{number}")).collect();
        assert_eq!(metadata(&own(&["first"]), &many).split(',').count(), MAX_USES_ENTRIES);
        let long: Vec<String> =
            (0..99).map(|number| format!("{}{number}", "a.".repeat(40))).collect();
        let text = metadata(&[], &long);
        assert!(text.len() <= MAX_USES_BYTES && text.len() > MAX_USES_BYTES - 90, "{}", text.len());
        assert!(parse_uses(&text).is_ok());
    }
}

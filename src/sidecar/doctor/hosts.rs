//! The hosts file (hosts(5)), which Envoy's resolver reads before it asks any name server: c-ares looks
//! there first, and knows `localhost` by itself (RFC 6761, section 6.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that the file, or the name alone, gives; empty if name servers are to be asked.
pub(super) fn lookup(file: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let mut found = Vec::new();
    for line in file.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        // fe80::1%eth0: the zone is the system's affair.
        let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
        let Some(address) = address else { continue };
        let is_named = words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name));
        if is_named && !found.contains(&address) {
            found.push(address);
        }
    }
    let lower = name.to_ascii_lowercase();
    if found.is_empty() && (lower == "localhost" || lower.ends_with(".localhost")) {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubelet writes it, with hostAliases.
    const POD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost\nnonsense istio-pilot\n10.1.2.3\tdetails-0\n\
        \n# Entries added by HostAliases.\n10.9.9.9\tistio-pilot.istio-system\tPilot.Example.org # x\n";

    fn found(name: &str) -> Vec<String> {
        lookup(POD, name).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_the_file_are_found_whatever_their_case_and_final_dot() {
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("istio-pilot.istio-system"), ["10.9.9.9"]);
        assert_eq!(found("PILOT.example.org."), ["10.9.9.9"]);
        for absent in ["istio-pilot", "x", "details", "HostAliases", ""] {
            assert!(found(absent).is_empty(), "{absent}");
        }
    }

    #[test]
    fn localhost_is_known_without_a_file() {
        for name in ["localhost", "LOCALHOST.", "pilot.localhost"] {
            assert_eq!(lookup("", name).len(), 2, "{name}");
        }
        assert!(lookup("", "localhost.example.org").is_empty());
    }
}

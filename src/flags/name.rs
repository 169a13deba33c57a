//! Names of Kubernetes and DNS.

use crate::names::{is_dns_label, is_trust_domain};

/// A namespace, which is a DNS label.
///
/// # Errors
/// What a namespace is called.
pub fn namespace(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a namespace has a name; leave the flag out for all of them".to_owned()),
        text if is_dns_label(text) => Ok(text.to_owned()),
        _ => Err("a namespace is called by up to 63 of a-z, 0-9 and '-', with no '-' at either \
                  end"
        .to_owned()),
    }
}

/// A DNS domain: in lower case and without the dot at its end, as the names that are made with it
/// are compared byte by byte.
///
/// # Errors
/// What a domain looks like.
pub fn domain(text: &str) -> Result<String, String> {
    let domain = text.trim().to_ascii_lowercase();
    let domain = domain.strip_suffix('.').unwrap_or(&domain);
    match domain.len() <= 253 && domain.split('.').all(is_dns_label) {
        true => Ok(domain.to_owned()),
        false => Err("a DNS domain, as in cluster.local, is made of labels of a-z, 0-9 and '-' \
                      with dots between them"
            .to_owned()),
    }
}

/// The trust domain of SPIFFE ids.
///
/// # Errors
/// What a trust domain looks like.
pub fn trust_domain(text: &str) -> Result<String, String> {
    match is_trust_domain(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a trust domain, as in cluster.local, has up to 253 of a-z, 0-9, '.', '-' and '_'"
                .to_owned())
        }
    }
}

/// The name of a pod, or of a machine that stands for one. It becomes a part of the node id
/// (`type~ip~name.namespace~domain`).
///
/// # Errors
/// What it must not contain.
pub fn pod_name(text: &str) -> Result<String, String> {
    match text.contains(['~', '/']) || text.contains(char::is_whitespace) || text.is_empty() {
        false => Ok(text.to_owned()),
        true => Err("a pod's name has no spaces, no '/' and no '~', which divides the parts of a \
                     node id"
            .to_owned()),
    }
}

/// The audience of a token: any word; Kubernetes compares it to the letter.
///
/// # Errors
/// What it must not contain.
pub fn audience(text: &str) -> Result<String, String> {
    let is_strange = |c: char| c.is_whitespace() || c.is_control();
    match text.is_empty() || text.len() > 512 || text.contains(is_strange) {
        false => Ok(text.to_owned()),
        true => Err("an audience is a word of up to 512 bytes without spaces, as in istio-ca or \
                     https://issuer.example"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_trimmed_and_in_lower_case() {
        for text in ["cluster.local", "cluster.local.", " Cluster.LOCAL "] {
            assert_eq!(domain(text).as_deref(), Ok("cluster.local"), "{text:?}");
        }
        assert_eq!(domain("lab").as_deref(), Ok("lab"));
        for wrong in ["", ".", "a b", "cluster..local", "-a", "a.local..", "a_b", &"a.".repeat(130)]
        {
            assert!(domain(wrong).unwrap_err().contains("cluster.local"), "{wrong:?}");
        }
    }

    #[test]
    fn a_trust_domain_is_what_spiffe_says() {
        assert_eq!(trust_domain("corp_1.example").as_deref(), Ok("corp_1.example"));
        for wrong in ["", "Cluster.local", "spiffe://cluster.local", "a/b", "a b", &"a".repeat(254)]
        {
            assert!(trust_domain(wrong).unwrap_err().contains("cluster.local"), "{wrong:?}");
        }
    }

    #[test]
    fn a_namespace_is_a_label() {
        assert_eq!(namespace("shop-1").as_deref(), Ok("shop-1"));
        assert!(namespace("").unwrap_err().contains("all of them"));
        for wrong in ["Bad Name", "a/b", "a.b", "-a", &"a".repeat(64)] {
            assert!(namespace(wrong).unwrap_err().contains("63"), "{wrong:?}");
        }
    }

    #[test]
    fn an_audience_is_a_word() {
        assert_eq!(audience("https://a.b/c").as_deref(), Ok("https://a.b/c"));
        for wrong in ["", "a b", "a\n", &"a".repeat(513)] {
            assert!(audience(wrong).unwrap_err().contains("istio-ca"), "{wrong:?}");
        }
    }

    #[test]
    fn a_pods_name_stays_one_part_of_the_node_id() {
        assert_eq!(pod_name("details-0").as_deref(), Ok("details-0"));
        assert!(["a~b", "a b", "a/b", ""].iter().all(|wrong| pod_name(wrong).is_err()));
    }
}

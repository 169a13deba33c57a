//! What is checked of values, of flags and of the file of settings alike.

use crate::flags;
use crate::names;
use crate::sidecar::agent;
use crate::well_known::{AGENT_STATUS_PORT, ENVOY_ADMIN_PORT, ENVOY_LISTENER_PORTS};

/// The name of an image: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`. A pod with another one waits for ever, as
/// `InvalidImageName`.
pub(super) fn image(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not the name of an image like registry.example/proxy:1.0");
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let of_digest = |c: char| c.is_ascii_alphanumeric() || "+._-:".contains(c);
    if digest.is_some_and(|digest| !digest.contains(':') || !digest.chars().all(of_digest)) {
        return Err(wrong());
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let of_tag = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_tag = |tag: &str| {
        (1..=128).contains(&tag.len()) && tag.chars().all(of_tag) && !tag.starts_with(['.', '-'])
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(wrong());
    }
    let (host, path) = match path.split_once('/') {
        Some((host, path)) if host == "localhost" || host.contains(['.', ':']) => {
            (Some(host), path)
        }
        _ => (None, path),
    };
    let of_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let of_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let is_part = |part: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        part.chars().all(of_path) && ends(part.chars().next()) && ends(part.chars().last())
    };
    match host.is_none_or(|host| host.chars().all(of_host)) && path.split('/').all(is_part) {
        true => Ok(text.to_owned()),
        false => Err(wrong()),
    }
}

/// As written, for the agent reads it once more.
pub(super) fn duration(text: &str) -> Result<String, String> {
    flags::pause_in_seconds(text).map(|_| text.to_owned())
}

/// The name of a Secret or a ConfigMap.
pub(super) fn object(text: &str) -> Result<String, String> {
    match text.len() <= 253 && text.split('.').all(names::is_dns_label) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not the name of an object in Kubernetes, which is made of a-z, 0-9, '-' and '.'"
        )),
    }
}

/// The name of a cluster, a mesh, or a network: what a label may have as its value.
pub(super) fn word(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = text.len() <= 63
        && text.chars().all(fits)
        && ends(text.chars().next())
        && ends(text.chars().last());
    match valid {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is no name: up to 63 letters, digits, '-', '_' and '.', with a letter or a digit at \
             both ends"
        )),
    }
}

pub(super) fn log_level(text: &str) -> Result<String, String> {
    agent::check_log_level(text).map(|_| text.to_owned())
}

pub(super) fn component_log_levels(text: &str) -> Result<String, String> {
    agent::check_component_log_levels(text).map(|_| text.to_owned())
}

/// A port on which the agent can listen beside its Envoy.
pub(super) fn status_port(text: &str) -> Result<u16, String> {
    let port: u16 = text
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{text:?} is no port, which are 1 to 65535"))?;
    match port == ENVOY_ADMIN_PORT || ENVOY_LISTENER_PORTS.contains(&port) {
        true => {
            Err(format!("{port} is Envoy's own: take another, the default is {AGENT_STATUS_PORT}"))
        }
        false => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_what_a_kubelet_can_pull() {
        for name in [
            "proxy",
            "proxy:0.1.0",
            "library/proxy",
            "registry.example/team/proxy:2",
            "localhost:5000/proxy",
            "Registry.Example:5000/a_b/c--d:V1",
            "proxy@sha256:0123456789abcdef",
            "registry.example/proxy:1@sha256:0123456789abcdef",
            "[fd00::1]:5000/proxy",
        ] {
            assert_eq!(image(name).as_deref(), Ok(name));
        }
        for name in [
            "",
            " proxy",
            "proxy ",
            "Proxy",
            "proxy:",
            "proxy:a b",
            "a//b",
            "/proxy",
            "proxy/",
            "-proxy",
            "proxy@",
            "proxy:-1",
            "http://proxy",
            "proxy@sha256",
        ] {
            assert!(image(name).is_err(), "{name:?}");
        }
    }
}

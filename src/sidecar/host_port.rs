//! `HOST:PORT` as people write it: where a control plane is, by name or address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::well_known::DEFAULT_DISCOVERY_ADDRESS;

/// A host and a port that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

/// What is no [`HostPort`].
#[derive(Debug, Error)]
#[error("{0:?} is not HOST:PORT, as in {DEFAULT_DISCOVERY_ADDRESS} or [fd00::1]:15010")]
pub struct HostPortError(String);

impl HostPort {
    /// The address, if the host is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The Service that a name inside a cluster means: name, and namespace if it is said.
    pub fn service(&self) -> Option<(&str, Option<&str>)> {
        match self.address() {
            Some(_) => None,
            None => service_of_name(&self.host),
        }
    }
}

/// Name and namespace of the Service that `name` means to a resolver inside a cluster: `reviews`,
/// `reviews.shop`, `reviews.shop.svc` or `reviews.shop.svc.DOMAIN`.
pub fn service_of_name(name: &str) -> Option<(&str, Option<&str>)> {
    let mut labels = name.trim_end_matches('.').split('.');
    let (name, namespace) = (labels.next()?, labels.next());
    labels.next().is_none_or(|label| label == "svc").then_some((name, namespace))
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let wrong = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match in_brackets {
            Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
            None => {
                let of_a_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                !host.is_empty() && host.chars().all(of_a_name)
            }
        };
        match valid {
            true => Ok(Self { host: in_brackets.unwrap_or(host).to_owned(), port }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_read_and_written() {
        for text in [DEFAULT_DISCOVERY_ADDRESS, "10.0.0.1:1", "[fd00::1]:15010"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in
            ["istio-pilot", "a:0", "a:b", ":1", "http://a:1", "fd00::1:15010", "[10.0.0.1]:1"]
        {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_name_of_the_cluster_means_a_service() {
        let service = |text: &str| {
            let host_port: HostPort = text.parse().unwrap();
            host_port.service().map(|(name, namespace)| format!("{name}/{namespace:?}"))
        };
        assert_eq!(service("pilot:1").as_deref(), Some("pilot/None"));
        assert_eq!(service("pilot.mesh.svc.lab.:1").as_deref(), Some("pilot/Some(\"mesh\")"));
        assert_eq!(service("pilot.example.com:1"), None);
        assert_eq!(service("10.0.0.1:1"), None);
    }
}

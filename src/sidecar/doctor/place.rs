//! Addresses and services as people write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Why a place cannot be read.
#[derive(Debug, Error)]
pub enum PlaceError {
    #[error("{0:?} is not HOST:PORT, as in istio-pilot.istio-system:15010 or [fd00::1]:15010")]
    HostPort(String),
    #[error("{0:?} is not NAME[.NAMESPACE][:PORT], as in reviews.default:9080")]
    Service(String),
}

impl HostPort {
    /// The address, if it is none by name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The Service that a name inside a cluster means: name, and namespace if it is said.
    pub(super) fn service(&self) -> Option<(&str, Option<&str>)> {
        if self.address().is_some() {
            return None;
        }
        let mut labels = self.host.trim_end_matches('.').split('.');
        let (name, namespace) = (labels.next()?, labels.next());
        // reviews, reviews.shop, reviews.shop.svc, reviews.shop.svc.DOMAIN
        labels.next().is_none_or(|label| label == "svc").then_some((name, namespace))
    }
}

impl FromStr for HostPort {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match (bare, host) {
            (Some(v6), _) if v6.parse::<IpAddr>().is_ok() => Ok(Self { host: v6.to_owned(), port }),
            (None, host) if !host.is_empty() && !host.contains([':', '/', ' ']) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A service, and maybe one port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    pub name: String,
    /// `None` for the namespace that is looked at from, else `default`.
    pub namespace: Option<String>,
    pub port: Option<u16>,
}

impl FromStr for ServiceName {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::Service(text.to_owned());
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let place = HostPort { host: host.to_owned(), port: 0 };
        let (name, namespace) = place.service().ok_or_else(wrong)?;
        if name.is_empty() || namespace == Some("") {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), namespace: namespace.map(str::to_owned), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for text in ["istio-pilot.istio-system:15010", "10.0.0.1:1", "[fd00::1]:15010"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["istio-pilot", "a:0", "a:b", ":1", "http://a:1", "fd00::1:15010"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_is_read_in_every_form_of_its_name() {
        let read = |text: &str| {
            let service: ServiceName = text.parse().unwrap();
            (service.name, service.namespace, service.port)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("reviews"), ("reviews".into(), None, None));
        assert_eq!(read("reviews.shop:9080"), ("reviews".into(), some("shop"), Some(9080)));
        assert_eq!(read("reviews.shop.svc.cluster.local"), ("reviews".into(), some("shop"), None));
        for text in ["", ".shop", "reviews:http", "a.b.example.com"] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
    }
}

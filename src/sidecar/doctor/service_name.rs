//! The service that `--service` names.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use crate::sidecar::host_port::service_of_name;

/// What is no [`ServiceName`].
#[derive(Debug, Error)]
#[error("{0:?} is not NAME[.NAMESPACE][:PORT], as in reviews.default:9080")]
pub struct ServiceNameError(String);

/// A service, and maybe one port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    pub name: String,
    /// `None` for the namespace that is looked at from, else `default`.
    pub namespace: Option<String>,
    pub port: Option<u16>,
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let wrong = || ServiceNameError(text.to_owned());
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        // An address is no name, although it has dots.
        let is_name = host.parse::<IpAddr>().is_err();
        let found = service_of_name(host).filter(|_| is_name);
        let (name, namespace) = found.ok_or_else(wrong)?;
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

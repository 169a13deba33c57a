//! The protocol of a port.

use crate::model::Protocol;
use crate::names::PortProtocol;

/// By Istio's rule ([`PortProtocol::from_port`]). An undeclared protocol is TCP: Pilothouse does not sniff.
pub(super) fn protocol_of(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    match PortProtocol::from_port(app_protocol, port_name) {
        PortProtocol::Http => Protocol::Http,
        PortProtocol::Http2 => Protocol::Http2,
        PortProtocol::Grpc => Protocol::Grpc,
        PortProtocol::Tls => Protocol::Tls,
        PortProtocol::Tcp | PortProtocol::Unknown => Protocol::Tcp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_wins_then_the_names_prefix_then_tcp() {
        use Protocol::{Grpc, Http, Http2, Tcp, Tls};
        for (app_protocol, name, expected) in [
            (Some("kubernetes.io/h2c"), "tcp", Http2),
            (Some("kubernetes.io/ws"), "", Http),
            (Some("kubernetes.io/wss"), "http", Tls),
            (Some("HTTP"), "tcp-web", Http),
            (Some("http2"), "", Http2),
            (Some("grpc"), "", Grpc),
            (Some("grpc-web"), "", Grpc),
            (Some("https"), "http", Tls),
            (Some("tls"), "", Tls),
            (Some("tcp"), "http", Tcp),
            (Some("mongo"), "http", Tcp),
            (Some("redis"), "http", Tcp),
            (Some("mysql"), "http", Tcp),
            (Some("example.com/own"), "http", Tcp),
            (Some(""), "http", Http),
            (None, "http", Http),
            (None, "http-web", Http),
            (None, "http2-api", Http2),
            (None, "grpc-api", Grpc),
            (None, "grpc-web-ui", Grpc),
            (None, "https", Tls),
            (None, "tls-x", Tls),
            (None, "tcp-http", Tcp),
            (None, "httpd", Tcp),
            (None, "", Tcp),
        ] {
            assert_eq!(protocol_of(app_protocol, name), expected, "{app_protocol:?} {name:?}");
        }
    }
}

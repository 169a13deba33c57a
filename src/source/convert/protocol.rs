//! What a port speaks.

use crate::model::Protocol;

/// Istio's rule (pkg/config/kube/conversion.go): `appProtocol` decides alone where it is set, else
/// the port's name up to the first '-'. What neither tells is TCP: Pilothouse does not sniff.
pub(super) fn protocol_of(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    let hint = match app_protocol {
        None | Some("") => port_name,
        Some("kubernetes.io/h2c") => return Protocol::Http2,
        Some("kubernetes.io/ws") => return Protocol::Http,
        Some("kubernetes.io/wss") => return Protocol::Tls,
        Some(other) => other,
    };
    let hint = hint.to_ascii_lowercase();
    match hint.split('-').next().unwrap_or_default() {
        "http" | "http_proxy" => Protocol::Http,
        "http2" => Protocol::Http2,
        // grpc-web as well, which Istio speaks in HTTP/2 too.
        "grpc" => Protocol::Grpc,
        "https" | "tls" => Protocol::Tls,
        // tcp, mongo, mysql, redis and everything unknown.
        _ => Protocol::Tcp,
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

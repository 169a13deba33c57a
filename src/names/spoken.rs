//! The protocol that a Service declares for a port.

/// The protocols that `appProtocol` and port names distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    Http,
    Http2,
    Grpc,
    Tls,
    /// TCP, or something that is carried as TCP: mongo, mysql, redis.
    Tcp,
    /// None that is known: it is carried as TCP, which is not always intended.
    Unknown,
}

impl PortProtocol {
    /// Istio's rule (pkg/config/kube/conversion.go): `appProtocol` decides alone where it is set,
    /// else the port's name up to the first '-'.
    pub fn from_port(app_protocol: Option<&str>, port_name: &str) -> Self {
        let hint = match app_protocol {
            None | Some("") => port_name,
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Tls,
            Some(other) => other,
        };
        let hint = hint.to_ascii_lowercase();
        match hint.split('-').next().unwrap_or_default() {
            "http" | "http_proxy" => Self::Http,
            "http2" => Self::Http2,
            // grpc-web as well, which Istio speaks in HTTP/2 too.
            "grpc" => Self::Grpc,
            "https" | "tls" => Self::Tls,
            "tcp" | "udp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            _ => Self::Unknown,
        }
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

//! What a Service's port says that it speaks.

/// The protocols that names tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http,
    Http2,
    Grpc,
    Tls,
    /// TCP, or something that is carried as TCP: mongo, mysql, redis.
    Tcp,
    /// Nothing that is known: it is carried as TCP, which is not always meant.
    Unsaid,
}

impl Spoken {
    /// Istio's rule (pkg/config/kube/conversion.go): `appProtocol` decides alone where it is set,
    /// else the port's name up to the first '-'.
    pub fn by(app_protocol: Option<&str>, port_name: &str) -> Self {
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
            _ => Self::Unsaid,
        }
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

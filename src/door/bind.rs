//! Binding a listening socket, and why it may fail.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use thiserror::Error;
use tokio::net::TcpListener;

/// Why an address cannot be bound, and what to do.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({flag}): {error}. {advice}")]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    error: io::Error,
    advice: String,
}

/// Binds a listening socket. `taken` has the addresses that this process listens on already, with their
/// flags.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(
    flag: &'static str,
    address: SocketAddr,
    taken: &[(&'static str, SocketAddr)],
) -> Result<TcpListener, BindError> {
    let listener = pilothouse_xds_server::listener::listen(address);
    listener.map_err(|error| BindError {
        flag,
        address,
        advice: advice(flag, address, error.kind(), taken),
        error,
    })
}

fn advice(
    flag: &str,
    address: SocketAddr,
    kind: ErrorKind,
    taken: &[(&'static str, SocketAddr)],
) -> String {
    let port = address.port();
    let own = taken.iter().find(|(_, other)| overlap(address, *other));
    match (kind, own) {
        (ErrorKind::AddrInUse, Some((other, _))) => {
            format!("{other} has this port already: give {flag} or {other} another one")
        }
        (ErrorKind::AddrInUse, None) => format!(
            "Another process listens there (ss -ltnp sport = :{port} shows which): end it, or choose \
             another address with {flag}"
        ),
        (ErrorKind::PermissionDenied, _) => format!(
            "A port below 1024 takes root or the capability NET_BIND_SERVICE: choose a higher one \
             with {flag}"
        ),
        (ErrorKind::AddrNotAvailable, _) => format!(
            "{} is no address of this machine: give {flag} one that it has, or {} for all of them",
            address.ip(),
            if address.is_ipv4() { "0.0.0.0" } else { "[::]" }
        ),
        _ => format!("Choose another address with {flag}"),
    }
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && same_host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_cause_has_its_own_sentence() {
        let first = bind("--grpc-addr", "127.0.0.1:0".parse().unwrap(), &[]).await.unwrap();
        let address = first.local_addr().unwrap();
        let of_another = bind("--http-addr", address, &[]).await.unwrap_err().to_string();
        assert!(of_another.contains("Another process listens there"), "{of_another}");
        assert!(of_another.contains(&format!(":{}", address.port())), "{of_another}");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let taken = [("--grpc-addr", address)];
        let own = bind("--http-addr", everywhere, &taken).await.unwrap_err().to_string();
        assert!(own.contains("--grpc-addr has this port already"), "{own}");
        // Set aside for documentation, so nobody's.
        let foreign = bind("--grpc-addr", "192.0.2.1:0".parse().unwrap(), &[]).await.unwrap_err();
        assert!(
            foreign.to_string().contains("192.0.2.1 is no address of this machine"),
            "{foreign}"
        );
        let low = advice("--grpc-addr", address, ErrorKind::PermissionDenied, &[]);
        assert!(low.contains("below 1024") && low.contains("--grpc-addr"), "{low}");
    }
}

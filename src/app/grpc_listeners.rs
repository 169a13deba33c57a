//! The listeners of xDS: without TLS, with TLS, or both. They share their limits.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::certificates::Certificates;
use crate::door::{ConnectionLimits, LimitedListener, ListenerStats, ServedListener};

/// Their names in metrics and log: without TLS, and with it.
pub(super) const DOORS: [&str; 2] = ["gRPC", "secure gRPC"];

/// What ends when one of them is lost.
const PARTS: [&str; 2] = ["gRPC listener", "secure gRPC listener"];

pub(super) struct GrpcListeners(Vec<(&'static str, SocketAddr, LimitedListener)>);

impl GrpcListeners {
    /// Of listeners by their names of [`DOORS`].
    pub(super) fn new(
        bound: Vec<(&'static str, (TcpListener, SocketAddr))>,
        limits: ConnectionLimits,
    ) -> Self {
        let mut all: Vec<(_, _, LimitedListener)> = Vec::new();
        for (door, (listener, address)) in bound {
            let limited = match all.first() {
                None => LimitedListener::new(door, listener, limits),
                Some((.., first)) => first.sharing_limits(door, listener),
            };
            all.push((door, address, limited));
        }
        Self(all)
    }

    pub(super) fn plaintext_address(&self) -> Option<SocketAddr> {
        self.address(DOORS[0])
    }

    pub(super) fn secure_address(&self) -> Option<SocketAddr> {
        self.address(DOORS[1])
    }

    fn address(&self, wanted: &str) -> Option<SocketAddr> {
        self.0.iter().find(|(door, ..)| *door == wanted).map(|(_, address, _)| *address)
    }

    /// Each with the name of the part that ends when it is lost.
    pub(super) fn stats(&self) -> Vec<(&'static str, ListenerStats)> {
        let part = |door: &str| PARTS[usize::from(door == DOORS[1])];
        self.0.iter().map(|(door, _, listener)| (part(door), listener.stats())).collect()
    }

    /// As they are served; the one with TLS only if there are certificates.
    pub(super) fn served(self, certificates: Option<&Certificates>) -> Vec<ServedListener> {
        let (plaintext, secure) = (self.plaintext_address(), self.secure_address());
        let for_plaintext = match secure {
            Some(address) => {
                format!("TLS is served on port {} (--secure-grpc-addr).", address.port())
            }
            None => "TLS is not served (--tls-cert, --tls-key).".to_owned(),
        };
        let for_secure = match plaintext {
            Some(address) => {
                format!("gRPC without TLS is served on port {} (--grpc-addr).", address.port())
            }
            None => "gRPC without TLS is not served (--grpc-addr off).".to_owned(),
        };
        let served = self.0.into_iter().filter_map(|(door, _, listener)| {
            if door == DOORS[0] {
                return Some(ServedListener::plaintext(listener).with_hint(&for_plaintext));
            }
            let acceptor = certificates?.acceptor().clone();
            Some(ServedListener::tls(listener, acceptor).with_hint(&for_secure))
        });
        served.collect()
    }
}

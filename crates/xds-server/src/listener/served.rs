//! A listener of the xDS server: with TLS or without, and what peers are told that speak something else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tracing::warn;

use super::{LOG_INTERVAL, LimitedListener};
use crate::tls::TlsAcceptor;

/// A listener that the xDS server serves.
#[derive(Debug)]
pub struct ServedListener {
    pub(crate) listener: LimitedListener,
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
    hint: Arc<str>,
}

impl ServedListener {
    /// One without TLS.
    pub fn plaintext(listener: LimitedListener) -> Self {
        Self { listener, tls: None, hint: Arc::default() }
    }

    /// One whose connections begin with a TLS handshake.
    pub fn tls(listener: LimitedListener, acceptor: Arc<TlsAcceptor>) -> Self {
        Self { listener, tls: Some(acceptor), hint: Arc::default() }
    }

    /// Where a peer that speaks plaintext here instead of TLS, or TLS instead of plaintext, should have gone:
    /// a sentence for it and for the log.
    #[must_use]
    pub fn with_hint(self, hint: &str) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Divides it into what accepts and what its connections know of it.
    pub(crate) fn divide(self) -> (LimitedListener, Arc<ServedPort>) {
        let Self { listener, tls, hint } = self;
        let name = listener.stats().name;
        (listener, Arc::new(ServedPort { name, tls, hint, wrong: Mutex::default() }))
    }
}

/// What the connections of a listener know of it.
#[derive(Debug)]
pub(crate) struct ServedPort {
    pub(crate) name: &'static str,
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
    pub(crate) hint: Arc<str>,
    // A std mutex, never held across an await.
    wrong: Mutex<WrongProtocols>,
}

/// When peers that speak the wrong protocol were last logged, and how many came since.
#[derive(Debug, Default)]
struct WrongProtocols {
    last_logged: Option<Instant>,
    unlogged: u64,
}

impl ServedPort {
    /// A peer has spoken this here; logged, but not more often than every half minute.
    pub(crate) fn note_wrong_protocol(&self, peer: SocketAddr, spoke: &str) {
        let times = {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.unlogged += 1;
            if wrong.last_logged.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
                return;
            }
            wrong.last_logged = Some(Instant::now());
            std::mem::take(&mut wrong.unlogged)
        };
        let wanted = if self.tls.is_some() { "TLS" } else { "plaintext" };
        warn!(
            door = self.name, %peer, times,
            "a peer speaks {spoke} on the port for {wanted} and was refused. {}", self.hint
        );
    }
}

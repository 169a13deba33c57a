//! What the verification of tokens counts.

use prometheus_client::metrics::counter::Counter;

/// What became of a ServiceAccount token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenOutcome {
    Valid,
    /// No token, too long, or with something that is not understood.
    Malformed,
    /// Of another issuer.
    Issuer,
    /// Of a key that the issuer does not publish.
    Key,
    Signature,
    /// Expired, or not valid yet.
    Time,
    Audience,
    /// Not of a ServiceAccount.
    Subject,
    /// The API server does not accept it.
    Rejected,
    /// It cannot be told: no keys, or no answer.
    Unavailable,
}

impl TokenOutcome {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Valid, "valid"),
        (Self::Malformed, "malformed"),
        (Self::Issuer, "issuer"),
        (Self::Key, "key"),
        (Self::Signature, "signature"),
        (Self::Time, "time"),
        (Self::Audience, "audience"),
        (Self::Subject, "subject"),
        (Self::Rejected, "rejected"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// Counters by what became of tokens, and of fetches of keys. No issuer, key or identity is a label.
#[derive(Debug, Default)]
pub struct TokenMetrics {
    verifications: [Counter; TokenOutcome::ALL.len()],
    fetched: Counter,
    fetches_failed: Counter,
}

impl TokenMetrics {
    pub(super) fn verified(&self, outcome: TokenOutcome) {
        self.verifications[outcome as usize].inc();
    }

    pub(super) fn keys_fetched(&self, succeeded: bool) {
        if succeeded {
            self.fetched.inc()
        } else {
            self.fetches_failed.inc()
        };
    }

    /// Each result by its name.
    pub fn verifications(&self) -> impl Iterator<Item = (&'static str, Counter)> + '_ {
        TokenOutcome::ALL
            .iter()
            .zip(&self.verifications)
            .map(|((_, name), counter)| (*name, counter.clone()))
    }

    /// Likewise.
    pub fn key_fetches(&self) -> [(&'static str, Counter); 2] {
        [("fetched", self.fetched.clone()), ("failed", self.fetches_failed.clone())]
    }
}

//! Who a peer is, and what it may claim: principals from certificates' names and tokens, pure but for the
//! verification of tokens.
//!
//! A principal is a ServiceAccount, written as SPIFFE has it (`spiffe://TRUST-DOMAIN/ns/NS/sa/SA`), whichever
//! way it was proven. [`san`] reads the names of a certificate, [`claim`] compares what a proxy says of itself
//! with who it is, [`allowed`] has the lists of identities that flags name, and [`tokens`] verifies tokens.

use std::fmt;
use std::sync::Arc;

pub mod allowed;
pub mod authenticate;
pub mod claim;
pub mod san;
pub mod tokens;

pub use allowed::{ActFor, Readers};
pub use authenticate::{Authenticated, Authenticator, Proof};
pub use claim::{Claim, ClaimError};
pub use san::{CertificateNames, SanError};

/// A ServiceAccount that a peer has been authenticated as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// Usually `cluster.local`.
    pub trust_domain: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// As a SPIFFE id.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

#[cfg(test)]
mod tests;

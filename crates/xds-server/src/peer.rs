//! What a peer has shown of who it is. The user's [`Mesh`](crate::Mesh) says what that is worth.

use std::sync::Arc;
use std::time::SystemTime;

/// A client certificate that the TLS handshake has verified against the configured CA.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerCertificate {
    /// URI names of the subject (SAN), in the certificate's order.
    pub uri_names: Vec<Arc<str>>,
    /// DNS names of the subject (SAN), in the certificate's order.
    pub dns_names: Vec<Arc<str>>,
    /// From when on the certificate is no longer valid.
    pub not_after: SystemTime,
}

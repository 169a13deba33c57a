//! What a peer has shown of who it is. The user's [`Mesh`](crate::Mesh) says what that is worth.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use thiserror::Error;
use tonic::Status;

/// Bytes of a bearer token. A ServiceAccount token has about 1 KiB; the header block of a request, which it
/// is part of, has 16 KiB at most.
const MAX_BEARER: usize = 16 << 10;

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

/// What a stream brings along to say who its peer is. Nothing in it is believed before
/// [`Mesh::authenticate`](crate::Mesh::authenticate) has looked at it, the certificate excepted, whose
/// chain the TLS handshake has verified.
#[derive(Clone, Copy)]
pub struct PeerCredentials<'a> {
    /// Where the connection comes from; an IPv4 address in its own form.
    pub address: IpAddr,
    /// Whether the connection is encrypted. What came in the clear may have been read by others.
    pub encrypted: bool,
    pub certificate: Option<&'a PeerCertificate>,
    /// The token of the header `authorization: Bearer TOKEN`, a secret: never to be logged.
    pub bearer: Option<&'a str>,
}

impl fmt::Debug for PeerCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, encrypted, certificate, bearer } = self;
        f.debug_struct("PeerCredentials")
            .field("address", address)
            .field("encrypted", encrypted)
            .field("certificate", certificate)
            .field("bearer", &bearer.map(|_| "…"))
            .finish()
    }
}

/// Why a stream is not served; its text is what the peer is told.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// What the peer sent makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// The peer must say who it is, or what it showed of it does not hold.
    #[error("{0}")]
    Unauthenticated(String),
    /// It is known who the peer is, and it may not do this.
    #[error("{0}")]
    PermissionDenied(String),
    /// It cannot be told now; the peer is to try again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidArgument(text) => Self::invalid_argument(text),
            Refusal::Unauthenticated(text) => Self::unauthenticated(text),
            Refusal::PermissionDenied(text) => Self::permission_denied(text),
            Refusal::Unavailable(text) => Self::unavailable(text),
        }
    }
}

/// Whom limits are counted by: the peer's principal once it is authenticated, its address before that and
/// where there is none.
///
/// Many proxies behind one address do not share an account then, and one principal at many addresses does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKey {
    Address(IpAddr),
    /// As [`Mesh::Principal`](crate::Mesh::Principal) is displayed.
    Principal(Arc<str>),
}

impl PeerKey {
    /// An IPv4 address in IPv6 form is the same peer.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Principal(principal) => f.write_str(principal),
        }
    }
}

/// The token of an `authorization` header, kept until the stream is authenticated.
pub(crate) struct BearerToken(Box<str>);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken")
    }
}

/// The bearer token of a request's headers, if there is an `authorization` header.
///
/// # Errors
/// It is no bearer token, or there are several. The text does not quote it.
pub fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Ok(None) };
    let token = token_of(first.as_bytes()).filter(|_| given.next().is_none());
    match token {
        Some(token) => Ok(Some(token)),
        None => Err(Refusal::Unauthenticated(format!(
            "the authorization header must be `Bearer TOKEN`, once, with a token of at most {MAX_BEARER} \
                 bytes"
        ))),
    }
}

impl BearerToken {
    /// The token of a request's headers, if there is one. On a connection that is not encrypted, anything
    /// else in the header is passed over, as it always was.
    ///
    /// # Errors
    /// See [`bearer_token`].
    pub(crate) fn of(headers: &HeaderMap, encrypted: bool) -> Result<Option<Self>, Refusal> {
        match bearer_token(headers) {
            Ok(token) => Ok(token.map(|token| Self(token.into()))),
            Err(_) if !encrypted => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// `Bearer`, in any case, spaces, and the characters of a token68 (RFC 6750, RFC 9110 section 11.2).
fn token_of(value: &[u8]) -> Option<&str> {
    let (scheme, token) = str::from_utf8(value).ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (scheme.eq_ignore_ascii_case("bearer")
        && (1..=MAX_BEARER).contains(&token.len())
        && token.bytes().all(allowed))
    .then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&[u8]], encrypted: bool) -> Result<Option<String>, Refusal> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        let token = BearerToken::of(&headers, encrypted)?;
        Ok(token.map(|token| token.as_str().to_owned()))
    }

    #[test]
    fn a_bearer_token_is_read_and_nothing_else_is_taken_for_one() {
        assert_eq!(read(&[], true), Ok(None));
        for good in ["Bearer a.b-c_d~e+f/g==", "bearer a.b-c_d~e+f/g==", "BEARER   a.b-c_d~e+f/g=="]
        {
            assert_eq!(read(&[good.as_bytes()], true).unwrap().unwrap(), "a.b-c_d~e+f/g==");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_BEARER));
        assert!(read(&[long.as_bytes()], true).unwrap().is_some());
        let too_long = format!("{long}x");
        let bad: [&[&[u8]]; 8] = [
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Basic dXNlcjpzZWNyZXQ="],
            &[b"Bearer one two"],
            &[b"Bearer \xff\xfe"],
            &[b"Bearer one", b"Bearer two"],
            &[too_long.as_bytes()],
        ];
        for values in bad {
            let Err(Refusal::Unauthenticated(text)) = read(values, true) else {
                panic!("{values:?} was taken for a token")
            };
            assert!(text.starts_with("the authorization header must be `Bearer TOKEN`"), "{text}");
            assert!(!text.contains("secret") && !text.contains("dXNl"), "{text}");
            assert_eq!(read(values, false), Ok(None));
        }
    }

    #[test]
    fn what_is_printed_of_credentials_has_no_secret() {
        let credentials = PeerCredentials {
            address: [10, 0, 0, 1].into(),
            encrypted: true,
            certificate: None,
            bearer: Some("very-secret"),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
        assert_eq!(format!("{:?}", BearerToken("very-secret".into())), "BearerToken");
    }

    #[test]
    fn an_address_is_the_same_peer_in_either_form_and_no_principal_is_an_address() {
        let plain = PeerKey::of_address([10, 0, 0, 1].into());
        assert_eq!(plain, PeerKey::of_address("::ffff:10.0.0.1".parse().unwrap()));
        assert_eq!(plain.to_string(), "10.0.0.1");
        assert_ne!(plain, PeerKey::Principal("10.0.0.1".into()));
    }
}

//! What keeps web pages in an operator's own browser out, who may read from another machine, and what a
//! browser may make of an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pilothouse_xds_server::peer::bearer_token;
use pilothouse_xds_server::{PeerCertificate, PeerCredentials, Refusal};
use tonic::Status;
use tracing::warn;

use crate::identity::{Authenticator, Readers};
use crate::local_host::foreign_host;

/// Much of what the pages show was said by peers. It is sent as data, never to be taken for markup
/// or script, nor read from another site; and it is about now, so nobody should keep it.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        // The page for people says itself what it may do.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Refuses requests for a host that is not this machine's own name or an address.
///
/// A web page can let its own name point to 127.0.0.1 and then read what is served there (DNS
/// rebinding), but its requests carry its name. A browser always sends one, so a request without is
/// from a program that can be told to.
pub(super) async fn local_hosts_only(request: Request, next: Next) -> Response {
    match foreign_host(&request) {
        None => next.run(request).await,
        Some(host) => {
            let said = format!(
                "The debug pages are on loopback: ask for localhost or an IP address, not for \
                 {host:?}.\n"
            );
            (StatusCode::FORBIDDEN, said).into_response()
        }
    }
}

/// Whether a peer of another port may read what the debug pages show without an identity: one on this machine
/// may, as it could ask the debug port.
pub(super) fn is_local(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// Who may read the pages over TLS, from any machine.
#[derive(Clone, Debug)]
pub struct ReaderGuard {
    pub authenticator: Authenticator,
    /// Those of `--debug-identities`.
    pub readers: Readers,
}

impl ReaderGuard {
    /// Whether the sender of a request may read the pages.
    ///
    /// # Errors
    /// It is nobody that is known, or nobody who may.
    async fn check(&self, request: &Parts) -> Result<(), Refusal> {
        let Self { authenticator, readers } = self;
        let extensions = &request.extensions;
        let address = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let certificate = extensions.get::<Arc<PeerCertificate>>().map(|shown| &**shown);
        let credentials = PeerCredentials {
            address: address.unwrap_or(IpAddr::from([0; 4])).to_canonical(),
            encrypted: true,
            certificate,
            bearer: bearer_token(&request.headers)?,
        };
        match authenticator.authenticate(credentials, SystemTime::now()).await? {
            None => Err(Refusal::Unauthenticated(
                "The debug pages show all configuration: ask with a client certificate that names \
                 spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or with the token of a ServiceAccount as \
                 `authorization: Bearer TOKEN`, of an account that --debug-identities names"
                    .to_owned(),
            )),
            Some(found) if readers.has(&found.principal) => Ok(()),
            Some(found) => Err(Refusal::PermissionDenied(format!(
                "{} may not read the debug pages: --debug-identities does not name {}/{}",
                found.principal, found.principal.namespace, found.principal.service_account
            ))),
        }
    }
}

/// Refuses requests of those who may not read the pages, gRPC calls by a status of gRPC.
pub(super) async fn readers_only(
    State(guard): State<ReaderGuard>,
    request: Request,
    next: Next,
) -> Response {
    // Of a request with its body no reference can be held while the token is verified.
    let (parts, body) = request.into_parts();
    let refusal = match guard.check(&parts).await {
        Ok(()) => return next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal,
    };
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    warn!(?peer, "debug page refused: {refusal}");
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    if content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc")) {
        return Status::from(refusal).into_http();
    }
    let status = match refusal {
        Refusal::InvalidArgument(_) => StatusCode::BAD_REQUEST,
        Refusal::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        Refusal::PermissionDenied(_) => StatusCode::FORBIDDEN,
        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = (status, format!("{refusal}.\n")).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

//! What keeps web pages in an operator's own browser out, and what a browser may make of an answer.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

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

/// Whether a peer of another port may read what the debug pages show: one on this machine may, and where
/// the pages are open to other machines (`address`, of their listener) everybody may.
pub(super) fn may_read(peer: IpAddr, address: IpAddr) -> bool {
    peer.to_canonical().is_loopback() || !address.to_canonical().is_loopback()
}

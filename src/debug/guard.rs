//! What keeps web pages in an operator's own browser out, and what a browser may make of an answer.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

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

/// A host that the request names and that is not local. There are several places to name one: the
/// header, again and again, and the target if it is a whole URL. All must agree.
fn foreign_host(request: &Request) -> Option<String> {
    let headers = request.headers().get_all(header::HOST).iter();
    let mut named: Vec<_> =
        headers.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).collect();
    named.extend(request.uri().authority().map(ToString::to_string));
    if named.is_empty() {
        return Some(String::new());
    }
    named.into_iter().find(|host| !is_local(host))
}

/// Whether `HOST[:PORT]` is a name of this machine, or an address: that is looked up by nobody.
fn is_local(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            let address = address.split_once('%').map_or(address, |(address, _zone)| address);
            address.parse::<Ipv6Addr>().is_ok() && is_port(port)
        });
    }
    let (host, port) = match authority.find(':') {
        Some(colon) => authority.split_at(colon),
        None => (authority, ""),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_own_name = host == "localhost" || host.ends_with(".localhost");
    (is_own_name || host.parse::<Ipv4Addr>().is_ok()) && is_port(port)
}

/// Nothing, or a colon and digits; the digits may be missing (RFC 3986).
fn is_port(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    text.is_empty() || text.strip_prefix(':').is_some_and(digits)
}

//! Which requests to a page on loopback come from this machine's own user: those for a name of this machine.
//!
//! A web page can let its own name point to 127.0.0.1 and then read what is served there (DNS rebinding), but
//! its requests carry its name.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{Request, header};

/// A host that the request names and that is not local. There are several places to name one: the
/// header, again and again, and the target if it is a whole URL. All must agree.
#[must_use]
pub fn foreign_host<B>(request: &Request<B>) -> Option<String> {
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

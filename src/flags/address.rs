//! Addresses of sockets, as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

/// Where to listen: `IP:PORT`, `NAME:PORT`, or `:PORT` for every address of this machine.
///
/// # Errors
/// What was expected instead.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    read(text, everywhere(), "every address of this machine")
}

/// Where to listen likewise, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    At(SocketAddr),
    Off,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

/// The same as [`listen_address`], or `off`.
///
/// # Errors
/// What was expected instead.
pub fn listen_or_off(text: &str) -> Result<Listen, String> {
    match text.trim() {
        "off" => Ok(Listen::Off),
        address => listen_address(address).map(Listen::At),
    }
}

/// Where to listen for this machine alone, likewise; `:PORT` is its loopback address.
///
/// # Errors
/// What was expected instead, or the address is not on loopback.
pub fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = read(text, Ipv4Addr::LOCALHOST.into(), "loopback")?;
    // An IPv4 address in IPv6 form is the same loopback.
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => Err(format!(
            "{} is not on loopback, and whoever asks here is asked for nothing: for other machines give \
             --secure-http-addr, which has TLS and readers that prove who they are",
            address.ip()
        )),
    }
}

/// Where another program is to listen, likewise, so that it cannot be a port of its choice: nobody
/// would know which.
///
/// # Errors
/// What was expected instead.
pub fn known_address(text: &str) -> Result<SocketAddr, String> {
    let address = listen_address(text)?;
    match address.port() {
        0 => Err("it must name a port: nobody would know which one Envoy has chosen".to_owned()),
        _ => Ok(address),
    }
}

/// What to connect to, likewise; `:PORT` is this machine's.
///
/// # Errors
/// What was expected instead.
pub fn peer_address(text: &str) -> Result<SocketAddr, String> {
    let address = read(text, Ipv4Addr::LOCALHOST.into(), "this machine")?;
    match address.port() {
        0 => Err("nobody can be found at port 0".to_owned()),
        _ => Ok(address),
    }
}

fn read(text: &str, without_host: IpAddr, meaning: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let expected = || {
        format!(
            "it must be ADDRESS:PORT, as in 127.0.0.1:15010, localhost:15010 or [::1]:15010, or \
             :15010 for {meaning}"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 =
        port.parse().map_err(|_| match port.bytes().all(|byte| byte.is_ascii_digit()) {
            true if !port.is_empty() => format!("{port} is no port number, which are 0 to 65535"),
            _ => expected(),
        })?;
    if host.is_empty() {
        return Ok((without_host, port).into());
    }
    // An IPv6 address without its brackets would be taken apart at the wrong colon.
    if host.contains([':', '/', '[', ']']) || host.contains(char::is_whitespace) {
        return Err(expected());
    }
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            format!("the name {host:?} leads to no address ({error}); {}", expected())
        })?
        .collect();
    // One listener has one address. IPv4 first, as Go has it.
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or(found.first())
        .copied()
        .ok_or_else(|| format!("the name {host:?} leads to no address; {}", expected()))
}

/// IPv6's wildcard serves both families, but may not be had where the kernel has no IPv6.
fn everywhere() -> IpAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_a_port_alone_is_every_address() {
        let read = |text| listen_address(text).unwrap();
        assert_eq!(read("localhost:15010").to_string(), "127.0.0.1:15010");
        assert_eq!(read("[::1]:15010").to_string(), "[::1]:15010");
        assert_eq!((read(":15010").ip(), read(":15010").port()), (everywhere(), 15010));
        assert!(read(":15010").ip().is_unspecified());
        assert_eq!(read("127.0.0.1:0").port(), 0);
        assert_eq!(peer_address(":15000").unwrap().to_string(), "127.0.0.1:15000");
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for wrong in ["", "15010", "localhost", "127.0.0.1", "::1:x", "http://a:1", "a b:1", ":"] {
            let error = listen_address(wrong).unwrap_err();
            assert!(error.contains("127.0.0.1:15010"), "{wrong}: {error}");
        }
        let error = listen_address("no-such-host.invalid:15010").unwrap_err();
        assert!(error.contains("no-such-host.invalid") && error.contains("no address"), "{error}");
        assert!(listen_address("127.0.0.1:70000").unwrap_err().contains("65535"));
        assert!(peer_address("127.0.0.1:0").unwrap_err().contains("port 0"));
        assert!(known_address("127.0.0.1:0").unwrap_err().contains("must name a port"));
    }
}

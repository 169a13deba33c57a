//! What an endpoint does with a connection: whether it takes it, who speaks first, and, where HTTP is
//! spoken to it, what it answers. An endpoint with a sidecar takes every connection and never speaks
//! first, since its Envoy waits for the request; what is behind that Envoy shows in the answer that it
//! makes itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect::{self, ConnectError, Protocol};
use crate::names::PortProtocol;

/// Endpoints of a port that are tried: if all of these have the same fault, so have the others.
const MAX_PROBED: usize = 3;
/// How long a server that speaks first may take to begin.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a server may take to answer; one that takes longer is not judged.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// As much of an answer as tells what it is.
const MAX_ANSWER_BYTES: u64 = 4096;
/// How Envoy begins the body of an answer that it makes itself (seen with Envoy 1.36 to 1.40).
const ENVOYS_OWN: &str = "upstream connect error or disconnect/reset before headers";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Nothing against it: it waits to be asked, and what it answers, if it does, is HTTP.
    Waits,
    Refused,
    /// From here it cannot be reached, which says nothing about it.
    Unreachable,
    /// It speaks first.
    SpeaksFirst(String),
    /// Asked by HTTP/1 it answers with something else.
    NotHttp(String),
    /// It speaks HTTP/2 only.
    Http2Only,
    /// Its Envoy answers, that what is behind it takes no connection.
    NobodyBehind(String),
    /// Its Envoy answers, that what is behind it speaks no HTTP.
    NotHttpBehind(String),
}

/// Tries some endpoints. Those of this pod itself are asked past its Envoy, which would take every
/// connection and say nothing. Where `spoken` is HTTP, `host` is asked for `/`.
pub(super) async fn probe_endpoints(
    addresses: &[SocketAddr],
    own: &[IpAddr],
    (spoken, host): (PortProtocol, &str),
    limit: Duration,
) -> Vec<(SocketAddr, ProbeResult)> {
    let tried = addresses.iter().take(MAX_PROBED).map(async |place| {
        let address = match (own.contains(&place.ip()), place) {
            (true, SocketAddr::V4(_)) => (Ipv4Addr::LOCALHOST, place.port()).into(),
            (true, SocketAddr::V6(_)) => (Ipv6Addr::LOCALHOST, place.port()).into(),
            (false, _) => *place,
        };
        (*place, probe_endpoint(address, spoken, host, limit).await)
    });
    futures::future::join_all(tried).await
}

async fn probe_endpoint(
    address: SocketAddr,
    spoken: PortProtocol,
    host: &str,
    limit: Duration,
) -> ProbeResult {
    let mut stream = match connect::tcp(address, limit.saturating_sub(FIRST_BYTES_TIMEOUT)).await {
        Ok(stream) => stream,
        Err(ConnectError::Refused) => return ProbeResult::Refused,
        Err(ConnectError::Unreachable(_) | ConnectError::Timeout) => {
            return ProbeResult::Unreachable;
        }
    };
    let mut heard = [0; 64];
    match timeout(FIRST_BYTES_TIMEOUT, stream.read(&mut heard)).await {
        Ok(Ok(length @ 1..)) => spoke(heard.get(..length).unwrap_or_default(), spoken),
        Err(_) if spoken.is_http() => {
            match timeout(ANSWER_TIMEOUT.min(limit), exchange(stream, host)).await {
                Ok(Ok(answer)) => answered(&answer, spoken),
                Ok(Err(_)) | Err(_) => ProbeResult::Waits,
            }
        }
        // Whoever hangs up at once may just not like strangers.
        Ok(_) | Err(_) => ProbeResult::Waits,
    }
}

/// The beginning of the answer to `GET /`.
async fn exchange(mut stream: TcpStream, host: &str) -> std::io::Result<Vec<u8>> {
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: pilothouse-doctor\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
    // One that is reset after it was made is an answer.
    if answer.is_empty() { read.map(|_| answer) } else { Ok(answer) }
}

/// First words without having been asked.
fn spoke(words: &[u8], spoken: PortProtocol) -> ProbeResult {
    match (Protocol::from_bytes(words), spoken) {
        // As servers of HTTP/2 may (RFC 9113, section 3.4) and those of grpc-go do.
        (Protocol::Http2, PortProtocol::Http) => ProbeResult::Http2Only,
        (Protocol::Http2, _) => ProbeResult::Waits,
        _ => ProbeResult::SpeaksFirst(connect::printable(words)),
    }
}

fn answered(answer: &[u8], spoken: PortProtocol) -> ProbeResult {
    match Protocol::from_bytes(answer) {
        Protocol::Http1 => {}
        // A server of HTTP/2 alone need not understand the question.
        _ if spoken != PortProtocol::Http => return ProbeResult::Waits,
        Protocol::Http2 => return ProbeResult::Http2Only,
        _ if answer.is_empty() => return ProbeResult::Waits,
        _ => return ProbeResult::NotHttp(connect::printable(answer)),
    }
    let answer = String::from_utf8_lossy(answer);
    let Some(at) = answer.find(ENVOYS_OWN) else { return ProbeResult::Waits };
    let words = answer.get(at..).unwrap_or_default().trim().to_owned();
    if words.contains("protocol error") {
        ProbeResult::NotHttpBehind(words)
    } else if words.contains("connection failure") {
        ProbeResult::NobodyBehind(words)
    } else {
        ProbeResult::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    #[test]
    fn an_envoys_own_answer_tells_what_is_behind_it() {
        let answer = |status: &str, words: &str| {
            let text = format!("HTTP/1.1 {status}\r\nserver: envoy\r\n\r\n{words}");
            answered(text.as_bytes(), PortProtocol::Http)
        };
        // As Envoy 1.40 says it.
        let mute =
            format!("{ENVOYS_OWN}. retried and the latest reset reason: remote connection failure");
        assert_eq!(
            answer("503 Service Unavailable", &mute),
            ProbeResult::NobodyBehind(mute.clone())
        );
        let other = format!("{ENVOYS_OWN}. reset reason: protocol error");
        assert_eq!(answer("502 Bad Gateway", &other), ProbeResult::NotHttpBehind(other.clone()));
        let late = format!("{ENVOYS_OWN}. reset reason: connection timeout");
        assert_eq!(answer("503 Service Unavailable", &late), ProbeResult::Waits);
        assert_eq!(answer("404 Not Found", "protocol error"), ProbeResult::Waits);
    }

    #[test]
    fn http2_is_no_fault_where_the_port_is_named_for_it() {
        for spoken in [PortProtocol::Http2, PortProtocol::Grpc] {
            assert_eq!(spoke(SETTINGS, spoken), ProbeResult::Waits, "{spoken:?}");
            assert_eq!(answered(SETTINGS, spoken), ProbeResult::Waits, "{spoken:?}");
            assert_eq!(answered(b"?", spoken), ProbeResult::Waits, "{spoken:?}");
        }
        assert_eq!(spoke(SETTINGS, PortProtocol::Http), ProbeResult::Http2Only);
        assert_eq!(answered(SETTINGS, PortProtocol::Http), ProbeResult::Http2Only);
        assert_eq!(
            spoke(b"5.7.44-log", PortProtocol::Grpc),
            ProbeResult::SpeaksFirst("5.7.44-log".to_owned())
        );
    }

    #[test]
    fn what_is_no_http_is_quoted_and_silence_is_not_judged() {
        let words = b"-ERR unknown command 'GET'\r\n";
        assert!(
            matches!(answered(words, PortProtocol::Http), ProbeResult::NotHttp(said) if said.contains("-ERR"))
        );
        assert_eq!(answered(b"", PortProtocol::Http), ProbeResult::Waits);
        assert_eq!(
            answered(b"HTTP/1.1 200 OK\r\n\r\nhello", PortProtocol::Http),
            ProbeResult::Waits
        );
    }
}

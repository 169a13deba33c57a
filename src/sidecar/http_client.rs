//! One HTTP/1.1 request over a connection of its own, with a time limit: for pages of Envoy and of the
//! control plane, of which nobody knows whether they answer at all.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::causes::with_causes;

/// A page larger than this is not read: a config dump of a very large mesh stays below it.
const MAX_PAGE_BYTES: usize = 256 << 20;

/// A response with its whole body.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub body: String,
    /// The server's clock, if it says it (`date`).
    pub date: Option<SystemTime>,
}

/// Why there is no response.
#[derive(Debug, Error)]
pub enum RequestError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("no answer within {0:?}")]
    ResponseTimeout(Duration),
    #[error("no HTTP is spoken there ({0})")]
    NotHttp(String),
}

/// GET; `limit` is for the connection, and once more for request and response.
///
/// # Errors
/// See [`RequestError`]. A response with any status is none.
pub async fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Page, RequestError> {
    request(Method::GET, address, path, limit).await
}

/// Any method without a body, likewise.
///
/// # Errors
/// See [`get`].
pub async fn request(
    method: Method,
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<Page, RequestError> {
    let stream = timeout(limit, TcpStream::connect(address)).await;
    let stream =
        stream.map_err(|_| RequestError::ConnectTimeout(limit))?.map_err(RequestError::Connect)?;
    let not_http = |error: &dyn std::error::Error| RequestError::NotHttp(with_causes(error));
    let exchange = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| not_http(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| not_http(&error))?;
        let response = async {
            let response = sender.send_request(request).await.map_err(|error| not_http(&error))?;
            let status = response.status().as_u16();
            let date = response.headers().get(http::header::DATE);
            let date = date.and_then(|date| http_date(date.to_str().ok()?));
            let body = Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await;
            let body = body.map_err(|error| not_http(&*error))?.to_bytes();
            Ok(Page { status, body: String::from_utf8_lossy(&body).into_owned(), date })
        };
        tokio::pin!(response);
        // The connection must be driven, and may end before the response is read to its end.
        tokio::select! {
            page = &mut response => page,
            _ = connection => response.await,
        }
    };
    timeout(limit, exchange).await.unwrap_or(Err(RequestError::ResponseTimeout(limit)))
}

/// The time of a `date` header, of the form that servers send: `Sun, 06 Nov 1994 08:49:37 GMT`
/// (RFC 9110, section 5.6.7).
pub fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.trim().split_once(", ")?;
    let [day, month, year, time, "GMT"] = *rest.split(' ').collect::<Vec<_>>() else {
        return None;
    };
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_servers_clock_is_read() {
        let seconds =
            |text| http_date(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for wrong in ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +0100"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}

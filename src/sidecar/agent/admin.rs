//! Envoy's admin pages.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use thiserror::Error;

/// Longer than a page of a busy Envoy takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no page.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("Envoy's admin ({address}) does not answer: {error}")]
    Unreachable { address: SocketAddr, error: String },
    #[error("Envoy's admin ({address}) has not answered {path} within {PATIENCE:?}")]
    Slow { address: SocketAddr, path: String },
    #[error("Envoy's admin ({address}) answered {path} with {status}: {body}")]
    Refused { address: SocketAddr, path: String, status: u16, body: String },
}

/// A client of one Envoy.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Admin {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// A page that only shows something.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn get(&self, path: &str) -> Result<Bytes, AdminError> {
        self.ask(Method::GET, path).await
    }

    /// A page that does something.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn post(&self, path: &str) -> Result<Bytes, AdminError> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        let address = self.address;
        let asked = async {
            let unreachable = |error: &dyn std::error::Error| AdminError::Unreachable {
                address,
                error: explain(error),
            };
            let request = Request::builder()
                .method(method)
                .uri(format!("http://{address}{path}"))
                .body(Empty::new())
                .map_err(|error| unreachable(&error))?;
            let response =
                self.client.request(request).await.map_err(|error| unreachable(&error))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| unreachable(&error))?;
            let body = body.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(AdminError::Refused {
                address,
                path: path.to_owned(),
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body).trim().to_owned(),
            })
        };
        let slow = |_| AdminError::Slow { address, path: path.to_owned() };
        tokio::time::timeout(PATIENCE, asked).await.map_err(slow)?
    }
}

/// The last cause: what is around it only says that a client had an error.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

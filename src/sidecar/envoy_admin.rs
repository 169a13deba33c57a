//! The client of Envoy's admin, and the statistics that are read there: the agent asks whether its
//! Envoy is ready, the doctor what an Envoy made of its configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use thiserror::Error;

use crate::sidecar::http_client::{self, RequestError};
use crate::well_known::{INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT};

mod on_demand;

pub use on_demand::{ON_DEMAND_SINCE, OnDemandStats, ServiceCluster};

/// Why there is no page.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("Envoy's admin ({address}) does not answer: {error}")]
    Unreachable { address: SocketAddr, error: RequestError },
    #[error("Envoy's admin ({address}) has not answered {path} within {limit:?}")]
    Timeout { address: SocketAddr, path: String, limit: Duration },
    #[error("Envoy's admin ({address}) answered {path} with {status}: {body}")]
    Refused { address: SocketAddr, path: String, status: u16, body: String },
}

/// The admin of one Envoy. Each request has a connection of its own: there is one every few hundred
/// milliseconds at most, and a connection that Envoy has silently lost would cost a whole time limit.
#[derive(Clone, Copy, Debug)]
pub struct EnvoyAdmin {
    address: SocketAddr,
    /// For the connection, and once more for request and response.
    limit: Duration,
}

impl EnvoyAdmin {
    pub fn new(address: SocketAddr, limit: Duration) -> Self {
        Self { address, limit }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same Envoy with another time limit.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// A page that only shows something.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn get(&self, path: &str) -> Result<String, AdminError> {
        self.request(Method::GET, path).await
    }

    /// A page that changes something.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn post(&self, path: &str) -> Result<String, AdminError> {
        self.request(Method::POST, path).await
    }

    /// A page of JSON; `None` where there is none, for a page that adds to what is known.
    pub async fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.get(path).await.ok()?).ok()
    }

    /// The statistics that say whether Envoy has a configuration and uses it.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn stats(&self) -> Result<Stats, AdminError> {
        Ok(Stats::parse(&self.get(&stats_path()).await?))
    }

    async fn request(&self, method: Method, path: &str) -> Result<String, AdminError> {
        let Self { address, limit } = *self;
        let path_of_error = || path.to_owned();
        match http_client::request(method, address, path, limit).await {
            Ok(page) if (200..300).contains(&page.status) => Ok(page.body),
            Ok(page) => Err(AdminError::Refused {
                address,
                path: path_of_error(),
                status: page.status,
                body: page.body.trim().to_owned(),
            }),
            Err(RequestError::ResponseTimeout(limit)) => {
                Err(AdminError::Timeout { address, path: path_of_error(), limit })
            }
            Err(error) => Err(AdminError::Unreachable { address, error }),
        }
    }
}

/// How often a type's updates were accepted and rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateCounts {
    pub successful: u64,
    pub rejected: u64,
}

/// What Envoy's statistics say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cds: UpdateCounts,
    pub lds: UpdateCounts,
    pub server_state: Option<u64>,
    pub workers_started: bool,
    /// Whether the ADS stream is open.
    pub connected: bool,
    /// Connections that came to the listeners for captured traffic, by port.
    pub captured: BTreeMap<u16, u64>,
}

const CDS_SUCCESS: &str = "cluster_manager.cds.update_success";
const CDS_REJECTED: &str = "cluster_manager.cds.update_rejected";
const LDS_SUCCESS: &str = "listener_manager.lds.update_success";
const LDS_REJECTED: &str = "listener_manager.lds.update_rejected";
const WORKERS_STARTED: &str = "listener_manager.workers_started";
const SERVER_STATE: &str = "server.state";
const CONNECTED: &str = "control_plane.connected_state";

/// The statistic of a listener for captured traffic.
fn captured_connections(port: u16) -> String {
    format!("listener.0.0.0.0_{port}.downstream_cx_total")
}

/// The page with the statistics of [`Stats`] and no others.
fn stats_path() -> String {
    let fixed = [
        CDS_SUCCESS,
        CDS_REJECTED,
        LDS_SUCCESS,
        LDS_REJECTED,
        WORKERS_STARTED,
        SERVER_STATE,
        CONNECTED,
    ];
    let captured = [OUTBOUND_CAPTURE_PORT, INBOUND_CAPTURE_PORT].map(captured_connections);
    let names: Vec<String> =
        fixed.into_iter().map(str::to_owned).chain(captured).map(escaped).collect();
    // In a query `^`, `|`, `\` and `$` must be encoded.
    format!("/stats?usedonly&filter=%5E({})%24", names.join("%7C"))
}

/// As part of a regular expression, in a query.
fn escaped(name: String) -> String {
    name.replace('.', "%5C.")
}

/// The statistics of a page of `/stats` that are numbers.
fn counts(page: &str) -> impl Iterator<Item = (&str, u64)> {
    page.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(": ")?;
        Some((name, value.trim().parse().ok()?))
    })
}

impl Stats {
    /// Reads a page of `/stats`; what is not on it was never counted.
    pub fn parse(page: &str) -> Self {
        let mut stats = Self::default();
        for (name, value) in counts(page) {
            match name {
                CDS_SUCCESS => stats.cds.successful = value,
                CDS_REJECTED => stats.cds.rejected = value,
                LDS_SUCCESS => stats.lds.successful = value,
                LDS_REJECTED => stats.lds.rejected = value,
                WORKERS_STARTED => stats.workers_started = value != 0,
                SERVER_STATE => stats.server_state = Some(value),
                CONNECTED => stats.connected = value != 0,
                _ => {
                    let ports = [OUTBOUND_CAPTURE_PORT, INBOUND_CAPTURE_PORT];
                    let port = ports.into_iter().find(|port| captured_connections(*port) == name);
                    stats.captured.extend(port.map(|port| (port, value)));
                }
            }
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_are_read() {
        let page = "cluster_manager.cds.update_rejected: 2\ncluster_manager.cds.update_success: 3\n\
                    control_plane.connected_state: 1\n\
                    listener.0.0.0.0_15001.downstream_cx_total: 4\n\
                    listener.0.0.0.0_15090.downstream_cx_total: 5\n\
                    listener_manager.lds.update_success: 4\nlistener_manager.workers_started: 1\n\
                    server.state: 0\n";
        let expected = Stats {
            cds: UpdateCounts { successful: 3, rejected: 2 },
            lds: UpdateCounts { successful: 4, rejected: 0 },
            server_state: Some(0),
            workers_started: true,
            connected: true,
            captured: [(15001, 4)].into(),
        };
        assert_eq!(Stats::parse(page), expected);
        assert_eq!(Stats::parse(""), Stats::default());
    }

    #[test]
    fn the_filter_names_each_statistic_as_a_whole() {
        let path = stats_path();
        assert!(path.starts_with("/stats?usedonly&filter=%5E(cluster_manager%5C.cds%5C.update_"));
        assert!(path.ends_with("listener%5C.0%5C.0%5C.0%5C.0_15006%5C.downstream_cx_total)%24"));
    }
}

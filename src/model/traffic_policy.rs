//! How requests for a service are spread, bounded and repeated. Absent values mean the default, which
//! is here or Envoy's own; durations of zero mean "no limit" where that is said.

use std::time::Duration;

/// Which endpoint a request gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancing {
    /// The less busy of two chosen at random.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// The same for the same client address as long as the endpoints are the same, by a hash ring.
    ClientIpRing,
    /// The same by Maglev's table: more even, but more clients move when endpoints change.
    ClientIpMaglev,
}

impl LoadBalancing {
    /// Whether the client's address decides.
    pub fn is_by_client(self) -> bool {
        matches!(self, Self::ClientIpRing | Self::ClientIpMaglev)
    }
}

/// When an endpoint that answers with errors is left out for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// After so many failures (5xx, connection failures) in a row.
    pub consecutive_errors: Option<u32>,
    /// How often ejected endpoints are looked at.
    pub interval: Option<Duration>,
    /// For how long, times the number of ejections so far.
    pub ejection_time: Option<Duration>,
    /// Percent of the endpoints that may be out at once, 0 to 100.
    pub max_ejected: Option<u32>,
}

/// What one proxy may have under way to a service at once; none where not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreakers {
    pub connections: Option<u32>,
    pub pending_requests: Option<u32>,
    pub requests: Option<u32>,
    pub retries: Option<u32>,
}

/// All of it for one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub load_balancing: LoadBalancing,
    pub connect_timeout: Option<Duration>,
    /// For the whole answer to a request; zero for no limit.
    pub request_timeout: Option<Duration>,
    /// For a TCP connection on which nothing moves, in either direction; zero for no limit.
    pub tcp_idle_timeout: Option<Duration>,
    /// Attempts after the first.
    pub retries: Option<u32>,
    pub outlier_detection: Option<OutlierDetection>,
    pub circuit_breakers: CircuitBreakers,
}

impl TrafficPolicy {
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// Attempts after the first.
    pub const RETRIES: u32 = 2;
    /// Envoy's own, for what does not say otherwise.
    pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
}

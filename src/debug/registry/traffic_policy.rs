//! The traffic policy of a service with the defaults of what it does not say, under the names of the
//! annotations that change it.

use std::time::Duration;

use serde::Serialize;

use crate::model::{LoadBalancing, OutlierDetection, Service, ServiceKind, TrafficPolicy};

/// A limit that is not there is none; without `outlier-` fields no endpoint is ever ejected.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct EffectivePolicy {
    load_balancing: &'static str,
    connect_timeout: String,
    /// 0s for no limit.
    request_timeout: String,
    retries: u32,
    /// 0s for no limit.
    tcp_idle_timeout: String,
    #[serde(flatten)]
    outliers: Option<Ejection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pending_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_retries: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Ejection {
    outlier_consecutive_errors: u32,
    outlier_interval: String,
    outlier_ejection_time: String,
    outlier_max_ejected_percent: u32,
}

impl EffectivePolicy {
    /// Of a service whose alias is resolved: an alias is tuned as what it stands for.
    pub(super) fn from_service(service: &Service) -> Self {
        let policy = match &service.kind {
            ServiceKind::Alias(target) => &target.traffic_policy,
            _ => &service.traffic_policy,
        };
        let duration = |value| humantime::format_duration(value).to_string();
        Self {
            load_balancing: load_balancing(policy.load_balancing),
            connect_timeout: duration(
                policy.connect_timeout.unwrap_or(TrafficPolicy::CONNECT_TIMEOUT),
            ),
            request_timeout: duration(policy.request_timeout.unwrap_or(Duration::ZERO)),
            retries: policy.retries.unwrap_or(TrafficPolicy::RETRIES),
            tcp_idle_timeout: duration(
                policy.tcp_idle_timeout.unwrap_or(TrafficPolicy::TCP_IDLE_TIMEOUT),
            ),
            outliers: policy.outlier_detection.map(ejection),
            max_connections: policy.circuit_breakers.connections,
            max_pending_requests: policy.circuit_breakers.pending_requests,
            max_requests: policy.circuit_breakers.requests,
            max_retries: policy.circuit_breakers.retries,
        }
    }
}

fn load_balancing(policy: LoadBalancing) -> &'static str {
    match policy {
        LoadBalancing::LeastRequest => "least-request",
        LoadBalancing::RoundRobin => "round-robin",
        LoadBalancing::Random => "random",
        LoadBalancing::ClientIpRing => "ring-hash",
        LoadBalancing::ClientIpMaglev => "maglev",
    }
}

/// What is not said is left to Envoy, whose defaults these are.
fn ejection(outliers: OutlierDetection) -> Ejection {
    let seconds = |value: Option<Duration>, default| {
        humantime::format_duration(value.unwrap_or(Duration::from_secs(default))).to_string()
    };
    Ejection {
        outlier_consecutive_errors: outliers.consecutive_errors.unwrap_or(5),
        outlier_interval: seconds(outliers.interval, 10),
        outlier_ejection_time: seconds(outliers.ejection_time, 30),
        outlier_max_ejected_percent: outliers.max_ejected.unwrap_or(10),
    }
}

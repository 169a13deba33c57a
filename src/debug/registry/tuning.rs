//! The tuning of a service with the defaults of what it does not say, under the names of the
//! annotations that change it.

use std::time::Duration;

use serde::Serialize;

use crate::model::{Balance, Outliers, Service, ServiceKind, Tuning};

/// A limit that is not there is none; without `outlier-` fields no endpoint is ever ejected.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct InForce {
    load_balancing: &'static str,
    connect_timeout: String,
    /// 0s for no limit.
    request_timeout: String,
    retries: u32,
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

impl InForce {
    /// Of a service whose alias is resolved: an alias is tuned as what it stands for.
    pub(super) fn of(service: &Service) -> Self {
        let tuning = match &service.kind {
            ServiceKind::Alias(target) => &target.tuning,
            _ => &service.tuning,
        };
        let duration = |value| humantime::format_duration(value).to_string();
        Self {
            load_balancing: balance(tuning.balance),
            connect_timeout: duration(tuning.connect_timeout.unwrap_or(Tuning::CONNECT_TIMEOUT)),
            request_timeout: duration(tuning.request_timeout.unwrap_or(Duration::ZERO)),
            retries: tuning.retries.unwrap_or(Tuning::RETRIES),
            outliers: tuning.outliers.map(ejection),
            max_connections: tuning.limits.connections,
            max_pending_requests: tuning.limits.pending_requests,
            max_requests: tuning.limits.requests,
            max_retries: tuning.limits.retries,
        }
    }
}

fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::LeastRequest => "least-request",
        Balance::RoundRobin => "round-robin",
        Balance::Random => "random",
        Balance::ClientIpRing => "ring-hash",
        Balance::ClientIpMaglev => "maglev",
    }
}

/// What is not said is left to Envoy, whose defaults these are.
fn ejection(outliers: Outliers) -> Ejection {
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

//! Session affinity and the annotations of a Service. `docs/kubernetes.md` says what
//! they mean; of a bad value only itself is ignored.

use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Rejection;
use crate::model::{LoadBalancing, OutlierDetection, TrafficPolicy};

const PREFIX: &str = "pilothouse.io/";
const KNOWN: [&str; 13] = [
    "load-balancing",
    "connect-timeout",
    "request-timeout",
    "tcp-idle-timeout",
    "retries",
    "outlier-consecutive-errors",
    "outlier-interval",
    "outlier-ejection-time",
    "outlier-max-ejected-percent",
    "max-connections",
    "max-pending-requests",
    "max-requests",
    "max-retries",
];

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The traffic policy of a service; values that are wrong are added to `flaws`.
pub(super) fn traffic_policy_of(
    metadata: &ObjectMeta,
    spec: &ServiceSpec,
    flaws: &mut Vec<Rejection>,
) -> TrafficPolicy {
    let mut annotations = Annotations { metadata, flaws };
    annotations.report_unknown();
    let outlier_detection = OutlierDetection {
        consecutive_errors: annotations.number("outlier-consecutive-errors", 1..=1_000_000),
        interval: annotations.duration("outlier-interval", MILLISECOND..=HOUR),
        ejection_time: annotations.duration("outlier-ejection-time", MILLISECOND..=HOUR),
        max_ejected: annotations.number("outlier-max-ejected-percent", 0..=100),
    };
    let mut policy = TrafficPolicy {
        load_balancing: annotations
            .load_balancing(spec.session_affinity.as_deref() == Some("ClientIP")),
        connect_timeout: annotations.duration("connect-timeout", MILLISECOND..=HOUR),
        request_timeout: annotations.duration("request-timeout", Duration::ZERO..=24 * HOUR),
        tcp_idle_timeout: annotations.duration("tcp-idle-timeout", Duration::ZERO..=30 * 24 * HOUR),
        retries: annotations.number("retries", 0..=10),
        // Any one of them enables it.
        outlier_detection: (outlier_detection != OutlierDetection::default())
            .then_some(outlier_detection),
        ..TrafficPolicy::default()
    };
    for (name, limit) in [
        ("max-connections", &mut policy.circuit_breakers.connections),
        ("max-pending-requests", &mut policy.circuit_breakers.pending_requests),
        ("max-requests", &mut policy.circuit_breakers.requests),
        ("max-retries", &mut policy.circuit_breakers.retries),
    ] {
        *limit = annotations.number(name, 0..=u32::MAX);
    }
    policy
}

struct Annotations<'a> {
    metadata: &'a ObjectMeta,
    flaws: &'a mut Vec<Rejection>,
}

impl<'a> Annotations<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(&format!("{PREFIX}{name}")).map(|text| text.trim())
    }

    fn flaw(&mut self, name: &str, reason: String) {
        let field = format!("metadata.annotations[{PREFIX}{name}]");
        self.flaws.push(Rejection::new(field, reason));
    }

    /// Reports unknown annotations, since a typing mistake would otherwise have no effect and no message.
    fn report_unknown(&mut self) {
        let metadata = self.metadata;
        for name in metadata.annotations.iter().flatten().map(|(name, _)| name) {
            if let Some(name) = name.strip_prefix(PREFIX)
                && !KNOWN.contains(&name)
            {
                self.flaw(name, format!("unknown; there are {}", KNOWN.join(", ")));
            }
        }
    }

    fn load_balancing(&mut self, client_ip: bool) -> LoadBalancing {
        let default =
            if client_ip { LoadBalancing::ClientIpRing } else { LoadBalancing::default() };
        let Some(text) = self.get("load-balancing") else { return default };
        let load_balancing = match text {
            "least-request" => LoadBalancing::LeastRequest,
            "round-robin" => LoadBalancing::RoundRobin,
            "random" => LoadBalancing::Random,
            "ring-hash" => LoadBalancing::ClientIpRing,
            "maglev" => LoadBalancing::ClientIpMaglev,
            _ => {
                let reason = format!(
                    "{text:?} is none of least-request, round-robin, random, ring-hash, maglev; \
                     the default is used"
                );
                self.flaw("load-balancing", reason);
                return default;
            }
        };
        if client_ip && !load_balancing.is_by_client() {
            let reason = format!("{text} cannot keep sessionAffinity: ClientIP; ring-hash is used");
            self.flaw("load-balancing", reason);
            return default;
        }
        load_balancing
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let text = self.get(name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = range.into_inner();
            let reason = format!("{text:?} is no number from {least} to {most}; not used");
            self.flaw(name, reason);
        }
        number
    }

    fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.get(name)?;
        let duration = humantime::parse_duration(text).ok().filter(|one| range.contains(one));
        if duration.is_none() {
            let (least, most) = range.into_inner();
            let [least, most] = [least, most].map(humantime::format_duration);
            let reason =
                format!("{text:?} is no time from {least} to {most}, as in 1500ms; not used");
            self.flaw(name, reason);
        }
        duration
    }
}

#[cfg(test)]
mod tests;

//! What the injector counts. Names are Istio's where Istio has one. No label ever is a pod or a namespace.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::review::Outcome;

/// From a tenth of a millisecond, which a small pod takes, to what an API server waits for.
const SECONDS: [f64; 10] = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.5, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// All of it. Every method is a few atomic operations or one short lock.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Counter,
    success: Counter,
    failure: Counter,
    skip: Counter,
    results: Family<ResultLabel, Counter>,
    seconds: Histogram,
    expiry: Gauge,
    pub(super) certificate_unusable: Gauge,
    pub(super) settings_unusable: Gauge,
}

impl Metrics {
    /// All metrics at zero, so that a rate over the first review is right.
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Arc::new(Self {
            requests: Counter::default(),
            success: Counter::default(),
            failure: Counter::default(),
            skip: Counter::default(),
            results: Family::default(),
            seconds: Histogram::new(SECONDS),
            expiry: Gauge::default(),
            certificate_unusable: Gauge::default(),
            settings_unusable: Gauge::default(),
        });
        for (_, result) in Outcome::ALL {
            _ = metrics.results.get_or_create(&ResultLabel { result });
        }
        let counters = [
            ("requests", "Reviews asked for, as Istio counts them", &metrics.requests),
            ("success", "Pods that were given a sidecar", &metrics.success),
            (
                "failure",
                "Reviews that could not be read or answered, and pods that say something wrong of \
                 their sidecar",
                &metrics.failure,
            ),
            ("skip", "Pods that were left alone", &metrics.skip),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("sidecar_injection_{name}"), help, counter.clone());
        }
        registry.register(
            "sidecar_injection_time_seconds",
            "How long a review took, from the whole request to the answer",
            metrics.seconds.clone(),
        );
        registry.register(
            "pilothouse_injector_reviews",
            "Reviews by what became of them",
            metrics.results.clone(),
        );
        registry.register(
            "pilothouse_certificate_expiry_seconds",
            "When the certificate that is served expires, in seconds since 1970",
            metrics.expiry.clone(),
        );
        registry.register(
            "pilothouse_injector_certificate_unusable",
            "1 while the certificate's files cannot be used, so that an older one or none is served",
            metrics.certificate_unusable.clone(),
        );
        registry.register(
            "pilothouse_injector_settings_unusable",
            "1 while the settings' file cannot be used, so that older ones or none are in force",
            metrics.settings_unusable.clone(),
        );
        metrics
    }

    /// One review has been answered, as Istio counts it and by its result.
    pub(super) fn count(&self, result: Outcome, took: Option<Duration>) {
        self.requests.inc();
        match result {
            Outcome::Injected => self.success.inc(),
            Outcome::Skipped => self.skip.inc(),
            Outcome::Refused | Outcome::PassedThrough | Outcome::Bad | Outcome::Unavailable => {
                self.failure.inc()
            }
        };
        self.results.get_or_create(&ResultLabel { result: result.as_str() }).inc();
        if let Some(took) = took {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    pub(super) fn set_expiry(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn all_that_is_served_is_documented() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        for (result, _) in Outcome::ALL {
            metrics.count(result, None);
        }
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let docs = include_str!("../../../docs/injector.md");
        let names = page.lines().filter(|line| !line.starts_with('#'));
        for name in names.filter_map(|line| line.split(['{', ' ']).next()) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = base.unwrap_or(name);
            assert!(docs.contains(&format!("`{name}")), "{name} is missing in docs/injector.md");
        }
        for (_, result) in Outcome::ALL {
            assert!(
                docs.contains(&format!("`{result}`")),
                "{result} is missing in docs/injector.md"
            );
        }
        assert!(page.contains("sidecar_injection_requests_total 6"), "{page}");
    }
}

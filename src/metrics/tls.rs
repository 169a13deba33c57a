//! Metrics of xDS over TLS, which are there if it is served.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pilothouse_xds_server::tls::HandshakeResult;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Families;
use crate::certificates::Certificates;

/// Computes them at each scrape.
#[derive(Debug)]
pub struct TlsScrape(pub Arc<Certificates>);

impl Collector for TlsScrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let status = self.0.status();
        let certificates =
            [("server", Some(status.server_expires)), ("client_ca", status.client_ca_expires)];
        families.labelled(
            "pilothouse_certificate_expiry_seconds",
            "When the certificate that is served expires, in seconds since 1970",
            MetricType::Gauge,
            "certificate",
            certificates.into_iter().filter_map(|(which, expires)| {
                Some((which, ConstGauge::new(since_1970(expires?))))
            }),
        )?;
        families.single(
            "pilothouse_certificate_unusable",
            "1 while the certificate's files cannot be used and older ones are served (/debug/sourcez says why)",
            ConstGauge::new(i64::from(status.unusable.is_some())),
        )?;
        families.labelled(
            "pilothouse_certificate_reloads",
            "New certificate files that were taken over (loaded) or could not be used (failed)",
            MetricType::Counter,
            "result",
            [("loaded", status.reloads), ("failed", status.failures)]
                .map(|(result, count)| (result, ConstCounter::new(count))),
        )?;
        families.labelled(
            "pilothouse_tls_handshakes",
            "TLS handshakes that have ended, by how",
            MetricType::Counter,
            "result",
            HandshakeResult::LABELS
                .map(|(result, label)| (label, ConstCounter::new(self.0.acceptor().count(result)))),
        )
    }
}

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

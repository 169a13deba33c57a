//! What is counted while working, for Prometheus.
//!
//! Injected, never global: [`Metrics::new`] adds itself to a registry that `app` owns. What can be
//! read off the state of things when asked (who is connected, how old a watch is) is not kept
//! here; [`scrape`] computes it. `docs/metrics.md` lists all; a test holds it to what is served.
//!
//! Names are Istio's where Istio has one, to the letter, so that its dashboards work. Istio's
//! counters have no `_total`, which OpenMetrics demands of a counter, so they are shown with the
//! type `unknown`; `rate()` does not care. Labels are few and their values bounded: no proxy, no
//! service and no address ever becomes one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::Change;
use crate::names::ResourceType;

pub mod scrape;

/// All counters and histograms. Every method is a few atomic operations or one short lock.
#[derive(Debug)]
pub struct Metrics {
    by_type: [OfType; ResourceType::COUNT],
    services: Counter,
    services_gone: Counter,
    endpoints: Counter,
    convergence: Histogram,
    snapshots: Counter,
    snapshot_seconds: Histogram,
    streams_opened: Counter,
    streams_closed: Counter,
    probes: Counter,
    waiting: Gauge,
    send_timeouts: Counter,
    refused_views: Counter,
    aged_connections: Counter,
    admissions_overdue: Counter,
    connections_evicted: Counter,
    peer_bytes: Gauge,
}

#[derive(Debug)]
struct OfType {
    pushes: Counter,
    rejects: Counter,
    expired_nonces: Counter,
    requests: Counter,
    push_bytes: Histogram,
    push_seconds: Histogram,
    ack_seconds: Histogram,
}

impl Metrics {
    /// Everything at zero, so that a rate over the first event is right.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let by_type = ResourceType::IN_ORDER.map(|_| OfType {
            pushes: Counter::default(),
            rejects: Counter::default(),
            expired_nonces: Counter::default(),
            requests: Counter::default(),
            // Istio's boundaries, with what a small mesh needs below them.
            push_bytes: Histogram::new([1e2, 1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7]),
            push_seconds: seconds(),
            ack_seconds: seconds(),
        });
        let metrics = Arc::new(Self {
            by_type,
            services: Counter::default(),
            services_gone: Counter::default(),
            endpoints: Counter::default(),
            convergence: seconds(),
            snapshots: Counter::default(),
            snapshot_seconds: seconds(),
            streams_opened: Counter::default(),
            streams_closed: Counter::default(),
            probes: Counter::default(),
            waiting: Gauge::default(),
            send_timeouts: Counter::default(),
            refused_views: Counter::default(),
            aged_connections: Counter::default(),
            admissions_overdue: Counter::default(),
            connections_evicted: Counter::default(),
            peer_bytes: Gauge::default(),
        });
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// A response of `bytes` (as encoded on the stream) was sent.
    pub fn push(&self, of: ResourceType, bytes: usize) {
        let metrics = self.of(of);
        metrics.pushes.inc();
        metrics.push_bytes.observe(bytes as f64);
    }

    /// How long a response took from its cause (a snapshot or a request) to the connection.
    pub fn push_time(&self, of: ResourceType, took: Duration) {
        self.of(of).push_seconds.observe(took.as_secs_f64());
    }

    /// A response was acknowledged, this long after it was handed to the connection.
    pub fn ack_time(&self, of: ResourceType, took: Duration) {
        self.of(of).ack_seconds.observe(took.as_secs_f64());
    }

    /// A request arrived, whatever it means.
    pub fn request(&self, of: ResourceType) {
        self.of(of).requests.inc();
    }

    /// A request was a NACK.
    pub fn reject(&self, of: ResourceType) {
        self.of(of).rejects.inc();
    }

    /// A request carried the nonce of another response than the last.
    pub fn expired_nonce(&self, of: ResourceType) {
        self.of(of).expired_nonces.inc();
    }

    pub fn stream_opened(&self) {
        self.streams_opened.inc();
    }

    pub fn stream_closed(&self) {
        self.streams_closed.inc();
    }

    /// A stream is no proxy's but a probe's.
    pub fn probe(&self) {
        self.probes.inc();
    }

    /// A stream waits for its turn to be brought into sync.
    pub fn turn_awaited(&self) {
        self.waiting.inc();
    }

    /// It has it, or has gone.
    pub fn turn_awaited_no_more(&self) {
        self.waiting.dec();
    }

    /// How many streams wait for their turn.
    pub fn turns_awaited(&self) -> i64 {
        self.waiting.get()
    }

    /// A reader that had stopped was disconnected.
    pub fn send_timeout(&self) {
        self.send_timeouts.inc();
    }

    /// A connection was ended because of its age.
    pub fn connection_aged(&self) {
        self.aged_connections.inc();
    }

    /// A proxy needed one view more than there may be.
    pub fn view_refused(&self) {
        self.refused_views.inc();
    }

    /// A stream has waited for its turn for as long as anybody may, and goes on without.
    pub fn admission_overdue(&self) {
        self.admissions_overdue.inc();
    }

    /// A connection was ended because it, or all of them, held too much memory.
    pub fn connection_evicted(&self) {
        self.connections_evicted.inc();
    }

    /// What all peers hold together now, bytes.
    pub fn peer_bytes(&self, bytes: usize) {
        self.peer_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A snapshot was published, and building it took this long.
    pub fn snapshot_published(&self, took: Duration) {
        self.snapshots.inc();
        self.snapshot_seconds.observe(took.as_secs_f64());
    }

    /// A proxy's connection has been given what a change of the source led to, this long after it.
    pub fn convergence(&self, took: Duration) {
        self.convergence.observe(took.as_secs_f64());
    }

    /// The source said something; a complete list counts once for each of its objects.
    pub fn inbound(&self, change: &Change) {
        let (counter, times) = match change {
            Change::Service(_) => (&self.services, 1),
            Change::Services(_, list) => (&self.services, list.len()),
            Change::ServiceGone(_) => (&self.services_gone, 1),
            Change::Slice(_) | Change::SliceGone { .. } => (&self.endpoints, 1),
            Change::Slices(_, list) => (&self.endpoints, list.len()),
            Change::Node(_) | Change::NodeGone(_) | Change::Nodes(_) | Change::Synced => return,
        };
        counter.inc_by(times as u64);
    }

    fn of(&self, of: ResourceType) -> &OfType {
        &self.by_type[of.index()]
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let by_type = || ResourceType::IN_ORDER.map(|of| (of.short(), self.of(of)));
        families.labelled(
            "pilot_xds_pushes",
            "Responses sent",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, of)| (short, bare(&of.pushes))),
        )?;
        families.labelled(
            "pilot_total_xds_rejects",
            "NACKs received",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, of)| (short, bare(&of.rejects))),
        )?;
        families.labelled(
            "pilot_xds_expired_nonce",
            "Requests that were about another response than the last one",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, of)| (short, bare(&of.expired_nonces))),
        )?;
        families.labelled(
            "pilothouse_xds_requests",
            "Requests received, ACKs and NACKs included",
            MetricType::Counter,
            "type",
            by_type().map(|(short, of)| (short, of.requests.clone())),
        )?;
        families.labelled(
            "pilot_xds_config_size_bytes",
            "Encoded size of a response",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, of)| (short, of.push_bytes.clone())),
        )?;
        families.labelled(
            "pilot_xds_push_time",
            "Seconds from a new snapshot or a request to the response being handed to the \
             connection",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, of)| (short, of.push_seconds.clone())),
        )?;
        families.labelled(
            "pilothouse_ack_seconds",
            "Seconds from a response being handed to the connection to its ACK",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, of)| (short, of.ack_seconds.clone())),
        )?;
        families.one(
            "pilot_proxy_convergence_time",
            "Seconds from a change in the source to its response being handed to a proxy's \
             connection",
            self.convergence.clone(),
        )?;
        families.labelled(
            "pilot_inbound_updates",
            "What the source said: svc (a service is new or changed), svcdelete, eds (endpoints)",
            MetricType::Unknown,
            "type",
            [
                ("eds", bare(&self.endpoints)),
                ("svc", bare(&self.services)),
                ("svcdelete", bare(&self.services_gone)),
            ],
        )?;
        families.one(
            "pilothouse_snapshots",
            "Snapshots cut, that is, changes published",
            self.snapshots.clone(),
        )?;
        families.one(
            "pilothouse_snapshot_seconds",
            "Seconds that building a snapshot took",
            self.snapshot_seconds.clone(),
        )?;
        families.one(
            "pilothouse_streams_opened",
            "xDS streams opened",
            self.streams_opened.clone(),
        )?;
        families.one(
            "pilothouse_streams_closed",
            "xDS streams ended, for whatever reason",
            self.streams_closed.clone(),
        )?;
        families.one(
            "pilothouse_probes",
            "xDS streams opened by probes: pilothouse doctor, and agents of sidecars that are not \
             ready",
            self.probes.clone(),
        )?;
        families.one(
            "pilothouse_waiting_streams",
            "xDS streams that wait for their turn to be brought into sync",
            self.waiting.clone(),
        )?;
        families.one(
            "pilothouse_send_timeouts",
            "Proxies disconnected because they had stopped reading",
            self.send_timeouts.clone(),
        )?;
        families.one(
            "pilothouse_refused_views",
            "Proxies refused because they need one view more than there may be",
            self.refused_views.clone(),
        )?;
        families.one(
            "pilothouse_aged_connections",
            "Connections ended because of their age, so that proxies spread over the replicas",
            self.aged_connections.clone(),
        )?;
        families.one(
            "pilothouse_admissions_overdue",
            "Streams brought into sync without a turn because they had waited for 4 s",
            self.admissions_overdue.clone(),
        )?;
        families.one(
            "pilothouse_connections_evicted",
            "Connections ended because they held too much memory",
            self.connections_evicted.clone(),
        )?;
        families.one(
            "pilothouse_peer_memory_bytes",
            "Memory charged to connected peers: requests, subscriptions, unsent answers",
            self.peer_bytes.clone(),
        )
    }
}

/// From half a millisecond to Istio's thirty seconds.
fn seconds() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0,
    ])
}

/// A counter's number under its bare name: a gauge's line has nothing else.
fn bare(counter: &Counter) -> ConstGauge<u64> {
    ConstGauge::new(counter.get())
}

/// Writes families one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn one(&mut self, name: &str, help: &str, sample: impl EncodeMetric) -> fmt::Result {
        sample.encode(self.0.encode_descriptor(name, help, None, sample.metric_type())?)
    }

    /// `samples` are values of the one label, each with its metric, in the order wanted.
    fn labelled<V: AsRef<str>, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        shown_as: MetricType,
        label: &str,
        samples: impl IntoIterator<Item = (V, M)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, shown_as)?;
        for (value, sample) in samples {
            sample.encode(family.encode_family(&[(label, value.as_ref())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

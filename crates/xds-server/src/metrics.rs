//! What the server counts, as it happens. Under which names it is shown is the program's to say.

use std::time::Duration;

use pilothouse_xds::{ServedType, TypeIndex};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// All counters and histograms of the server. Every method is a few atomic operations or one short lock.
#[derive(Debug)]
pub struct ServerMetrics {
    /// By [`TypeIndex`].
    pub by_type: Box<[TypeMetrics]>,
    /// Seconds from a change in the source to its response being handed to a proxy's connection.
    pub convergence: Histogram,
    pub streams_opened: Counter,
    pub streams_closed: Counter,
    /// Streams that wait to be admitted.
    pub waiting_streams: Gauge,
    pub send_timeouts: Counter,
    pub connections_aged: Counter,
    pub admission_timeouts: Counter,
    pub connections_evicted: Counter,
    pub peer_bytes: Gauge,
}

/// What is counted for each type.
#[derive(Debug)]
pub struct TypeMetrics {
    pub pushes: Counter,
    /// NACKs.
    pub rejects: Counter,
    pub expired_nonces: Counter,
    pub requests: Counter,
    pub push_bytes: Histogram,
    pub push_seconds: Histogram,
    pub ack_seconds: Histogram,
}

impl ServerMetrics {
    /// All at zero, for the types of this table.
    pub fn new(types: &[ServedType]) -> Self {
        let by_type = types.iter().map(|_| TypeMetrics {
            pushes: Counter::default(),
            rejects: Counter::default(),
            expired_nonces: Counter::default(),
            requests: Counter::default(),
            // From what one small resource takes to ten thousand of them.
            push_bytes: Histogram::new([1e2, 1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7]),
            push_seconds: latency_histogram(),
            ack_seconds: latency_histogram(),
        });
        Self {
            by_type: by_type.collect(),
            convergence: latency_histogram(),
            streams_opened: Counter::default(),
            streams_closed: Counter::default(),
            waiting_streams: Gauge::default(),
            send_timeouts: Counter::default(),
            connections_aged: Counter::default(),
            admission_timeouts: Counter::default(),
            connections_evicted: Counter::default(),
            peer_bytes: Gauge::default(),
        }
    }

    /// A response of `bytes` (as encoded on the stream) was sent.
    pub fn push_sent(&self, resource_type: impl Into<TypeIndex>, bytes: usize) {
        let metrics = self.type_metrics(resource_type);
        metrics.pushes.inc();
        metrics.push_bytes.observe(bytes as f64);
    }

    /// How long a response took from its cause (a snapshot or a request) to the connection.
    pub fn observe_push_time(&self, resource_type: impl Into<TypeIndex>, took: Duration) {
        self.type_metrics(resource_type).push_seconds.observe(took.as_secs_f64());
    }

    /// A response was acknowledged, this long after it was handed to the connection.
    pub fn observe_ack_time(&self, resource_type: impl Into<TypeIndex>, took: Duration) {
        self.type_metrics(resource_type).ack_seconds.observe(took.as_secs_f64());
    }

    /// A request arrived, whatever it means.
    pub fn request_received(&self, resource_type: impl Into<TypeIndex>) {
        self.type_metrics(resource_type).requests.inc();
    }

    /// A request was a NACK.
    pub fn nack_received(&self, resource_type: impl Into<TypeIndex>) {
        self.type_metrics(resource_type).rejects.inc();
    }

    /// A request carried the nonce of another response than the last.
    pub fn stale_nonce_received(&self, resource_type: impl Into<TypeIndex>) {
        self.type_metrics(resource_type).expired_nonces.inc();
    }

    pub fn stream_opened(&self) {
        self.streams_opened.inc();
    }

    pub fn stream_closed(&self) {
        self.streams_closed.inc();
    }

    /// A stream waits to be admitted.
    pub fn admission_queued(&self) {
        self.waiting_streams.inc();
    }

    /// A stream that waited has been admitted, or has ended.
    pub fn admission_dequeued(&self) {
        self.waiting_streams.dec();
    }

    /// A proxy that had stopped reading was disconnected.
    pub fn send_timed_out(&self) {
        self.send_timeouts.inc();
    }

    /// A connection was ended because of its age.
    pub fn connection_aged(&self) {
        self.connections_aged.inc();
    }

    /// A stream was admitted without a permit, because it had waited for the longest allowed time.
    pub fn admission_timed_out(&self) {
        self.admission_timeouts.inc();
    }

    /// A connection was ended because it, or all of them, held too much memory.
    pub fn connection_evicted(&self) {
        self.connections_evicted.inc();
    }

    /// The memory charged to all peers now, bytes.
    pub fn set_peer_bytes(&self, bytes: usize) {
        self.peer_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The response to a change of the source was handed to a proxy's connection, this long after the change.
    pub fn observe_convergence(&self, took: Duration) {
        self.convergence.observe(took.as_secs_f64());
    }

    fn type_metrics(&self, resource_type: impl Into<TypeIndex>) -> &TypeMetrics {
        &self.by_type[resource_type.into().0]
    }
}

/// From half a millisecond to half a minute.
pub fn latency_histogram() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0,
    ])
}

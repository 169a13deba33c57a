//! Counters and histograms for Prometheus, updated as events happen.
//!
//! Injected, never global: [`Metrics::new`] adds itself to a registry that `app` owns. What can be
//! computed from the current state (who is connected, how old a watch is) is not kept here;
//! [`scrape`] computes it. `docs/metrics.md` lists all metrics; a test compares it with what is served.
//!
//! Names are Istio's where Istio has one, to the letter, so that its dashboards work. Istio's
//! counters have no `_total`, which OpenMetrics demands of a counter, so they are shown with the
//! type `unknown`; `rate()` does not care. Labels are few and their values bounded: no proxy, no
//! service and no address ever becomes one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pilothouse_xds_server::ServerMetrics;
use pilothouse_xds_server::metrics::latency_histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::identity::tokens::TokenMetrics;
use crate::model::{Change, RouteKind};
use crate::names::ResourceType;

mod process;
pub mod scrape;
pub mod tls;

/// All counters and histograms. Every method is a few atomic operations or one short lock.
#[derive(Debug)]
pub struct Metrics {
    /// What the server counts.
    pub server: Arc<ServerMetrics>,
    services: Counter,
    services_gone: Counter,
    endpoints: Counter,
    grpc_routes: Counter,
    http_routes: Counter,
    grants: Counter,
    snapshots: Counter,
    snapshot_seconds: Histogram,
    probes: Counter,
    views_refused: Counter,
    events: [Counter; EventOutcome::ALL.len()],
    route_statuses: [Counter; StatusOutcome::ALL.len()],
    route_statuses_waiting: Gauge,
    authentications: [Counter; Authentication::ALL.len()],
    /// What the verification of tokens counts.
    pub tokens: Arc<TokenMetrics>,
}

/// Who the peer of an xDS stream was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Somebody, by the client certificate or by a token.
    Certificate,
    Token,
    /// Nobody, and it need not be anybody.
    Anonymous,
    /// Refused: it must be somebody, or what it showed does not hold.
    Unauthenticated,
    /// Refused: it claims to be another proxy than its identity's.
    Denied,
    /// Refused: it could not be told.
    Unavailable,
}

impl Authentication {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Certificate, "certificate"),
        (Self::Token, "token"),
        (Self::Anonymous, "anonymous"),
        (Self::Unauthenticated, "unauthenticated"),
        (Self::Denied, "denied"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// What became of something that was to be told by a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// The API server has it.
    Written,
    /// Left out: too many about one object, or in all.
    Limited,
    /// Left out: the API server does not keep up.
    Dropped,
    /// The API server refused it, or could not be reached.
    Failed,
    /// Left out: no endpoint says that the peer is the pod that it claims to be.
    Unverified,
}

impl EventOutcome {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Written, "written"),
        (Self::Limited, "limited"),
        (Self::Dropped, "dropped"),
        (Self::Failed, "failed"),
        (Self::Unverified, "unverified"),
    ];
}

/// What became of a look at a route's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusOutcome {
    /// The API server has it.
    Written,
    /// It said so already.
    Unchanged,
    /// Left out: the object has changed since, and a newer verdict is on its way.
    Stale,
    /// Left out: the route is gone.
    Gone,
    /// Somebody else wrote to it meanwhile; it is read again.
    Conflict,
    /// The right is missing.
    Forbidden,
    /// The API server refused it, or could not be asked.
    Failed,
}

impl StatusOutcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Written, "written"),
        (Self::Unchanged, "unchanged"),
        (Self::Stale, "stale"),
        (Self::Gone, "gone"),
        (Self::Conflict, "conflict"),
        (Self::Forbidden, "forbidden"),
        (Self::Failed, "failed"),
    ];
}

impl Metrics {
    /// All metrics at zero, so that a rate over the first event is right.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Arc::new(Self {
            server: Arc::new(ServerMetrics::new(ResourceType::TABLE)),
            services: Counter::default(),
            services_gone: Counter::default(),
            endpoints: Counter::default(),
            grpc_routes: Counter::default(),
            http_routes: Counter::default(),
            grants: Counter::default(),
            snapshots: Counter::default(),
            snapshot_seconds: latency_histogram(),
            probes: Counter::default(),
            views_refused: Counter::default(),
            events: Default::default(),
            route_statuses: Default::default(),
            route_statuses_waiting: Gauge::default(),
            authentications: Default::default(),
            tokens: Arc::default(),
        });
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// A stream was opened by a probe, not by a proxy.
    pub fn probe_opened(&self) {
        self.probes.inc();
    }

    /// A proxy needed one view more than there may be.
    pub fn view_refused(&self) {
        self.views_refused.inc();
    }

    /// Something was told by a Kubernetes Event, or was not.
    pub fn event(&self, outcome: EventOutcome) {
        self.events[outcome as usize].inc();
    }

    /// A route's status was written, or was not.
    pub fn route_status(&self, outcome: StatusOutcome) {
        self.route_statuses[outcome as usize].inc();
    }

    /// So many routes wait for a look at their status.
    pub fn route_status_waits(&self, routes: usize) {
        self.route_statuses_waiting.set(i64::try_from(routes).unwrap_or(i64::MAX));
    }

    /// The peer of a stream was found to be somebody, or was refused for not being anybody.
    pub fn authenticated(&self, result: Authentication) {
        self.authentications[result as usize].inc();
    }

    /// A snapshot was published, and building it took this long.
    pub fn snapshot_published(&self, took: Duration) {
        self.snapshots.inc();
        self.snapshot_seconds.observe(took.as_secs_f64());
    }

    /// A change of the source was received; a complete list counts once for each of its objects.
    pub fn change_received(&self, change: &Change) {
        let (counter, times) = match change {
            Change::Service(_) => (&self.services, 1),
            Change::Services(_, list) => (&self.services, list.len()),
            Change::ServiceGone(_) => (&self.services_gone, 1),
            Change::Slice(_) | Change::SliceGone { .. } => (&self.endpoints, 1),
            Change::Slices(_, list) => (&self.endpoints, list.len()),
            Change::Route(route) => (self.routes_of(route.key.kind), 1),
            Change::RouteGone(key) => (self.routes_of(key.kind), 1),
            Change::Routes(_, kind, list) => (self.routes_of(*kind), list.len()),
            Change::Grant(_) | Change::GrantGone { .. } => (&self.grants, 1),
            Change::Grants(_, list) => (&self.grants, list.len()),
            Change::Node(_) | Change::NodeGone(_) | Change::Nodes(_) | Change::Synced => return,
        };
        counter.inc_by(times as u64);
    }

    fn routes_of(&self, kind: RouteKind) -> &Counter {
        match kind {
            RouteKind::Grpc => &self.grpc_routes,
            RouteKind::Http => &self.http_routes,
        }
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let server = &self.server;
        let by_type = || {
            ResourceType::IN_ORDER.map(|resource_type| {
                (resource_type.short(), &server.by_type[resource_type.index()])
            })
        };
        families.labelled(
            "pilot_xds_pushes",
            "Responses sent",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, metrics)| (short, counter_value(&metrics.pushes))),
        )?;
        families.labelled(
            "pilot_total_xds_rejects",
            "NACKs received",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, metrics)| (short, counter_value(&metrics.rejects))),
        )?;
        families.labelled(
            "pilot_xds_expired_nonce",
            "Requests that were about another response than the last one",
            MetricType::Unknown,
            "type",
            by_type().map(|(short, metrics)| (short, counter_value(&metrics.expired_nonces))),
        )?;
        families.labelled(
            "pilothouse_xds_requests",
            "Requests received, ACKs and NACKs included",
            MetricType::Counter,
            "type",
            by_type().map(|(short, metrics)| (short, metrics.requests.clone())),
        )?;
        families.labelled(
            "pilot_xds_config_size_bytes",
            "Encoded size of a response",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, metrics)| (short, metrics.push_bytes.clone())),
        )?;
        families.labelled(
            "pilot_xds_push_time",
            "Seconds from a new snapshot or a request to the response being handed to the \
             connection",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, metrics)| (short, metrics.push_seconds.clone())),
        )?;
        families.labelled(
            "pilothouse_ack_seconds",
            "Seconds from a response being handed to the connection to its ACK",
            MetricType::Histogram,
            "type",
            by_type().map(|(short, metrics)| (short, metrics.ack_seconds.clone())),
        )?;
        families.single(
            "pilot_proxy_convergence_time",
            "Seconds from a change in the source to its response being handed to a proxy's \
             connection",
            server.convergence.clone(),
        )?;
        families.labelled(
            "pilot_inbound_updates",
            "What the source said: svc (a service is new or changed), svcdelete, eds (endpoints)",
            MetricType::Unknown,
            "type",
            [
                ("eds", counter_value(&self.endpoints)),
                ("svc", counter_value(&self.services)),
                ("svcdelete", counter_value(&self.services_gone)),
            ],
        )?;
        families.labelled(
            "pilot_k8s_cfg_events",
            "What the source said of routes and ReferenceGrants (new, changed or gone), by kind",
            MetricType::Unknown,
            "type",
            [
                ("GRPCRoute", counter_value(&self.grpc_routes)),
                ("HTTPRoute", counter_value(&self.http_routes)),
                ("ReferenceGrant", counter_value(&self.grants)),
            ],
        )?;
        families.single(
            "pilothouse_snapshots",
            "Snapshots cut, that is, changes published",
            self.snapshots.clone(),
        )?;
        families.single(
            "pilothouse_snapshot_seconds",
            "Seconds that building a snapshot took",
            self.snapshot_seconds.clone(),
        )?;
        families.single(
            "pilothouse_streams_opened",
            "xDS streams opened",
            server.streams_opened.clone(),
        )?;
        families.single(
            "pilothouse_streams_closed",
            "xDS streams ended, for whatever reason",
            server.streams_closed.clone(),
        )?;
        families.single(
            "pilothouse_probes",
            "xDS streams opened by probes: pilothouse doctor, and agents of sidecars that are not \
             ready",
            self.probes.clone(),
        )?;
        families.single(
            "pilothouse_waiting_streams",
            "xDS streams that wait for their turn to be brought into sync",
            server.waiting_streams.clone(),
        )?;
        families.single(
            "pilothouse_send_timeouts",
            "Proxies disconnected because they had stopped reading",
            server.send_timeouts.clone(),
        )?;
        families.single(
            "pilothouse_refused_views",
            "Proxies refused because they need one view more than there may be",
            self.views_refused.clone(),
        )?;
        families.single(
            "pilothouse_aged_connections",
            "Connections ended because of their age, so that proxies spread over the replicas",
            server.connections_aged.clone(),
        )?;
        families.single(
            "pilothouse_admissions_overdue",
            "Streams brought into sync without a turn because they had waited for 4 s",
            server.admission_timeouts.clone(),
        )?;
        families.single(
            "pilothouse_connections_evicted",
            "Connections ended because they held too much memory",
            server.connections_evicted.clone(),
        )?;
        families.single(
            "pilothouse_peer_memory_bytes",
            "Memory charged to connected peers: requests, subscriptions, unsent answers",
            server.peer_bytes.clone(),
        )?;
        families.labelled(
            "pilothouse_events",
            "What was to be told by Kubernetes Events (--events), by what became of it",
            MetricType::Counter,
            "result",
            EventOutcome::ALL
                .iter()
                .zip(&self.events)
                .map(|((_, name), counter)| (*name, counter.clone())),
        )?;
        families.labelled(
            "pilothouse_route_statuses",
            "Looks at the status of a route, by what became of it",
            MetricType::Counter,
            "result",
            StatusOutcome::ALL
                .iter()
                .zip(&self.route_statuses)
                .map(|((_, name), counter)| (*name, counter.clone())),
        )?;
        families.single(
            "pilothouse_route_statuses_waiting",
            "Routes whose status is still to be looked at",
            self.route_statuses_waiting.clone(),
        )?;
        families.labelled(
            "pilothouse_authentications",
            "xDS streams by what their peer was found to be, or refused for",
            MetricType::Counter,
            "result",
            Authentication::ALL
                .iter()
                .zip(&self.authentications)
                .map(|((_, name), counter)| (*name, counter.clone())),
        )?;
        families.labelled(
            "pilothouse_token_verifications",
            "ServiceAccount tokens of proxies, by what became of them",
            MetricType::Counter,
            "result",
            self.tokens.verifications(),
        )?;
        families.labelled(
            "pilothouse_token_key_fetches",
            "Fetches of the keys that tokens are verified with",
            MetricType::Counter,
            "result",
            self.tokens.key_fetches(),
        )
    }
}

/// A counter's number under its counter_value name: a gauge's line has nothing else.
fn counter_value(counter: &Counter) -> ConstGauge<u64> {
    ConstGauge::new(counter.get())
}

/// Writes metric families one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn single(&mut self, name: &str, help: &str, sample: impl EncodeMetric) -> fmt::Result {
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

//! Metrics that are computed from the current state at each scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pilothouse_xds::FrameBuilder;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use super::{Families, process};
use crate::door::{ConnectionCounters, ListenerStats};
use crate::logging;
use crate::model::Model;
use crate::names::{Discovery, ResourceType};
use crate::proxies::{Proxies, SyncState, TypeStatus};
use crate::snapshot::{ConflictKind, Snapshot};
use crate::source::health::{Health, WatchHealth};
use crate::version::VERSION;

/// A proxy may report any version, so the number of label values is limited here.
const MAX_VERSIONS: usize = 16;

/// The state that the metrics are computed from; register it with
/// [`register_collector`](prometheus_client::registry::Registry::register_collector).
#[derive(Debug)]
pub struct Scrape {
    pub proxies: Arc<Proxies>,
    pub health: Arc<Health>,
    pub model: watch::Receiver<Model>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub frames: Arc<FrameBuilder>,
    /// The cluster's DNS domain.
    pub domain: Arc<str>,
    /// When the process started.
    pub started: SystemTime,
    pub listeners: Vec<ListenerStats>,
    /// Bytes of memory that the process may use.
    pub memory_limit: u64,
}

/// The states that a proxy may be in as a whole, as labels, the worst last.
const STATES: [&str; 4] = ["synced", "not_sent", "stale", "rejected"];

/// The place in [`STATES`] of a stream whose types these are: the worst of those that it asked for, as
/// the page of proxies has it.
fn worst_state(types: &[TypeStatus]) -> usize {
    let asked = types.iter().filter(|status| status.subscription.is_some() || status.sent > 0);
    let rank = |status: &TypeStatus| match status.state() {
        SyncState::Synced => 0,
        SyncState::NotSent => 1,
        SyncState::Stale => 2,
        SyncState::Error => 3,
    };
    asked.map(rank).max().unwrap_or(1)
}

/// The sums over all streams for one type.
#[derive(Clone, Copy, Debug, Default)]
struct TypeTotals {
    unacked: usize,
    oldest: Duration,
    rejecting: usize,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = SystemTime::now();
        let mut families = Families(encoder);
        families.labelled(
            "pilot_info",
            "Always 1; the version that is running",
            MetricType::Gauge,
            "version",
            [(VERSION, ConstGauge::new(1))],
        )?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        families.single(
            "process_start_time_seconds",
            "When the process started, seconds since 1970",
            ConstGauge::new(started.as_secs_f64()),
        )?;
        if let Some(bytes) = process::resident_bytes() {
            families.single(
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                ConstGauge::new(bytes),
            )?;
        }
        families.single(
            "pilothouse_memory_limit_bytes",
            "Memory that the process may use: the limit of its control group, else what the machine has",
            ConstGauge::new(self.memory_limit),
        )?;
        families.single(
            "pilothouse_log_lines_lost",
            "Lines of the log that could not be written, or not in time",
            ConstCounter::new(logging::lost()),
        )?;
        families.single(
            "pilothouse_log_lines_left_out",
            "Lines of the log that were left out because too many of their kind came at once",
            ConstCounter::new(logging::left_out()),
        )?;
        self.encode_listeners(&mut families)?;
        self.encode_proxies(&mut families, now)?;
        self.encode_mesh(&mut families)?;
        self.encode_source(&mut families)
    }
}

impl Scrape {
    fn encode_listeners(&self, families: &mut Families<'_>) -> fmt::Result {
        families.labelled(
            "pilothouse_connections",
            "Connections open now",
            MetricType::Gauge,
            "door",
            self.listeners
                .iter()
                .map(|listener| (listener.name, ConstGauge::new(listener.open_connections()))),
        )?;
        type Count = fn(&ConnectionCounters) -> u64;
        let counted: [(&str, &str, Count); 3] = [
            (
                "pilothouse_connections_refused",
                "Connections refused because there was no room and no stranger to cut",
                ConnectionCounters::refused,
            ),
            (
                "pilothouse_connections_cut",
                "Connections of strangers cut to make room for others",
                ConnectionCounters::cut,
            ),
            (
                "pilothouse_connection_panics",
                "Connections dropped because the code that serves them panicked",
                ConnectionCounters::panicked,
            ),
        ];
        for (name, help, count) in counted {
            let samples = self
                .listeners
                .iter()
                .map(|listener| (listener.name, ConstCounter::new(count(&listener.counts))));
            families.labelled(name, help, MetricType::Counter, "door", samples)?;
        }
        Ok(())
    }

    fn encode_proxies(&self, families: &mut Families<'_>, now: SystemTime) -> fmt::Result {
        let mut versions: BTreeMap<Arc<str>, i64> = BTreeMap::new();
        let mut kinds =
            BTreeMap::from(["probe", "router", "sidecar", "standalone", "unknown"].map(|k| (k, 0)));
        // The names of the clusters of those on demand.
        let (mut on_demand, mut all, mut named) = (0_u64, 0_u64, 0_usize);
        let mut totals = [TypeTotals::default(); ResourceType::COUNT];
        let mut states = [0_u64; STATES.len()];
        for connection in self.proxies.all() {
            let status = connection.status();
            let (version, kind) = match &status.identity {
                Some(identity) if identity.probe => (identity.user_agent.clone(), "probe"),
                Some(identity) => (identity.user_agent.clone(), identity.view.kind.as_str()),
                None => (Arc::from(""), "unknown"),
            };
            let version = if version.is_empty() { "unknown".into() } else { version };
            let known = versions.len() < MAX_VERSIONS || versions.contains_key(&version);
            *versions.entry(if known { version } else { "other".into() }).or_default() += 1;
            *kinds.entry(kind).or_default() += 1;
            if kind != "probe" {
                states[worst_state(&status.types)] += 1;
            }
            match status.identity.as_ref().filter(|identity| !identity.probe) {
                Some(identity) if identity.view.kind.discovery() == Discovery::OnDemand => {
                    let clusters = &status.types[ResourceType::Cluster.index()];
                    named += clusters.subscription.as_ref().map_or(0, |names| names.len());
                    on_demand += 1;
                }
                Some(_) => all += 1,
                None => {}
            }
            for (status, totals) in status.types.iter().zip(&mut totals) {
                match status.state() {
                    SyncState::Stale => {
                        let age = status.last_sent.map_or(Duration::ZERO, |sent| age(sent, now));
                        totals.unacked += 1;
                        totals.oldest = totals.oldest.max(age);
                    }
                    SyncState::Error => totals.rejecting += 1,
                    SyncState::NotSent | SyncState::Synced => {}
                }
            }
        }
        families.labelled(
            "pilot_xds",
            "xDS streams open now, by the proxies' own version (the first 16 of them)",
            MetricType::Gauge,
            "version",
            versions.into_iter().map(|(version, count)| (version, ConstGauge::new(count))),
        )?;
        families.labelled(
            "pilothouse_proxies",
            "xDS streams open now, by kind of proxy",
            MetricType::Gauge,
            "kind",
            kinds.into_iter().map(|(kind, count): (_, i64)| (kind, ConstGauge::new(count))),
        )?;
        families.labelled(
            "pilothouse_proxies_by_discovery",
            "xDS streams of proxies open now, by how they get their clusters",
            MetricType::Gauge,
            "discovery",
            [("all", ConstGauge::new(all)), ("on-demand", ConstGauge::new(on_demand))],
        )?;
        families.single(
            "pilothouse_on_demand_names",
            "Names of clusters that proxies on demand have subscribed to, summed over all of them",
            ConstGauge::new(named),
        )?;
        families.labelled(
            "pilothouse_proxy_states",
            "xDS streams of proxies open now, by the worst state among their types",
            MetricType::Gauge,
            "state",
            STATES.iter().zip(states).map(|(state, count)| (*state, ConstGauge::new(count))),
        )?;
        let by_type = || {
            ResourceType::IN_ORDER
                .map(|resource_type| (resource_type.short(), totals[resource_type.index()]))
        };
        families.labelled(
            "pilothouse_unacked_streams",
            "Streams that have not answered the last response yet",
            MetricType::Gauge,
            "type",
            by_type().map(|(short, totals)| (short, ConstGauge::new(totals.unacked))),
        )?;
        families.labelled(
            "pilothouse_oldest_unacked_seconds",
            "Seconds since the oldest response without an answer was sent, 0 if there is none",
            MetricType::Gauge,
            "type",
            by_type().map(|(short, totals)| (short, ConstGauge::new(totals.oldest.as_secs_f64()))),
        )?;
        families.labelled(
            "pilothouse_rejecting_streams",
            "Streams whose last answer was a NACK",
            MetricType::Gauge,
            "type",
            by_type().map(|(short, totals)| (short, ConstGauge::new(totals.rejecting))),
        )
    }

    fn encode_mesh(&self, families: &mut Families<'_>) -> fmt::Result {
        // Cloned out (a pointer or two): a held borrow would stop the writer.
        let model = self.model.borrow().clone();
        let snapshot = self.snapshot.borrow().clone().unwrap_or_default();
        families.single(
            "pilot_services",
            "Services known",
            ConstGauge::new(model.service_count()),
        )?;
        families.single(
            "pilot_eds_no_instances",
            "Ports of services behind which nothing is ready or draining",
            ConstGauge::new(model.ports_without_endpoints().count()),
        )?;
        families.single(
            "pilothouse_service_flaws",
            "Parts of services that are wrong and not honoured (/debug/registryz says why)",
            ConstGauge::new(model.flaws(&self.domain).count()),
        )?;
        for kind in ConflictKind::ALL {
            let count = snapshot.conflicts.keys().filter(|one| one.kind == kind).count();
            families.single(kind.metric(), kind.help(), ConstGauge::new(count))?;
        }
        families.single(
            "pilothouse_endpoint_slices",
            "EndpointSlices (or Endpoints objects) known",
            ConstGauge::new(model.slice_count()),
        )?;
        families.single(
            "pilothouse_snapshot_generation",
            "Number of the newest snapshot, 0 before the first",
            ConstGauge::new(snapshot.generation),
        )?;
        families.single(
            "pilothouse_snapshot_views",
            "Views (sorts of proxies) in the newest snapshot",
            ConstGauge::new(snapshot.views.len()),
        )?;
        families.single(
            "pilothouse_frames_kept_bytes",
            "Bytes of encoded responses that are kept for streams that need the same",
            ConstGauge::new(self.frames.cached_bytes()),
        )
    }

    fn encode_source(&self, families: &mut Families<'_>) -> fmt::Result {
        // What is not there, and need not be, is neither stale nor late.
        let mut watches = self.health.watches();
        watches.retain(|_, watch| watch.absent.is_none());
        let gauge_of_each = |value: fn(&WatchHealth) -> f64| {
            watches.iter().map(move |(name, watch)| (name, ConstGauge::new(value(watch))))
        };
        families.labelled(
            "pilothouse_watch_synced",
            "1 once the watch has listed everything",
            MetricType::Gauge,
            "watch",
            gauge_of_each(|watch| f64::from(watch.synced)),
        )?;
        families.labelled(
            "pilothouse_watch_age_seconds",
            "Seconds since the source last heard from the other side, NaN if never",
            MetricType::Gauge,
            "watch",
            gauge_of_each(|watch| watch.age().map_or(f64::NAN, |age| age.as_secs_f64())),
        )?;
        let limits = watches.iter().filter_map(|(name, watch)| Some((name, watch.lasts?)));
        families.labelled(
            "pilothouse_watch_timeout_seconds",
            "Seconds that one watch request lasts: the API server is heard of that often at least",
            MetricType::Gauge,
            "watch",
            limits.map(|(name, lasts)| (name, ConstGauge::new(lasts.as_secs_f64()))),
        )?;
        families.labelled(
            "pilothouse_watch_errors",
            "Failures of the watch",
            MetricType::Counter,
            "watch",
            watches.iter().map(|(name, watch)| (name, ConstCounter::new(watch.errors))),
        )?;
        families.single(
            "pilothouse_source_rejected_objects",
            "Objects left out because they cannot be used (/debug/sourcez says why)",
            ConstGauge::new(self.health.rejections().len()),
        )?;
        families.single(
            "pilothouse_source_noted_objects",
            "Objects of which a part is left out (/debug/sourcez says which and why)",
            ConstGauge::new(self.health.notes().len()),
        )?;
        families.single(
            "pilothouse_source_skipped_objects",
            "Objects passed over because nothing is done with their kind",
            ConstGauge::new(self.health.skipped().values().sum::<u64>()),
        )
    }
}

/// Zero if the clock was set back meanwhile.
fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pilothouse_xds::Interner;

    use super::*;

    #[test]
    fn a_proxy_is_as_well_as_the_worst_type_that_it_asked_for() {
        let unasked = TypeStatus::default();
        let synced = TypeStatus { sent: 1, nonce_sent: 1, nonce_acked: 1, ..Default::default() };
        let stale = TypeStatus { nonce_acked: 0, ..synced.clone() };
        let rejected = TypeStatus { last_error: Some("no".into()), ..stale.clone() };
        let subscription = Some(Interner::default().intern(true, Vec::new()));
        let not_sent = TypeStatus { subscription, ..unasked.clone() };
        for (types, wanted) in [
            ([&synced, &synced, &unasked, &unasked], "synced"),
            ([&synced, &not_sent, &unasked, &unasked], "not_sent"),
            ([&synced, &stale, &not_sent, &synced], "stale"),
            ([&stale, &rejected, &synced, &synced], "rejected"),
            ([&unasked; 4], "not_sent"),
        ] {
            let types = types.map(Clone::clone);
            assert_eq!(STATES[worst_state(&types)], wanted);
        }
    }
}

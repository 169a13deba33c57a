//! `/debug/push_status` and `/debug/sourcez`: what is wrong, and where it all comes from.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{DebugError, DebugState, Parameters, ResponseWriter, rfc3339};
use crate::certificates::Certificates;
use crate::certificates::files::ServerFiles;
use crate::identity::tokens::{TokenHealth, TokenVerification};
use crate::names::{self, ResourceType};
use crate::route_status::RouteStatusFacts;

/// Istio's ProxyPushStatus.
#[derive(Debug, Serialize)]
struct PushStatusEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    message: String,
}

/// By metric, then by what it concerns. Unlike Istio's, which is of the last push, it is about
/// now: an entry goes away when its cause does.
///
/// - `pilot_xds_{cds,eds,lds,rds}_reject`: streams whose last answer was a NACK
/// - `pilot_eds_no_instances`: ports behind which nothing is ready, by cluster name
/// - `pilothouse_service_flaws`: parts of services that are wrong and not honoured, by service and
///   field
/// - `pilot_conflict_…`: services that do not get a listener, or a say about a port, because others
///   have it, by the listener's name (the workload's port) and the service
/// - `pilothouse_source_rejected_objects`, `pilothouse_watch_errors`, `pilothouse_certificate_unusable`: see
///   `/debug/sourcez`
pub(super) fn push_status(
    state: &DebugState,
    _: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let mut page: BTreeMap<String, BTreeMap<String, PushStatusEntry>> = BTreeMap::new();
    let mut add = |metric: &str, key: String, proxy: Option<String>, message: String| {
        let entries = page.entry(metric.to_owned()).or_default();
        entries.insert(key, PushStatusEntry { proxy, message });
    };
    for connection in state.proxies.all() {
        let status = connection.status();
        let proxy = status.identity.map(|identity| identity.name.to_string());
        for (of, status) in ResourceType::IN_ORDER.into_iter().zip(status.types) {
            if let Some(error) = status.last_error {
                let metric = format!("pilot_xds_{}_reject", of.short());
                add(&metric, connection.connection_id(), proxy.clone(), error.to_string());
            }
        }
    }
    for (service, port) in state.model().ports_without_endpoints() {
        let host = names::host(&service.key.name, &service.key.namespace, &state.domain);
        let message = match &*port.name {
            "" => "no endpoint is ready".to_owned(),
            name => format!("no endpoint with a port named {name:?} is ready"),
        };
        add("pilot_eds_no_instances", names::outbound_cluster(port.port, &host), None, message);
    }
    for (service, flaw) in state.model().flaws(&state.domain) {
        let place = format!("{service}: {}", flaw.field);
        add("pilothouse_service_flaws", place, None, flaw.reason.to_string());
    }
    for (conflict, text) in state.snapshot().iter().flat_map(|snapshot| &snapshot.conflicts) {
        let key = format!("{} {}", conflict.place, conflict.loser);
        add(conflict.kind.metric(), key, None, text.to_string());
    }
    for (object, reason) in state.health.rejections() {
        add("pilothouse_source_rejected_objects", object, None, reason);
    }
    for (watch, health) in state.health.watches() {
        if let Some(error) = health.last_error {
            add("pilothouse_watch_errors", watch, None, error);
        }
    }
    let unusable = state.certificates.as_deref().and_then(|all| all.status().unusable);
    if let Some(reason) = unusable {
        add("pilothouse_certificate_unusable", "certificates".to_owned(), None, reason);
    }
    writer.json(&page)
}

/// This page is ours alone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceStatus {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<String>,
    watches: Vec<WatchStatus>,
    /// Objects left out, with the reason.
    rejected: BTreeMap<String, String>,
    /// Objects that are used but for a part, with what was left out and why.
    noted: BTreeMap<String, String>,
    /// Objects of kinds with which nothing is done, by kind.
    skipped: BTreeMap<String, u64>,
    services: usize,
    endpoint_slices: usize,
    /// What xDS over TLS is served with.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates: Option<CertificatesStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Published>,
    /// How the tokens of proxies are verified, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokenStatus>,
    routes: usize,
    /// How it goes with the status of routes, if it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    route_status: Option<WriterStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WriterStatus {
    /// Routes whose status is still to be looked at.
    waiting: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_written: Option<String>,
    /// Why nothing can be written, as without the right.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl WriterStatus {
    fn new(facts: RouteStatusFacts) -> Self {
        let RouteStatusFacts { waiting, last_written, last_error } = facts;
        Self { waiting, last_written: last_written.map(rfc3339), last_error }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    /// `keys` or `review`.
    verification: &'static str,
    audiences: Vec<String>,
    #[serde(flatten)]
    keys: Option<TokenKeys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// The keys that tokens are verified with; they may be as old as this.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// Their ids.
    keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
}

impl TokenStatus {
    fn new(health: TokenHealth) -> Self {
        let TokenHealth { verification, audiences, issuer, keys, fetched, last_error } = health;
        let (verification, keys) = match verification {
            TokenVerification::Off => ("off", None),
            TokenVerification::Review => ("review", None),
            TokenVerification::Keys => {
                let (fetched, age) = fetched.unzip();
                let keys = TokenKeys {
                    issuer,
                    keys,
                    fetched: fetched.map(rfc3339),
                    age_seconds: age.map(|age| age.as_secs_f64()),
                };
                ("keys", Some(keys))
            }
        };
        Self { verification, audiences, keys, last_error }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WatchStatus {
    name: String,
    synced: bool,
    /// How the last list was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_contact: Option<String>,
    /// How old that is now; what is served may be as old as this.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    errors: u64,
    /// Why there is nothing to watch, where that is no failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificatesStatus {
    /// The files of the certificate, its key and the CA for clients.
    files: Vec<String>,
    /// When what is served was read.
    loaded: String,
    server_expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ca_expires: Option<String>,
    /// Why the files cannot be used as they are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    unusable: Option<String>,
    reloads: u64,
    failures: u64,
}

impl CertificatesStatus {
    fn of(certificates: &Certificates) -> Self {
        let status = certificates.status();
        let ServerFiles { certificate, key, client_ca } = certificates.files();
        let files = [certificate, key].into_iter().chain(client_ca);
        Self {
            files: files.map(|path| path.display().to_string()).collect(),
            loaded: rfc3339(status.loaded),
            server_expires: rfc3339(status.server_expires),
            client_ca_expires: status.client_ca_expires.map(rfc3339),
            unusable: status.unusable,
            reloads: status.reloads,
            failures: status.failures,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    generation: u64,
    views: Vec<PublishedView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PublishedView {
    view: String,
    /// Resources by type: `cds`, `eds`, `lds`, `rds`.
    resources: BTreeMap<&'static str, usize>,
    /// Encoded size of all of them.
    bytes: usize,
}

pub(super) fn sourcez(
    state: &DebugState,
    _: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let watches = state.health.watches().into_iter().map(|(name, health)| WatchStatus {
        name,
        synced: health.synced,
        listed: health.listed,
        last_contact: health.last_contact.map(rfc3339),
        age_seconds: health.age().map(|age| age.as_secs_f64()),
        last_error: health.last_error,
        errors: health.errors,
        absent: health.absent,
    });
    let waiting_for = state.readiness.waiting_for();
    let model = state.model();
    writer.json(&SourceStatus {
        ready: waiting_for.is_none(),
        waiting_for,
        watches: watches.collect(),
        rejected: state.health.rejections(),
        noted: state.health.notes(),
        skipped: state.health.skipped(),
        services: model.service_count(),
        endpoint_slices: model.slice_count(),
        certificates: state.certificates.as_deref().map(CertificatesStatus::of),
        snapshot: state.snapshot().map(|snapshot| {
            let mut views: Vec<_> = snapshot.views.iter().collect();
            views.sort_by_key(|(key, _)| *key);
            let views = views.into_iter().map(|(key, view)| PublishedView {
                view: key.to_string(),
                resources: ResourceType::IN_ORDER
                    .into_iter()
                    .map(|of| (of.short(), view.set(of).len()))
                    .collect(),
                bytes: ResourceType::IN_ORDER.into_iter().map(|of| view.set(of).bytes()).sum(),
            });
            Published { generation: snapshot.generation, views: views.collect() }
        }),
        tokens: state.tokens.as_ref().map(|tokens| TokenStatus::new(tokens.health())),
        routes: model.routes().count(),
        route_status: state.route_status.as_ref().map(|health| WriterStatus::new(health.facts())),
    })
}

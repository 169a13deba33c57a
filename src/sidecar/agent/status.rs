//! The agent's own pages (15020): probes, how it stands with clusters on demand, Envoy's and the agent's
//! statistics as one page, and what the pod itself may ask for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, RawQuery, State as Shared};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::app_metrics::AppMetrics;
use super::app_probes::{APP_HEALTH, APP_LIFECYCLE, AppProbes, ProbeResponse};
use super::discovery::ClusterDiscovery;
use super::drain::{self, NotDraining};
use super::readiness::{NotReady, ProbeConditions};
use super::remember::OnDemandState;
use crate::exposition::{PROMETHEUS_TEXT, to_prometheus_text};
use crate::readiness::Conditions;
use crate::sidecar::envoy_admin::EnvoyAdmin;

/// For somebody who waits for the page.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// What the pages are about.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) admin: EnvoyAdmin,
    pub(super) conditions: ProbeConditions,
    /// The condition of being ready that ends as draining begins.
    pub(super) not_draining: Arc<NotDraining>,
    /// To be cancelled to begin the end.
    pub(super) quit: CancellationToken,
    pub(super) inbound_only: bool,
    pub(super) probes: AppProbes,
    /// The application's own metrics, where they are merged.
    pub(super) application: Option<AppMetrics>,
    pub(super) clusters: ClusterDiscovery,
    /// How it stands with clusters that come on demand, where they do.
    pub(super) on_demand: Option<watch::Receiver<Option<OnDemandState>>>,
    /// Scrapes for which Envoy had no answer.
    pub(super) failed_scrapes: Counter,
    /// Scrapes for which the application had no page of metrics.
    pub(super) failed_app_scrapes: Counter,
}

pub(super) fn router(pages: Arc<Pages>) -> Router {
    let of_the_pod = Router::new()
        .route("/quitquitquit", post(quit))
        .route("/drain", post(begin_drain))
        .layer(middleware::from_fn(only_loopback));
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/healthz/live", get(live))
        .route("/discovery", get(discovery))
        .route(&format!("{APP_HEALTH}/{{*probe}}"), get(application))
        .route(&format!("{APP_LIFECYCLE}/{{*hook}}"), get(application))
        .route("/stats/prometheus", get(statistics))
        .route("/metrics", get(statistics))
        .merge(of_the_pod)
        .with_state(pages)
}

async fn ready(Shared(pages): Shared<Arc<Pages>>) -> (StatusCode, String) {
    let (status, mut page) = probe_page("ready", &pages.conditions.ready);
    if let Some(line) = pages.discovery_line() {
        page = page + &line + "\n";
    }
    (status, page)
}

impl Pages {
    /// What the readiness page says of clusters on demand, and what they wait for; nothing where nobody
    /// asked for them.
    fn discovery_line(&self) -> Option<String> {
        let state = self.on_demand.as_ref().and_then(|on_demand| *on_demand.borrow());
        match (&self.on_demand, state) {
            (None, _) => self.clusters.fallback().map(|_| self.clusters.to_string()),
            (Some(_), None) => Some(self.clusters.to_string()),
            (Some(_), Some(state)) => Some(format!("{}: {state}", self.clusters)),
        }
    }

    fn discovery(&self, state: Option<OnDemandState>) -> Value {
        let mut page = self.clusters.to_json();
        if let (Value::Object(fields), Some(OnDemandState { stats, offered })) = (&mut page, state)
        {
            fields.insert("offered".to_owned(), json!(offered));
            fields.insert("connected".to_owned(), json!(stats.connected));
            let clusters = json!({ "active": stats.clusters, "warming": stats.warming });
            fields.insert("clusters".to_owned(), clusters);
            fields.insert("withoutCluster".to_owned(), json!(stats.without_cluster));
        }
        page
    }
}

/// Asked of Envoy at once, since what waits changes while somebody looks.
async fn discovery(Shared(pages): Shared<Arc<Pages>>) -> Json<Value> {
    let known = pages.on_demand.as_ref().and_then(|on_demand| *on_demand.borrow());
    let state = match &pages.on_demand {
        None => None,
        Some(_) => match pages.admin.within(DISCOVERY_TIMEOUT).on_demand_stats().await {
            Ok(stats) => Some(OnDemandState { stats, ..known.unwrap_or_default() }),
            Err(_) => known,
        },
    };
    Json(pages.discovery(state))
}

fn probe_page(met: &str, conditions: &Conditions) -> (StatusCode, String) {
    match conditions.waiting_for() {
        None => (StatusCode::OK, format!("{met}\n")),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", NotReady(&reason))),
    }
}

async fn application(
    Shared(pages): Shared<Arc<Pages>>,
    uri: Uri,
    headers: HeaderMap,
) -> ProbeResponse {
    pages.probes.answer(uri.path(), &headers).await
}

/// Fails where only a restart helps.
async fn live(Shared(pages): Shared<Arc<Pages>>) -> (StatusCode, String) {
    probe_page("live", &pages.conditions.live)
}

/// The agent's metrics first: they are there even if Envoy is not. The application's last, and checked,
/// since Prometheus refuses a whole page for one line that it cannot read.
async fn statistics(
    Shared(pages): Shared<Arc<Pages>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/stats/prometheus{query}");
    let application = async {
        match &pages.application {
            Some(application) => application.scrape(&headers).await,
            None => Ok(String::new()),
        }
    };
    let (envoys, application) = tokio::join!(pages.admin.get(&path), application);
    let envoys = envoys.unwrap_or_else(|error| {
        pages.failed_scrapes.inc();
        warn!("a scrape is without Envoy's part: {error}");
        Default::default()
    });
    let application = application.unwrap_or_else(|error| {
        pages.failed_app_scrapes.inc();
        warn!("a scrape is without the application's part: {error}");
        Default::default()
    });
    let mut page = own_metrics(&pages);
    page.push_str(&envoys);
    if !page.ends_with('\n') {
        page.push('\n');
    }
    page.push_str(&application);
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], page).into_response()
}

fn own_metrics(pages: &Pages) -> String {
    let mut registry = Registry::with_prefix("pilothouse_agent");
    let version = Info::new([("version", crate::version::VERSION)]);
    registry.register("build", "What is running", version);
    let ready = pages.conditions.ready.waiting_for().is_none();
    registry.register(
        "ready",
        "Whether /healthz/ready answers 200",
        ConstGauge::new(i64::from(ready)),
    );
    let discovery = Info::new([("mode", pages.clusters.mode().as_str())]);
    registry.register("discovery", "Which clusters the proxy holds", discovery);
    registry.register(
        "failed_scrapes",
        "Scrapes for which Envoy had no answer",
        pages.failed_scrapes.clone(),
    );
    registry.register(
        "failed_application_scrapes",
        "Scrapes for which the application had no page of metrics that can be read",
        pages.failed_app_scrapes.clone(),
    );
    let mut page = String::new();
    if let Err(error) = encode(&mut page, &registry) {
        warn!("the agent's own metrics cannot be written: {error}");
        return String::new();
    }
    to_prometheus_text(&page)
}

async fn quit(Shared(pages): Shared<Arc<Pages>>) -> &'static str {
    info!("/quitquitquit");
    pages.quit.cancel();
    "ending\n"
}

async fn begin_drain(Shared(pages): Shared<Arc<Pages>>) -> &'static str {
    info!("/drain");
    pages.not_draining.end();
    drain::start_draining(&pages.admin, pages.inbound_only, drain::ListenersAfter::Close).await;
    "draining\n"
}

/// The containers of a pod share its loopback; nobody else is to end its proxy.
async fn only_loopback(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    match peer.ip().to_canonical().is_loopback() {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "only from the pod itself (127.0.0.1)\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    /// Status of a POST by somebody at `peer`, and what it led to: draining, ending.
    async fn post_from(peer: IpAddr, path: &str) -> (u16, bool, bool) {
        let conditions = ProbeConditions::default();
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let not_draining = Arc::new(NotDraining::new(&conditions.ready));
        let quit = CancellationToken::new();
        let pages = Pages {
            admin: EnvoyAdmin::new(nowhere, Duration::from_secs(5)),
            conditions: conditions.clone(),
            not_draining: not_draining.clone(),
            quit: quit.clone(),
            inbound_only: true,
            probes: AppProbes::new(Default::default(), peer).unwrap(),
            application: None,
            clusters: ClusterDiscovery::default(),
            on_demand: None,
            failed_scrapes: Counter::default(),
            failed_app_scrapes: Counter::default(),
        };
        let mut request = Request::post(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer, 40_000)));
        let answer = router(Arc::new(pages)).oneshot(request).await.unwrap();
        (answer.status().as_u16(), conditions.ready.waiting_for().is_some(), quit.is_cancelled())
    }

    #[tokio::test]
    async fn only_the_pod_itself_may_end_it() {
        for stranger in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
            let stranger = stranger.parse().unwrap();
            assert_eq!(post_from(stranger, "/quitquitquit").await, (403, false, false));
            assert_eq!(post_from(stranger, "/drain").await, (403, false, false));
            assert_eq!(post_from(stranger, "/healthz/ready").await.0, 405);
        }
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let own = own.parse().unwrap();
            assert_eq!(post_from(own, "/quitquitquit").await, (200, false, true));
            assert_eq!(post_from(own, "/drain").await, (200, true, false));
        }
    }
}

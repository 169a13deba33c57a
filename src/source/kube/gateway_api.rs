//! Routes and grants: kinds that an API server may not have, and that we may have no right to.
//!
//! They are watched as all others are, once they are there. One task asks the API's discovery which of them the
//! server has, again as long as one is missing; the watches wait for its answers. A kind that is not there (its
//! CRD is not installed) or that may not be read (no manifests/routes) holds nothing up: a first answer of that
//! sort is as good as an empty list. What was known stays when a right is gone or anything fails, and goes when
//! the API's discovery says twice that the kind is gone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::super::convert::route::{
    GatewayKind, GatewayObject, GrpcRouteV1, HttpRouteV1, ReferenceGrantV1,
};
use super::super::convert::{Converted, Converter, Rejection};
use super::client::{self, Server};
use super::errors;
use super::events::{Watched, namespaced};
use super::lenient_decode::LenientDecode;
use super::watch::{Ended, Watch, back_off};
use crate::model::route::GROUP;
use crate::model::{Change, ReferenceGrant, Route, RouteKey, RouteKind, Scope};

pub(super) type HttpRoute = GatewayObject<HttpRouteV1>;
pub(super) type GrpcRoute = GatewayObject<GrpcRouteV1>;
pub(super) type Grant = GatewayObject<ReferenceGrantV1>;

const PLURALS: [&str; 3] = [HttpRouteV1::PLURAL, GrpcRouteV1::PLURAL, ReferenceGrantV1::PLURAL];
/// How many kinds there are here.
pub(super) const KINDS: usize = PLURALS.len();
/// Between the two answers by which a kind is gone that was there: a server that starts may not know its CRDs.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// The version in which a kind is asked for; both have the same schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    /// ReferenceGrants, before 1.5.
    V1Beta1,
}

impl Version {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// What the API's discovery has said.
#[derive(Clone, Debug, Default)]
enum Answer {
    #[default]
    None,
    /// The kinds that there are, by their plural.
    Kinds(BTreeMap<&'static str, Version>),
    /// It cannot be asked, and whether it is forbidden.
    Failed { error: String, forbidden: bool },
}

/// Where a watch learns whether its kind is there.
#[derive(Clone, Debug)]
pub(super) struct Discovery {
    answers: watch::Receiver<Answer>,
    asks: mpsc::Sender<()>,
    /// That a right is missing has been logged, by the watch of whatever kind.
    pub(super) told_of_right: Arc<AtomicBool>,
}

/// Makes the answers; to be run for as long as there are watches.
pub(super) struct DiscoveryTask {
    server: Server,
    answers: watch::Sender<Answer>,
    asked: mpsc::Receiver<()>,
}

pub(super) fn discovery(server: Server) -> (Discovery, DiscoveryTask) {
    let (sender, answers) = watch::channel(Answer::default());
    let (asks, asked) = mpsc::channel(1);
    let discovery = Discovery { answers, asks, told_of_right: Arc::default() };
    (discovery, DiscoveryTask { server, answers: sender, asked })
}

impl DiscoveryTask {
    pub(super) async fn run(mut self) {
        let mut backoff = DefaultBackoff::default();
        let mut last_missing = Vec::new();
        loop {
            let answer = self.ask().await;
            let complete = matches!(&answer, Answer::Kinds(kinds) if kinds.len() == KINDS);
            if let Answer::Kinds(kinds) = &answer {
                let missing = PLURALS.into_iter().filter(|plural| !kinds.contains_key(plural));
                let missing: Vec<_> = missing.collect();
                if missing != last_missing {
                    log_missing(&missing);
                    backoff.reset();
                    last_missing = missing;
                }
            }
            self.answers.send_replace(answer);
            let again = async {
                match complete {
                    true => std::future::pending().await,
                    false => back_off(&mut backoff).await,
                }
            };
            tokio::select! {
                () = again => {}
                asked = self.asked.recv() => {
                    if asked.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn ask(&self) -> Answer {
        let mut kinds = BTreeMap::new();
        for version in [Version::V1, Version::V1Beta1] {
            if kinds.len() == KINDS {
                break;
            }
            let group_version = format!("{GROUP}/{}", version.as_str());
            let names = match self.server.client.list_api_group_resources(&group_version).await {
                Ok(list) => list.resources.into_iter().map(|one| one.name).collect::<Vec<_>>(),
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => {
                    let forbidden =
                        matches!(&error, kube::Error::Api(status) if status.code == 403);
                    let what = "the API's discovery";
                    let error = errors::explain(&error, &self.server.url, what);
                    return Answer::Failed { error, forbidden };
                }
            };
            let routes: &[&'static str] = match version {
                Version::V1 => &PLURALS,
                // HTTPRoutes are v1 since 0.8: an older CRD has another schema.
                Version::V1Beta1 => &[ReferenceGrantV1::PLURAL],
            };
            for plural in routes.iter().filter(|plural| names.iter().any(|name| name == *plural)) {
                kinds.entry(*plural).or_insert(version);
            }
        }
        Answer::Kinds(kinds)
    }
}

fn log_missing(missing: &[&str]) {
    if missing.is_empty() {
        info!("the API server has all kinds of routes");
    } else {
        let kinds = missing.join(", ");
        info!(
            %kinds,
            "the API server has no such kinds (the CRDs of the Gateway API, v1): nothing is routed by \
             them until it has; looked for again within a minute"
        );
    }
}

impl Discovery {
    /// Has it asked anew; what was said before is forgotten by this reader.
    fn ask(&mut self) {
        self.answers.mark_unchanged();
        // Full means that it will ask anyway.
        _ = self.asks.try_send(());
    }

    fn said(&mut self, plural: &str) -> Option<Result<Option<Version>, (String, bool)>> {
        match &*self.answers.borrow_and_update() {
            Answer::None => None,
            Answer::Kinds(kinds) => Some(Ok(kinds.get(plural).copied())),
            Answer::Failed { error, forbidden } => Some(Err((error.clone(), *forbidden))),
        }
    }
}

/// A watch of a kind that need not be there.
pub(super) struct OptionalWatch<K: Watched> {
    pub(super) watch: Watch<K>,
    /// Observed by the watch.
    pub(super) client: Client,
    pub(super) scope: Scope,
    pub(super) discovery: Discovery,
}

impl<K: Watched> OptionalWatch<K> {
    /// Ends when nobody receives.
    pub(super) async fn run(mut self, settings: watcher::Config) {
        // An answer that the kind is gone, of which another one must follow.
        let mut unconfirmed = false;
        // The server has answered 404 for a kind that the discovery has.
        let mut not_found = false;
        loop {
            let flow = match self.discovery.said(K::URL_PATH_SEGMENT) {
                None => ControlFlow::Continue(()),
                Some(Ok(Some(version))) => {
                    unconfirmed = false;
                    let client = client::at_version(&self.client, version.as_str());
                    match self.watch.run(K::api(client, &self.scope), settings.clone()).await {
                        Ended::NobodyReceives => return,
                        Ended::NotFound => self.discovery.ask(),
                    }
                    // However often the two disagree.
                    back_off(&mut self.watch.backoff).await;
                    if std::mem::replace(&mut not_found, true) {
                        let error = "404 Not Found for a kind that the API's discovery has";
                        self.watch.fails(error.to_owned()).await
                    } else {
                        ControlFlow::Continue(())
                    }
                }
                Some(Ok(None)) if self.watch.has_list && !unconfirmed => {
                    unconfirmed = true;
                    tokio::time::sleep(CONFIRMATION).await;
                    self.discovery.ask();
                    ControlFlow::Continue(())
                }
                Some(Ok(None)) => {
                    (unconfirmed, not_found) = (false, false);
                    let plural = K::URL_PATH_SEGMENT;
                    let why = format!("the API server has no {plural}.{GROUP} of version v1");
                    self.watch.is_absent(why).await
                }
                Some(Err((error, true))) => self.watch.is_forbidden(error).await,
                Some(Err((error, false))) => self.watch.fails(error).await,
            };
            if flow.is_break() || self.discovery.answers.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Watched for HttpRoute {
    type Model = Route;
    const RESOURCE: &'static str = HttpRouteV1::RESOURCE;

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }
    fn convert(&self, converter: &mut Converter) -> Result<Option<Converted<Route>>, Rejection> {
        converter.http_route(self).map(Some)
    }
    fn updated(object: Route) -> Change {
        Change::Route(object)
    }
    fn listed(scope: Scope, objects: Vec<Route>) -> Change {
        Change::Routes(scope, RouteKind::Http, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::RouteGone(RouteKey::new(RouteKind::Http, namespace, name))
    }
}

impl Watched for GrpcRoute {
    type Model = Route;
    const RESOURCE: &'static str = GrpcRouteV1::RESOURCE;

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }
    fn convert(&self, converter: &mut Converter) -> Result<Option<Converted<Route>>, Rejection> {
        converter.grpc_route(self).map(Some)
    }
    fn updated(object: Route) -> Change {
        Change::Route(object)
    }
    fn listed(scope: Scope, objects: Vec<Route>) -> Change {
        Change::Routes(scope, RouteKind::Grpc, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::RouteGone(RouteKey::new(RouteKind::Grpc, namespace, name))
    }
}

impl Watched for Grant {
    type Model = ReferenceGrant;
    const RESOURCE: &'static str = ReferenceGrantV1::RESOURCE;

    fn api(client: Client, scope: &Scope) -> Api<LenientDecode<Self>> {
        namespaced(client, scope)
    }
    fn convert(
        &self,
        converter: &mut Converter,
    ) -> Result<Option<Converted<ReferenceGrant>>, Rejection> {
        converter.reference_grant(self).map(Some)
    }
    fn updated(object: ReferenceGrant) -> Change {
        Change::Grant(object)
    }
    fn listed(scope: Scope, objects: Vec<ReferenceGrant>) -> Change {
        Change::Grants(scope, objects.into_iter().map(Arc::new).collect())
    }
    fn deleted(namespace: &str, name: &str) -> Change {
        Change::GrantGone { namespace: namespace.into(), name: name.into() }
    }
}

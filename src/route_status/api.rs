//! Asks the API server for a route, and writes its status.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Error};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::parents::{self, Decision};
use crate::causes::with_causes;
use crate::kubeconfig;
use crate::metrics::StatusOutcome;
use crate::model::RouteKey;
use crate::model::route::{API_VERSION, GROUP, RouteVerdict};

/// For one request, the connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a route is read again at once because somebody else has written to it meanwhile.
const ATTEMPTS: u32 = 5;
/// The longest pause that the API server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Whose fields they are for server-side apply.
const FIELD_MANAGER: &str = "pilothouse";

/// What became of a route's status.
#[derive(Debug)]
pub(super) struct Looked {
    /// How often somebody else was faster.
    pub(super) conflicts: u32,
    pub(super) outcome: Result<StatusOutcome, Failure>,
}

/// Why a status was not written. In the words of a failure there is no name of a route, so that all that fail
/// alike are told once.
#[derive(Debug)]
pub(super) enum Failure {
    /// For all routes of the kind.
    NoRight(String),
    /// For all routes: to be tried again, at the earliest after this.
    NotNow(String, Duration),
    /// This one, by others that write to it all the time.
    Contended,
    /// This one, for good: it would fail again. With the API server's words about it.
    Refused(String, String),
}

/// The API server, asked for the first time when there is a first route.
pub(super) struct ApiServer {
    context: Option<String>,
    client: OnceCell<Client>,
}

impl ApiServer {
    pub(super) fn new(context: Option<String>) -> Self {
        Self { context, client: OnceCell::new() }
    }

    /// Reads a route and writes its status if that does not say what the verdict says.
    pub(super) async fn look(&self, key: &RouteKey, verdict: &RouteVerdict) -> Looked {
        let mut conflicts = 0;
        let outcome = loop {
            match self.attempt(key, verdict).await {
                Err(Problem::Conflict) if conflicts < ATTEMPTS => conflicts += 1,
                Err(Problem::Conflict) => break Err(Failure::Contended),
                Err(Problem::Gone) => break Ok(StatusOutcome::Gone),
                Err(Problem::Other(failure)) => break Err(failure),
                Ok(outcome) => break Ok(outcome),
            }
        };
        Looked { conflicts, outcome }
    }

    async fn attempt(
        &self,
        key: &RouteKey,
        verdict: &RouteVerdict,
    ) -> Result<StatusOutcome, Problem> {
        let not_now = |error| Problem::Other(Failure::NotNow(error, Duration::ZERO));
        let connect = || kubeconfig::client(self.context.as_deref(), PATIENCE);
        let client = self.client.get_or_try_init(connect).await.map_err(not_now)?;
        let (kind, plural) = (key.kind.as_str(), key.kind.plural());
        let resource = ApiResource {
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            api_version: API_VERSION.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &resource);
        let object = answer(plural, api.get(&key.name)).await?;
        let status: Value = match parents::decide(key, verdict, &object, Timestamp::now()) {
            Decision::Unchanged => return Ok(StatusOutcome::Unchanged),
            Decision::Stale => return Ok(StatusOutcome::Stale),
            Decision::Apply(status) => status,
        };
        // The list is one field. Whoever else has applied it loses no entry: those are in it.
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        answer(plural, api.patch_status(&key.name, &apply, &Patch::Apply(&status))).await?;
        Ok(StatusOutcome::Written)
    }
}

/// What came of one request.
#[derive(Debug)]
enum Problem {
    Conflict,
    Gone,
    Other(Failure),
}

async fn answer<T>(
    plural: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Problem> {
    match timeout(PATIENCE, request).await {
        Ok(answered) => answered.map_err(|error| problem(plural, &error)),
        Err(_) => {
            let error = format!("no answer of the API server within {PATIENCE:?}");
            Err(Problem::Other(Failure::NotNow(error, Duration::ZERO)))
        }
    }
}

fn problem(plural: &str, error: &Error) -> Problem {
    let Error::Api(status) = error else {
        return Problem::Other(Failure::NotNow(with_causes(error), Duration::ZERO));
    };
    // Without the message, which names an object and so is another one each time.
    let told = format!("{} {}", status.code, status.reason);
    Problem::Other(match status.code {
        // The route, or all of its kind: that is no error.
        404 => return Problem::Gone,
        409 => return Problem::Conflict,
        // A webhook says 403 as well, of one object.
        401 => Failure::NoRight(no_right(&told, plural)),
        403 if status.message.contains(" cannot ") => Failure::NoRight(no_right(&told, plural)),
        429 | 500.. => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            Failure::NotNow(told, Duration::from_secs(seconds.into()).min(MAX_PAUSE))
        }
        _ => Failure::Refused(told, status.message.clone()),
    })
}

fn no_right(told: &str, plural: &str) -> String {
    format!(
        "{told}: the right to get {plural} and to patch {plural}/status of gateway.networking.k8s.io is missing \
         (manifests/routes has it); routes are served all the same, and it is tried again every {} minutes",
        super::WITHOUT_RIGHT.as_secs() / 60
    )
}

//! Which replicas there are: the addresses that were given, or the pods of the control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use super::args::ReplicaArgs;
use super::ask::{AskError, Replica};
use super::print;
use crate::causes::with_causes;
use crate::kubeconfig;

/// Many more than anybody runs; a selector that finds more has found something else.
const MAX_REPLICAS: usize = 100;

/// Why it is not known which replicas there are.
#[derive(Clone, Debug, Error)]
pub(super) enum FindError {
    #[error(
        "no API server is known ({from}): {error}. Give --kubeconfig, or --address HOST:PORT of a server's debug port"
    )]
    NoCluster { from: String, error: String },
    #[error("the API server does not say which pods there are: {0}")]
    Api(String),
    #[error("the API server does not answer within {0:?}")]
    Late(Duration),
    #[error(
        "no pod with the labels {selector} runs in the namespace {namespace}: --istio-namespace and \
         --selector say where the control plane is"
    )]
    None { namespace: String, selector: String },
    #[error(
        "{found} pods have the labels {selector}, more than replicas of a control plane: give a narrower --selector"
    )]
    TooMany { found: usize, selector: String },
}

/// A cluster, as far as it is known which.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
    /// Of the context.
    pub(super) default_namespace: String,
}

/// Finds replicas, again and again: each keeps its connections.
pub(super) struct Finder {
    args: ReplicaArgs,
    /// `None` if addresses were given.
    pub(super) cluster: Option<Cluster>,
    /// By name and uid; an address has no uid.
    known: BTreeMap<(String, String), Replica>,
}

/// The replicas of now, for a command that asks once.
///
/// # Errors
/// No cluster is known, the API server does not say, or there are none.
async fn find(args: &ReplicaArgs) -> Result<Vec<Replica>, FindError> {
    Finder::new(args).await?.list().await
}

/// The same; why there are none is printed.
pub(super) async fn find_or_say(args: &ReplicaArgs) -> Option<Vec<Replica>> {
    find(args).await.inspect_err(|error| print::error(&error.to_string())).ok()
}

impl Finder {
    /// # Errors
    /// No addresses were given, and no cluster is known.
    pub(super) async fn new(args: &ReplicaArgs) -> Result<Self, FindError> {
        let mut known = BTreeMap::new();
        if !args.address.is_empty() {
            for address in &args.address {
                let replica = Replica::at(*address, args.request_timeout);
                known.insert((address.to_string(), String::new()), replica);
            }
            return Ok(Self { args: args.clone(), cluster: None, known });
        }
        Ok(Self { args: args.clone(), cluster: Some(connect(args).await?), known })
    }

    /// The replicas of now: pods that run, those that are on their way out included, as proxies may be
    /// connected to them.
    ///
    /// # Errors
    /// The API server does not say, or there are none.
    pub(super) async fn list(&mut self) -> Result<Vec<Replica>, FindError> {
        let Some(cluster) = &self.cluster else {
            return Ok(self.known.values().cloned().collect());
        };
        let limit = self.args.request_timeout;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &self.args.istio_namespace);
        let parameters = ListParams::default().labels(&self.args.selector);
        let listed = timeout(limit, pods.list(&parameters)).await;
        let listed = listed.map_err(|_| FindError::Late(limit))?;
        let listed = listed.map_err(|error| FindError::Api(with_causes(&error)))?;
        let selector = self.args.selector.clone();
        let mut now = BTreeMap::new();
        for pod in listed.items.iter().filter(|pod| runs(pod)) {
            let key = (pod.name_any(), pod.uid().unwrap_or_default());
            let known = self.known.remove(&key);
            let replica = known.unwrap_or_else(|| Replica::pod(&key.0, pods.clone(), limit));
            now.insert(key, replica);
        }
        self.known = now;
        match self.known.len() {
            0 => Err(FindError::None { namespace: self.args.istio_namespace.clone(), selector }),
            found if found > MAX_REPLICAS => Err(FindError::TooMany { found, selector }),
            _ => Ok(self.known.values().cloned().collect()),
        }
    }
}

/// Whether proxies may be connected to it.
fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

async fn connect(args: &ReplicaArgs) -> Result<Cluster, FindError> {
    let no_cluster = |error: String| FindError::NoCluster { from: from(args), error };
    let chosen = kubeconfig::choose_from(args.kubeconfig.as_deref(), args.context.as_deref()).await;
    let mut config = chosen.map_err(|error| no_cluster(with_causes(&error)))?;
    config.connect_timeout = Some(args.request_timeout);
    config.default_retry = false;
    let default_namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| no_cluster(with_causes(&error)))?;
    Ok(Cluster { client, default_namespace })
}

fn from(args: &ReplicaArgs) -> String {
    match &args.kubeconfig {
        Some(file) => match &args.context {
            Some(context) => format!("{}, context {context}", file.display()),
            None => file.display().to_string(),
        },
        None => kubeconfig::describe(args.context.as_deref()),
    }
}

/// A replica that could not be asked, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) replica: String,
    pub(super) error: String,
}

/// What all replicas said to one question.
#[derive(Debug)]
pub(super) struct Asked<T> {
    /// By the name that the replica is known by here.
    pub(super) answers: Vec<(String, T)>,
    pub(super) failures: Vec<Failure>,
}

/// Asks all of them side by side.
pub(super) async fn ask_all<T, F>(replicas: &[Replica], question: impl Fn(Replica) -> F) -> Asked<T>
where
    F: Future<Output = Result<T, AskError>>,
{
    let asked: Vec<F> = replicas.iter().map(|replica| question(replica.clone())).collect();
    let mut all = Asked { answers: Vec::new(), failures: Vec::new() };
    for (replica, answer) in replicas.iter().zip(join_all(asked).await) {
        let replica = replica.name.clone();
        match answer {
            Ok(answer) => all.answers.push((replica, answer)),
            Err(error) => all.failures.push(Failure { replica, error: error.to_string() }),
        }
    }
    all
}

/// The JSON of a page of each.
pub(super) async fn ask_json<T: DeserializeOwned>(replicas: &[Replica], path: &str) -> Asked<T> {
    let question = |replica: Replica| {
        let path = path.to_owned();
        async move { replica.json(&path).await }
    };
    ask_all(replicas, question).await
}

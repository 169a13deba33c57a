//! Writes events to the API server, one after the other. What it refuses for good is not tried again; a
//! missing right is told once and tried again rarely; anything else a few times with growing pauses, while
//! the queue fills and what comes then is dropped.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event as KubeEvent;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::event::Event;
use crate::causes::with_causes;
use crate::kubeconfig;
use crate::metrics::{EventOutcome, Metrics};

/// For one request, the connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one event is tried, and the first pause; each further one is twice as long.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that the API server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long nothing is tried where the right is missing.
const WITHOUT_RIGHT: Duration = Duration::from_secs(300);

/// Ends when nobody queues events any more.
pub(super) async fn write_all(
    context: Option<String>,
    mut queued: mpsc::Receiver<Event>,
    metrics: Arc<Metrics>,
) {
    let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut writer = Writer { context, instance, client: None, told: None, not_before: None };
    while let Some(event) = queued.recv().await {
        let written = writer.write(&event).await;
        metrics.event(if written { EventOutcome::Written } else { EventOutcome::Failed });
    }
}

struct Writer {
    context: Option<String>,
    /// The pod's name, in a pod.
    instance: String,
    /// Made at the first event.
    client: Option<Client>,
    /// The last failure that was told, until the next success.
    told: Option<String>,
    not_before: Option<Instant>,
}

/// Why an event was not written.
enum Failure {
    /// It would fail again.
    ForGood(String),
    NoRight(String),
    /// To be tried again, at the earliest after this.
    ForNow(String, Duration),
}

impl Writer {
    async fn write(&mut self, event: &Event) -> bool {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return false;
        }
        self.not_before = None;
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.attempt(event).await {
                Ok(()) => {
                    if self.told.take().is_some() {
                        info!("Kubernetes Events are written again");
                    }
                    return true;
                }
                Err(Failure::ForGood(error)) => {
                    self.tell(error);
                    return false;
                }
                Err(Failure::NoRight(error)) => {
                    self.tell(error);
                    self.not_before = Some(Instant::now() + WITHOUT_RIGHT);
                    return false;
                }
                Err(Failure::ForNow(error, at_least)) => {
                    self.tell(error);
                    if attempt < ATTEMPTS {
                        sleep(pause.max(at_least)).await;
                        pause *= 2;
                    }
                }
            }
        }
        false
    }

    /// Once for all that fails alike.
    fn tell(&mut self, error: String) {
        if self.told.as_ref() != Some(&error) {
            warn!(%error, "cannot write Kubernetes Events (--events)");
            self.told = Some(error);
        }
    }

    async fn attempt(&mut self, event: &Event) -> Result<(), Failure> {
        let client = self.client().await.map_err(|error| Failure::ForNow(error, Duration::ZERO))?;
        let api = Api::<KubeEvent>::namespaced(client, event.namespace());
        match timeout(PATIENCE, send(&api, event, &self.instance)).await {
            Ok(sent) => sent.map_err(|error| failure(&error)),
            Err(_) => {
                let error = format!("no answer of the API server within {PATIENCE:?}");
                Err(Failure::ForNow(error, Duration::ZERO))
            }
        }
    }

    async fn client(&mut self) -> Result<Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = kubeconfig::client(self.context.as_deref(), PATIENCE).await?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

/// Creates the event, or counts one that is there: told by this process, by an earlier one or by another
/// replica. One that the API server has forgotten meanwhile is created anew.
async fn send(api: &Api<KubeEvent>, event: &Event, instance: &str) -> Result<(), Error> {
    let (name, patch) = (event.name(), Patch::Merge(event.to_patch()));
    let (create, again) = (PostParams::default(), PatchParams::default());
    if event.count > 1 {
        match api.patch(&name, &again, &patch).await {
            Err(error) if code(&error) == Some(404) => {}
            other => return other.map(drop),
        }
    }
    match api.create(&create, &event.to_create(instance)).await {
        Err(error) if code(&error) == Some(409) => match event.is_seen_by_all_replicas() {
            // Another replica's word for the same.
            true => Ok(()),
            false => api.patch(&name, &again, &patch).await.map(drop),
        },
        other => other.map(drop),
    }
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn failure(error: &Error) -> Failure {
    let Error::Api(status) = error else {
        return Failure::ForNow(with_causes(error), Duration::ZERO);
    };
    // Without the message, which names an object and so is another one each time.
    let told = format!("{} {}", status.code, status.reason);
    match status.code {
        401 | 403 => Failure::NoRight(format!(
            "{told}: the right to create and patch events of events.k8s.io is missing \
             (manifests/events has it); tried again in {} minutes",
            WITHOUT_RIGHT.as_secs() / 60
        )),
        429 | 500.. => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            Failure::ForNow(told, Duration::from_secs(seconds.into()).min(MAX_PAUSE))
        }
        _ => Failure::ForGood(format!("{told}: {}", status.message)),
    }
}

//! Kubernetes Events (`events.k8s.io/v1`) for what an operator should see in `kubectl get events`: a proxy
//! rejects configuration (about its Pod), a port of a Service cannot be served (about the Service).
//!
//! A reader at the end, as `debug` is: it looks at the streams' status and at what is published once in a
//! while, so nothing of it stands in the way of a push. What it finds (`findings`) passes the limits
//! (`limit`, those of client-go) into a bounded queue, from which one task writes (`writer`). Whatever
//! does not fit is counted and left out. Runs only with `--events`, since it is the one thing that needs a
//! right to write.
//!
//! A peer says itself which pod it is, and is not believed: there is an event about a Pod only if an
//! EndpointSlice has that pod with the address from which the peer is connected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::{EventOutcome, Metrics};
use crate::model::Model;
use crate::proxies::Proxies;
use crate::snapshot::Snapshot;

mod event;
mod findings;
mod limit;
mod writer;

use event::Event;
use findings::{Finding, Rejections, Unserved, verified};
use limit::{Limiter, Verdict};

/// How often the streams are looked at for new NACKs, and the mesh for ports that are not served.
const LOOK_AT_PROXIES: Duration = Duration::from_secs(1);
const LOOK_AT_SERVICES: Duration = Duration::from_secs(10);

/// Events that wait for the API server.
const MAX_QUEUED: usize = 256;

/// What the events are about, and where they go.
#[derive(Debug)]
pub struct EventReporter {
    /// The context of the kubeconfig, as for the source.
    pub context: Option<String>,
    pub proxies: Arc<Proxies>,
    pub model: watch::Receiver<Model>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub metrics: Arc<Metrics>,
    /// The cluster's DNS domain.
    pub domain: Arc<str>,
}

impl EventReporter {
    /// Reports until `stop` fires. What is still queued then is dropped: it is no news to a replica that
    /// takes over the proxies.
    pub async fn run(self, stop: CancellationToken) {
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        // Boxed: a request to the API server and its answer are most of twenty KiB.
        let write = Box::pin(writer::write_all(self.context.clone(), queued, self.metrics.clone()));
        let look = self.look(queue);
        stop.run_until_cancelled(async { tokio::join!(write, look) }).await;
    }

    async fn look(mut self, queue: mpsc::Sender<Event>) {
        let (mut limiter, mut rejections) = (Limiter::default(), Rejections::default());
        let mut unserved = Unserved::default();
        let mut services_seen: Option<Instant> = None;
        let mut ticks = interval(LOOK_AT_PROXIES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            let found = rejections.new_ones(&self.proxies);
            if !found.is_empty() && limiter.is_exhausted(now) {
                (0..found.len()).for_each(|_| self.metrics.event(EventOutcome::Limited));
            } else if !found.is_empty() {
                let model = self.model.borrow().clone();
                let (findings, strangers) = verified(&model, found);
                (0..strangers).for_each(|_| self.metrics.event(EventOutcome::Unverified));
                for finding in findings {
                    if !self.report(&mut limiter, &queue, finding, now) {
                        self.metrics.event(EventOutcome::Limited);
                    }
                }
            }
            if services_seen.is_none_or(|seen| now - seen >= LOOK_AT_SERVICES) {
                // A sender that is gone changes nothing more.
                let news = [self.model.has_changed(), self.snapshot.has_changed()];
                let news = news.into_iter().any(|one| one.unwrap_or(false));
                let first = services_seen.replace(now).is_none();
                if first || news {
                    // Cloned out: a held borrow would stop the writer.
                    let snapshot = self.snapshot.borrow_and_update().clone();
                    let model = self.model.borrow_and_update().clone();
                    // Before the first snapshot the mesh is known in part.
                    let Some(snapshot) = snapshot else { continue };
                    unserved.look(&model, &self.domain, &snapshot.conflicts);
                }
                // What is limited now is told at a later look, if it lasts.
                while let Some(finding) = unserved.due(now)
                    && self.report(&mut limiter, &queue, finding.clone(), now)
                {
                    unserved.told(&finding, now);
                }
            }
        }
    }

    /// Queues an event, unless the limits are reached; whether they are not.
    fn report(
        &self,
        limiter: &mut Limiter,
        queue: &mpsc::Sender<Event>,
        finding: Finding,
        now: Instant,
    ) -> bool {
        match limiter.admit(&finding, now) {
            Verdict::Limited => false,
            Verdict::Tell { note, key, count } => {
                if queue.try_send(Event { finding, note, key, count }).is_err() {
                    self.metrics.event(EventOutcome::Dropped);
                }
                true
            }
        }
    }
}

//! One watch, for as long as the process wants it: its list, its events, its failures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::health::Health;
use super::errors;
use super::events::{WatchIndex, Watched};
use super::lenient_decode::LenientDecode;
use super::list_strategy::ListStrategy;
use crate::causes::with_causes;
use crate::model::{Change, SourceEvent};

/// How soon after a list another one may be made without a pause.
const RELIST_PAUSE: Duration = Duration::from_secs(30);

/// Grows from a second to half a minute, with jitter; no less than `at_least`.
pub(super) async fn back_off(backoff: &mut DefaultBackoff, at_least: Duration) {
    let next = backoff.next().unwrap_or(Duration::from_secs(30));
    tokio::time::sleep(next.max(at_least)).await;
}

pub(super) struct Watch<K: Watched> {
    pub(super) name: Arc<str>,
    /// The server's, for messages.
    pub(super) url: Arc<str>,
    pub(super) index: WatchIndex<K>,
    pub(super) changes: Sender<SourceEvent>,
    pub(super) health: Arc<Health>,
    /// Watches that have not listed yet, of all kinds.
    pub(super) unlisted: Arc<AtomicUsize>,
    pub(super) backoff: DefaultBackoff,
    pub(super) list_strategy: ListStrategy,
    pub(super) last_list: Option<Instant>,
    pub(super) last_warning: Option<String>,
    /// How far it has got, told by the requests and bookmarks. What it tells has been sent.
    pub(super) position: watch::Receiver<u64>,
}

/// What a watch has to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    List,
    EndOfList,
    Events,
}

impl<K: Watched> Watch<K> {
    pub(super) async fn run(mut self, api: Api<LenientDecode<K>>, settings: watcher::Config) {
        loop {
            let strategy = self.list_strategy;
            let streamed = strategy == ListStrategy::Streamed;
            let stream = watcher(api.clone(), strategy.watcher_config(&settings));
            pin_mut!(stream);
            let mut awaited = Awaited::List;
            loop {
                let event = tokio::select! {
                    biased;
                    event = stream.next() => event,
                    Ok(()) = self.position.changed() => {
                        let position = *self.position.borrow_and_update();
                        if self.changes.send(self.index.progress(position)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                };
                let Some(event) = event else { break };
                match event {
                    Ok(Event::Init) if streamed && awaited == Awaited::EndOfList => {
                        // It has ended; kube would ask for the same again, for ever.
                        self.page_from_now_on(
                            "the stream ended without the mark of the list's end",
                        );
                        break;
                    }
                    Ok(event) => {
                        match &event {
                            Event::Init => awaited = Awaited::EndOfList,
                            Event::InitDone => {
                                awaited = Awaited::Events;
                                self.list_strategy = strategy.after_success();
                                self.health.listed(&self.name, strategy.as_str());
                            }
                            _ => {}
                        }
                        if self.process_event(event).await.is_break() {
                            return;
                        }
                    }
                    Err(error) if streamed && awaited != Awaited::Events => {
                        self.list_strategy = ListStrategy::after_failure(&error);
                        if self.list_strategy == ListStrategy::Paged {
                            self.page_from_now_on(&with_causes(&error));
                        } else {
                            self.report(&error);
                            self.pause_after(&error).await;
                        }
                        break;
                    }
                    Err(error) => {
                        self.report(&error);
                        self.pause_after(&error).await;
                        if errors::needs_new_list(&error) {
                            // The old state is kept until the new list is complete.
                            break;
                        }
                    }
                }
            }
        }
    }

    fn page_from_now_on(&mut self, reason: &str) {
        self.list_strategy = ListStrategy::Paged;
        info!(watch = %self.name, reason, "the API server does not stream lists: made in pages");
    }

    async fn pause_after(&mut self, error: &watcher::Error) {
        // The server has forgotten our position, which is normal: list at once, but not in a circle.
        let soon = errors::is_expired(error)
            && self.last_list.is_none_or(|last| last.elapsed() > RELIST_PAUSE);
        if !soon {
            back_off(&mut self.backoff, errors::retry_after(error)).await;
        }
    }

    /// Sends what the event means; waits where the model is behind. Breaks when nobody receives.
    async fn process_event(&mut self, event: Event<LenientDecode<K>>) -> ControlFlow<()> {
        let listed = matches!(event, Event::InitDone);
        if listed {
            self.last_list = Some(Instant::now());
        }
        let watching = matches!(event, Event::Apply(_) | Event::Delete(_));
        if watching {
            // Not at the end of a list: where listing works and watching does not, the pauses
            // between the lists must grow. (They shrink by themselves after two good minutes.)
            self.backoff.reset();
        }
        if (listed || watching) && self.last_warning.take().is_some() {
            info!(watch = %self.name, "the watch is well again");
        }
        if let Some(event) = self.index.source_event(event)
            && self.changes.send(event).await.is_err()
        {
            return ControlFlow::Break(());
        }
        // Only after the list is sent: another watch may count as the last meanwhile.
        if listed
            && self.count_first_list()
            && self.changes.send(Change::Synced.into()).await.is_err()
        {
            return ControlFlow::Break(());
        }
        if listed {
            self.health.synced(&self.name);
        }
        ControlFlow::Continue(())
    }

    /// Counts this watch's first list; true if every watch has listed now.
    fn count_first_list(&mut self) -> bool {
        let first = self.index.is_first_list();
        first && self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn report(&mut self, error: &watcher::Error) {
        let text = errors::explain_watch(error, &self.url, K::URL_PATH_SEGMENT, K::RESOURCE);
        if errors::is_expired(error) {
            // Normal after a long pause: the server has forgotten our version. Listed anew.
            debug!(watch = %self.name, error = %text, "listing anew");
        } else if self.last_warning.as_deref() != Some(text.as_str()) {
            // The same trouble once, not every thirty seconds for a night.
            warn!(watch = %self.name, error = %text, "a watch failed; the last known state is kept");
            self.last_warning = Some(text.clone());
        }
        self.health.failed(&self.name, text);
    }
}

#[cfg(test)]
mod tests;

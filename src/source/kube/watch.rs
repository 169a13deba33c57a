//! One watch, for as long as the process wants it: its list, its events, its failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::health::Health;
use super::errors;
use super::events::{Ingest, Watched};
use super::lenient::Lenient;
use super::lists::Lists;
use crate::causes::with_causes;
use crate::model::Change;

/// How soon after a list another one may be made without a pause.
const RELIST_PAUSE: Duration = Duration::from_secs(30);

/// Grows from a second to half a minute, with jitter; no less than `at_least`.
pub(super) async fn pause(backoff: &mut DefaultBackoff, at_least: Duration) {
    let next = backoff.next().unwrap_or(Duration::from_secs(30));
    tokio::time::sleep(next.max(at_least)).await;
}

pub(super) struct Watch<K: Watched> {
    pub(super) name: Arc<str>,
    /// The server's, for messages.
    pub(super) url: Arc<str>,
    pub(super) ingest: Ingest<K>,
    pub(super) changes: Sender<Change>,
    pub(super) health: Arc<Health>,
    /// Watches that have not listed yet, of all kinds.
    pub(super) unlisted: Arc<AtomicUsize>,
    pub(super) backoff: DefaultBackoff,
    pub(super) lists: Lists,
    pub(super) last_list: Option<Instant>,
    pub(super) last_warning: Option<String>,
}

/// What a watch is to tell next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    List,
    EndOfList,
    Events,
}

impl<K: Watched> Watch<K> {
    pub(super) async fn run(mut self, api: Api<Lenient<K>>, settings: watcher::Config) {
        loop {
            let lists = self.lists;
            let streamed = lists == Lists::Streamed;
            let stream = watcher(api.clone(), lists.settings(&settings));
            pin_mut!(stream);
            let mut awaited = Awaited::List;
            while let Some(event) = stream.next().await {
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
                                self.lists = lists.done();
                                self.health.listed(&self.name, lists.as_str());
                            }
                            _ => {}
                        }
                        if self.take(event).await.is_err() {
                            return;
                        }
                    }
                    Err(error) if streamed && awaited != Awaited::Events => {
                        self.lists = Lists::failed(&error);
                        if self.lists == Lists::Paged {
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
        self.lists = Lists::Paged;
        info!(watch = %self.name, reason, "the API server does not stream lists: made in pages");
    }

    async fn pause_after(&mut self, error: &watcher::Error) {
        // The server has forgotten our position, which is normal: list at once, but not in a circle.
        let soon = errors::is_expired(error)
            && self.last_list.is_none_or(|last| last.elapsed() > RELIST_PAUSE);
        if !soon {
            pause(&mut self.backoff, errors::retry_after(error)).await;
        }
    }

    /// Sends what the event means; waits where the model is behind. Fails when nobody listens.
    async fn take(&mut self, event: Event<Lenient<K>>) -> Result<(), ()> {
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
        if let Some(change) = self.ingest.take(event) {
            self.changes.send(change).await.map_err(drop)?;
        }
        if listed && self.first_list() {
            self.changes.send(Change::Synced).await.map_err(drop)?;
        }
        if listed {
            self.health.synced(&self.name);
        }
        Ok(())
    }

    /// Counts this watch's first list; true if every watch has listed now.
    fn first_list(&mut self) -> bool {
        let first = self.ingest.is_first_list();
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

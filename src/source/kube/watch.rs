//! One watch, for as long as the process wants it: its list, its events, its failures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// How long a failing API server may hold up the start by a kind that need not be there.
const MAX_HOLD: Duration = Duration::from_secs(30);

/// The longest pause while nobody answers at the server's address: a server that is back is to be heard within the
/// time for which pods that end go on (5 s in bookinfo, as in most charts). After half a minute requests went to
/// pods that were gone. A server that does not listen is not burdened by being asked, and one that does says
/// itself how much it bears.
const MAX_UNREACHED_PAUSE: Duration = Duration::from_millis(3_200);

/// Grows from a second to half a minute, with jitter.
pub(super) async fn back_off(backoff: &mut DefaultBackoff) {
    back_off_within(backoff, Duration::ZERO, Duration::MAX).await;
}

/// The same, no less than `at_least`; where it would grow beyond `longest`, it begins anew, with its jitter.
async fn back_off_within(backoff: &mut DefaultBackoff, at_least: Duration, longest: Duration) {
    let mut next = backoff.next();
    if next.is_some_and(|pause| pause > longest) {
        backoff.reset();
        next = backoff.next();
    }
    tokio::time::sleep(next.unwrap_or(Duration::from_secs(30)).max(at_least)).await;
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
    /// It has been counted among those, or is not waited for any more.
    pub(super) counted: bool,
    /// Objects of a list are known, as of now or of an earlier time: it has not been taken back.
    pub(super) has_list: bool,
    /// Of a kind that need not be there.
    pub(super) optional: Option<Optional>,
    pub(super) backoff: DefaultBackoff,
    pub(super) list_strategy: ListStrategy,
    pub(super) last_list: Option<Instant>,
    pub(super) last_warning: Option<String>,
    /// How far it has got, told by the requests and bookmarks. What it tells has been sent.
    pub(super) position: watch::Receiver<u64>,
}

/// What is different for a kind that need not be there, nor be readable.
#[derive(Clone, Debug)]
pub(super) struct Optional {
    /// That a right is missing has been logged, by the watch of whatever kind.
    pub(super) told_of_right: Arc<AtomicBool>,
    pub(super) started: Instant,
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    NobodyReceives,
    /// The server does not know the kind, or not any more, and the kind is optional.
    NotFound,
}

/// What a watch has to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    List,
    EndOfList,
    Events,
}

impl<K: Watched> Watch<K> {
    pub(super) async fn run(
        &mut self,
        api: Api<LenientDecode<K>>,
        settings: watcher::Config,
    ) -> Ended {
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
                            return Ended::NobodyReceives;
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
                            return Ended::NobodyReceives;
                        }
                    }
                    Err(error) if self.optional.is_some() && errors::is_not_found(&error) => {
                        return Ended::NotFound;
                    }
                    Err(error) if streamed && awaited != Awaited::Events => {
                        self.list_strategy = ListStrategy::after_failure(&error);
                        if self.list_strategy == ListStrategy::Paged {
                            self.page_from_now_on(&with_causes(&error));
                        } else {
                            if self.tell(&error).await.is_break() {
                                return Ended::NobodyReceives;
                            }
                            self.pause_after(&error).await;
                        }
                        break;
                    }
                    Err(error) => {
                        if self.tell(&error).await.is_break() {
                            return Ended::NobodyReceives;
                        }
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
        if soon {
            return;
        }
        let longest = if errors::unreached(error) { MAX_UNREACHED_PAUSE } else { Duration::MAX };
        back_off_within(&mut self.backoff, errors::retry_after(error), longest).await;
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
        if listed {
            self.has_list = true;
            self.count_first_list().await?;
            self.health.synced(&self.name);
        }
        ControlFlow::Continue(())
    }

    /// Counts this watch's first list, and tells if every watch has listed now. Breaks when nobody receives.
    async fn count_first_list(&mut self) -> ControlFlow<()> {
        let first = !std::mem::replace(&mut self.counted, true);
        let last = first && self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.changes.send(Change::Synced.into()).await.is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// The kind is not there: its objects go, and nobody waits for it. Breaks when nobody receives.
    pub(super) async fn is_absent(&mut self, why: String) -> ControlFlow<()> {
        if std::mem::take(&mut self.has_list) {
            info!(watch = %self.name, "the kind is gone from the API server, and its objects with it");
            for event in [Event::Init, Event::InitDone] {
                if let Some(event) = self.index.source_event(event)
                    && self.changes.send(event).await.is_err()
                {
                    return ControlFlow::Break(());
                }
            }
        }
        self.last_warning = None;
        self.health.absent(&self.name, why);
        self.count_first_list().await
    }

    /// It may not be read. What is known stays, with a fault; where nothing is known, nobody waits for it.
    pub(super) async fn is_forbidden(&mut self, error: String) -> ControlFlow<()> {
        if self.has_list {
            return self.fails(error).await;
        }
        let told = self.optional.as_ref().map(|optional| &optional.told_of_right);
        if told.is_none_or(|told| !told.swap(true, Ordering::AcqRel)) {
            info!(
                watch = %self.name,
                %error,
                "routes (HTTPRoute, GRPCRoute, ReferenceGrant) are not served without the right to read \
                 them, which manifests/routes grants; tried again within a minute"
            );
        }
        self.health.absent(&self.name, error);
        self.count_first_list().await
    }

    /// A failure for any other reason.
    pub(super) async fn fails(&mut self, error: String) -> ControlFlow<()> {
        self.warn_of(error);
        let held = self.optional.as_ref().map(|optional| optional.started.elapsed());
        if !self.counted && held.is_some_and(|held| held >= MAX_HOLD) {
            warn!(watch = %self.name, "the start waits for it no longer");
            self.health.not_awaited(&self.name);
            return self.count_first_list().await;
        }
        ControlFlow::Continue(())
    }

    async fn tell(&mut self, error: &watcher::Error) -> ControlFlow<()> {
        let text = errors::explain_watch(error, &self.url, K::URL_PATH_SEGMENT, K::RESOURCE);
        if errors::is_expired(error) {
            // Normal after a long pause: the server has forgotten our version. Listed anew.
            debug!(watch = %self.name, error = %text, "listing anew");
            self.health.failed(&self.name, text);
            return ControlFlow::Continue(());
        }
        if self.optional.is_some() && errors::is_forbidden(error) {
            return self.is_forbidden(text).await;
        }
        self.fails(text).await
    }

    fn warn_of(&mut self, error: String) {
        if self.last_warning.as_deref() != Some(error.as_str()) {
            // The same trouble once, not every thirty seconds for a night.
            warn!(watch = %self.name, %error, "a watch failed; the last known state is kept");
            self.last_warning = Some(error.clone());
        }
        self.health.failed(&self.name, error);
    }
}

#[cfg(test)]
mod tests;

//! `/debug/events`: what changes, as server-sent events.
//!
//! Streams know nothing of this. Five times a second, while somebody listens, the counters of all streams are compared
//! with those of the last time: what was sent, acknowledged and rejected meanwhile is the traffic. All readers
//! share one comparison, so that three open pages cost about what one costs. Nothing is kept while nobody listens.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::proxies::{State, StateCounts, name};
use super::replica::{instance, replica};
use super::{DebugState, milliseconds};
use crate::names::ResourceType;
use crate::proxies::TypeStatus;

/// Readers at the same time.
const MAX_READERS: usize = 16;
/// How often streams are looked at.
const PERIOD: Duration = Duration::from_millis(200);
/// Messages that wait for a reader, and how long: then it is let go.
const QUEUED_MESSAGES: usize = 4;
const READER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader is served. Less than the age that a connection may have (`http_server`), so that it ends at
/// the end of a message; a browser then asks again by itself.
const MAX_AGE: Duration = Duration::from_secs(150);
/// After which a comment is sent, so that a reader that has gone is noticed, and the page knows that the
/// server is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a browser waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 500;
/// Items of traffic in a message; the others are counted.
const MAX_ITEMS: usize = 200;
/// Comparisons that are kept for readers that are behind.
const KEPT_SAMPLES: usize = 8;
/// A comparison over more than this says nothing about when.
const MAX_GAP: Duration = Duration::from_secs(2);

/// What all readers share.
#[derive(Debug)]
pub(super) struct Live {
    readers: Arc<Semaphore>,
    // Std mutex, never held across an await; a comparison under it takes a few milliseconds, on blocking threads.
    samples: Mutex<Samples>,
}

impl Default for Live {
    fn default() -> Self {
        let readers = Arc::new(Semaphore::new(MAX_READERS));
        Self { readers, samples: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Samples {
    at: Option<Instant>,
    /// The number of the newest sample.
    newest: u64,
    /// The newest last.
    kept: VecDeque<Arc<Sample>>,
    streams: HashMap<u64, Seen>,
    generation: Option<u64>,
}

/// What was seen of a stream at the last comparison.
#[derive(Debug)]
struct Seen {
    name: Arc<str>,
    /// By type: sent, acknowledged, rejected.
    counts: [[u64; 3]; ResourceType::COUNT],
    newest: u64,
}

/// One comparison.
#[derive(Debug)]
struct Sample {
    number: u64,
    summary: Bytes,
    traffic: Option<Bytes>,
}

#[derive(Serialize)]
struct Summary {
    replica: &'static str,
    instance: &'static str,
    generation: Option<u64>,
    proxies: usize,
    states: StateCounts,
    changes: Option<u64>,
    sources_stale: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Item {
    Seen(Traffic),
    More { more: usize },
}

/// Something that happened.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Traffic {
    at: String,
    what: &'static str,
    r#type: Option<&'static str>,
    proxy: Option<String>,
    name: Option<String>,
    count: u64,
}

/// The events for one more reader; none if there are too many.
pub(super) fn events(live: Arc<Live>, state: DebugState) -> Option<impl IntoResponse> {
    let slot = live.readers.clone().try_acquire_owned().ok()?;
    let (sender, messages) = mpsc::channel(QUEUED_MESSAGES);
    // Ends with the reader, or when the reader takes nothing any more, or with the publisher.
    tokio::spawn(serve(live, state, sender, slot));
    let body = Body::from_stream(ReceiverStream::new(messages).map(Ok::<_, Infallible>));
    Some(([(header::CONTENT_TYPE, "text/event-stream")], body))
}

/// Sends to one reader what is new.
async fn serve(
    live: Arc<Live>,
    state: DebugState,
    sender: mpsc::Sender<Bytes>,
    slot: OwnedSemaphorePermit,
) {
    let _reader = Reader { live: live.clone(), _slot: slot };
    let end = Instant::now() + MAX_AGE;
    let mut snapshots = state.snapshot.clone();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut summary, mut last) = (0, Bytes::new(), Instant::now());
    let mut hello = Some(format!("retry: {RETRY_MS}\n\n"));
    while Instant::now() < end {
        tokio::select! {
            () = sender.closed() => return,
            // The publisher is gone: a shutdown, which waits for this response to end.
            () = async { while snapshots.changed().await.is_ok() {} } => return,
            _ = ticks.tick() => {}
        }
        let (live, state) = (live.clone(), state.clone());
        let looked = tokio::task::spawn_blocking(move || live.since(sent, &state)).await;
        let Ok(samples) = looked else { return };
        let mut text = hello.take().unwrap_or_default().into_bytes();
        for sample in samples {
            sent = sample.number;
            if summary != sample.summary {
                summary = sample.summary.clone();
                append(&mut text, "summary", &summary);
            }
            if let Some(traffic) = &sample.traffic {
                append(&mut text, "traffic", traffic);
            }
        }
        if text.is_empty() && last.elapsed() >= KEEP_ALIVE {
            // Not a comment: scripts do not see those.
            append(&mut text, "alive", b"{}");
        }
        if !text.is_empty() {
            last = Instant::now();
            match timeout(READER_TIMEOUT, sender.send(text.into())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

/// JSON has no line breaks of its own, so it is one line of data.
fn append(text: &mut Vec<u8>, event: &str, data: &[u8]) {
    for part in [b"event: ", event.as_bytes(), b"\ndata: ", data, b"\n\n"] {
        text.extend_from_slice(part);
    }
}

/// The last one to go takes what was kept for comparisons along.
struct Reader {
    live: Arc<Live>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.live.readers.available_permits() + 1 >= MAX_READERS {
            *self.live.lock() = Samples::default();
        }
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The samples after number `sent`, after a new one if it is time. A reader that begins (zero) gets the newest.
    fn since(&self, sent: u64, state: &DebugState) -> Vec<Arc<Sample>> {
        let mut samples = self.lock();
        let now = Instant::now();
        // Ticks of several readers are never quite alike.
        if samples.at.is_none_or(|at| now.duration_since(at) >= PERIOD * 3 / 4) {
            samples.compare(now, state);
        }
        let newer = samples.kept.iter().filter(|sample| sample.number > sent);
        let mut newer: Vec<_> = newer.cloned().collect();
        if sent == 0 {
            newer.drain(..newer.len().saturating_sub(1));
        }
        newer
    }
}

impl Samples {
    fn compare(&mut self, now: Instant, state: &DebugState) {
        let compares = self.at.is_some_and(|at| now.duration_since(at) < MAX_GAP);
        self.at = Some(now);
        self.newest += 1;
        let (number, mut states, mut found) = (self.newest, StateCounts::default(), Vec::new());
        let mut more = 0;
        let mut add = |traffic: &dyn Fn() -> Traffic| match found.len() < MAX_ITEMS {
            true => found.push(Item::Seen(traffic())),
            false => more += 1,
        };
        let wall = || milliseconds(SystemTime::now());
        let snapshot = state.snapshot();
        let generation = snapshot.as_ref().map(|snapshot| snapshot.generation);
        if let Some(newer) = generation.filter(|_| compares && generation != self.generation) {
            let count = newer - self.generation.unwrap_or(0).min(newer);
            // As the source saw it, which is before the first push.
            let seen = snapshot.and_then(|snapshot| snapshot.since);
            let age = seen.map_or(Duration::ZERO, |since| since.elapsed());
            let at = || milliseconds(SystemTime::now() - age);
            add(&|| Traffic { count, ..Traffic::new(at(), "change") });
        }
        self.generation = generation;
        for stream in state.proxies.all() {
            stream.read(|status| {
                let Some(identity) = status.identity.as_ref().filter(|one| !one.probe) else {
                    return;
                };
                states.add(State::of_proxy(&status.types));
                let of_proxy = |at, what| Traffic {
                    proxy: Some(stream.id.to_string()),
                    name: Some(identity.name.to_string()),
                    ..Traffic::new(at, what)
                };
                let seen = self.streams.entry(stream.id).or_insert_with(|| {
                    if compares {
                        add(&|| of_proxy(milliseconds(stream.connected), "connect"));
                    }
                    Seen { name: identity.name.clone(), counts: Default::default(), newest: 0 }
                });
                for (of, one) in ResourceType::IN_ORDER.into_iter().zip(&status.types) {
                    let counts = [one.sent, one.acks, one.nacks];
                    let before = std::mem::replace(&mut seen.counts[of.index()], counts);
                    if !compares || before == counts {
                        continue;
                    }
                    for (at, what, count) in happened(one, before) {
                        add(&|| Traffic {
                            r#type: Some(name(of)),
                            count,
                            ..of_proxy(at.map_or_else(wall, milliseconds), what)
                        });
                    }
                }
                seen.newest = number;
            });
        }
        self.streams.retain(|id, seen| {
            let is_open = seen.newest == number;
            if !is_open && compares {
                add(&|| Traffic {
                    proxy: Some(id.to_string()),
                    name: Some(seen.name.to_string()),
                    ..Traffic::new(wall(), "disconnect")
                });
            }
            is_open
        });
        if more > 0 {
            found.push(Item::More { more });
        }
        let is_stale = |watch: &crate::source::health::WatchHealth| {
            watch.last_error.is_some() || (!watch.synced && watch.absent.is_none())
        };
        let summary = Summary {
            replica: replica(),
            instance: instance(),
            generation,
            proxies: states.total(),
            states,
            changes: Some(state.changes.newest_id()),
            sources_stale: state.health.watches().values().filter(|one| is_stale(one)).count(),
        };
        let json = |value: Result<Vec<u8>, _>| Bytes::from(value.unwrap_or_default());
        self.kept.push_back(Arc::new(Sample {
            number,
            summary: json(serde_json::to_vec(&summary)),
            traffic: (!found.is_empty()).then(|| json(serde_json::to_vec(&found))),
        }));
        if self.kept.len() > KEPT_SAMPLES {
            self.kept.pop_front();
        }
    }
}

impl Traffic {
    fn new(at: String, what: &'static str) -> Self {
        Self { at, what, r#type: None, proxy: None, name: None, count: 1 }
    }
}

/// What happened to a type since it was seen with the counts `before`, and how often.
fn happened(
    now: &TypeStatus,
    before: [u64; 3],
) -> impl Iterator<Item = (Option<SystemTime>, &'static str, u64)> {
    let [sent, acks, nacks] = before;
    let all = [
        (now.last_sent, "push", now.sent.saturating_sub(sent)),
        (now.last_acked, "ack", now.acks.saturating_sub(acks)),
        (now.last_nack, "nack", now.nacks.saturating_sub(nacks)),
    ];
    all.into_iter().filter(|(_, _, count)| *count > 0)
}

//! The open xDS streams and their status: which proxy, and what it was sent and has acknowledged.
//!
//! Each stream registers itself and is the one writer of its entry; whoever shows the status reads.
//! The status is a few counters a type and shared pointers to what was sent, never a list of names of
//! its own, so ten thousand proxies cost little.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use pilothouse_xds::session::Generations;
use pilothouse_xds::{ServedType, Subscription, TypeSet, Version};
use thiserror::Error;

use crate::mesh::Identity;
use crate::peer::PeerKey;
use crate::view_registry::ViewWatch;

mod generations;
mod history;

pub use generations::GenerationTimes;
pub use history::{Happening, History, HistoryEntry};

/// The status of one type on one stream.
#[derive(Clone, Debug, Default)]
pub struct TypeStatus {
    /// Responses sent, ACKs and NACKs received.
    pub sent: u64,
    pub acks: u64,
    pub nacks: u64,
    /// Nonces, zero for none yet.
    pub nonce_sent: u64,
    pub nonce_acked: u64,
    pub last_sent: Option<SystemTime>,
    pub last_acked: Option<SystemTime>,
    /// The last NACK's text and time, until the next ACK.
    pub last_error: Option<Arc<str>>,
    pub last_nack: Option<SystemTime>,
    /// `version_info` or `system_version_info` of the last response.
    pub version: Option<Version>,
    /// The set that the stream was brought to, and the subscription.
    pub set: Option<Arc<TypeSet>>,
    pub subscription: Option<Arc<Subscription>>,
}

/// The state of a type, in the words of CSDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// Never subscribed, or nothing sent yet.
    NotSent,
    /// Everything was acknowledged, or the proxy had it from an earlier stream so that nothing had to be
    /// sent.
    Synced,
    /// Sent and not yet acknowledged.
    Stale,
    /// The last response was rejected (NACK).
    Error,
}

impl TypeStatus {
    pub fn state(&self) -> SyncState {
        if self.last_error.is_some() {
            SyncState::Error
        } else if self.nonce_sent == 0 && self.set.is_none() {
            SyncState::NotSent
        } else if self.nonce_sent == self.nonce_acked {
            SyncState::Synced
        } else {
            SyncState::Stale
        }
    }
}

/// The status of one stream.
#[derive(Debug)]
pub struct ProxyStatus<I, K> {
    /// Unknown until the first request.
    pub identity: Option<I>,
    /// The view that is assigned.
    pub assigned: Option<Arc<ViewWatch<K>>>,
    /// By the place in the table of types.
    pub types: Box<[TypeStatus]>,
}

impl<I: Clone, K> Clone for ProxyStatus<I, K> {
    fn clone(&self) -> Self {
        let (identity, assigned) = (self.identity.clone(), self.assigned.clone());
        Self { identity, assigned, types: self.types.clone() }
    }
}

/// An open stream, ADS or of a single type: `I` is who the proxy is, `K` the key of its view.
#[derive(Debug)]
pub struct XdsStream<I, K> {
    /// Unique within the process.
    pub id: u64,
    pub peer: Option<SocketAddr>,
    pub connected: SystemTime,
    /// Whether the stream speaks the delta variant.
    pub delta: bool,
    /// See [`Generations`]; written by the stream alone.
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// While the stream sleeps: what it counts as brought to, with all that sleep at its view. A std mutex, never
    /// held across an await.
    asleep_at: Mutex<Option<Arc<AtomicU64>>>,
    // Std mutex: one writer (the stream), rare readers, never held across an await.
    status: Mutex<(ProxyStatus<I, K>, History)>,
    /// Whom the stream is counted for.
    counted: Mutex<Option<PeerKey>>,
}

impl<I, K> XdsStream<I, K> {
    fn counted(&self) -> MutexGuard<'_, Option<PeerKey>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Identity, K> XdsStream<I, K> {
    /// The proxy's name and a number.
    pub fn connection_id(&self) -> String {
        let (status, _) = &*self.lock();
        let name = status.identity.as_ref().map_or("unknown", Identity::name);
        format!("{name}-{}", self.id)
    }

    /// A consistent copy; sets and names in it are shared.
    pub fn status(&self) -> ProxyStatus<I, K> {
        self.lock().0.clone()
    }

    /// Reads the status without copying it.
    pub fn read<T>(&self, read: impl FnOnce(&ProxyStatus<I, K>) -> T) -> T {
        read(&self.lock().0)
    }

    /// For the stream that owns this entry.
    pub fn update(&self, change: impl FnOnce(&mut ProxyStatus<I, K>)) {
        change(&mut self.lock().0);
    }

    /// The same, and the history.
    pub fn update_with_history(&self, change: impl FnOnce(&mut ProxyStatus<I, K>, &mut History)) {
        let (status, history) = &mut *self.lock();
        change(status, history);
    }

    /// The last responses and answers, newest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.lock().1.entries()
    }

    /// Up to which generation of the snapshot the stream was sent everything and has acknowledged it.
    pub fn generations(&self) -> Generations {
        if let Some(at) = &*self.asleep_at() {
            let at = at.load(Ordering::Relaxed);
            return Generations { sent: at, acknowledged: at };
        }
        Generations {
            sent: self.sent.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
        }
    }

    /// For the stream that owns this entry.
    pub fn set_generations(&self, now: Generations) {
        self.sent.store(now.sent, Ordering::Relaxed);
        self.acknowledged.store(now.acknowledged, Ordering::Relaxed);
    }

    /// It sleeps, and counts as brought to what is written there.
    pub(crate) fn set_asleep_at(&self, generation: Arc<AtomicU64>) {
        *self.asleep_at() = Some(generation);
    }

    /// It does not sleep any more, and was brought to this generation.
    pub(crate) fn set_awake_at(&self, generation: u64) {
        let mut asleep_at = self.asleep_at();
        self.set_generations(Generations { sent: generation, acknowledged: generation });
        *asleep_at = None;
    }

    fn asleep_at(&self) -> MutexGuard<'_, Option<Arc<AtomicU64>>> {
        self.asleep_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, (ProxyStatus<I, K>, History)> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All open streams.
#[derive(Debug)]
pub struct Proxies<I, K> {
    types: &'static [ServedType],
    streams: DashMap<u64, Arc<XdsStream<I, K>>>,
    by_peer: DashMap<PeerKey, usize>,
    next: AtomicU64,
    /// When the last stream acknowledged each of the last generations.
    pub generations: GenerationTimes,
}

/// A peer has as many streams as one peer may have.
#[derive(Debug, Error)]
#[error("{peer} has {limit} streams open, which is the limit")]
pub struct TooManyStreams {
    peer: PeerKey,
    limit: usize,
}

/// Takes the stream off the list when dropped.
#[derive(Debug)]
pub struct Registration<I, K> {
    proxies: Arc<Proxies<I, K>>,
    pub stream: Arc<XdsStream<I, K>>,
}

impl<I, K> Drop for Registration<I, K> {
    fn drop(&mut self) {
        self.proxies.streams.remove(&self.stream.id);
        let counted = self.stream.counted().take();
        if let Some(peer) = counted {
            self.proxies.uncount(&peer);
        }
    }
}

impl<I, K> Proxies<I, K> {
    /// None yet. `types` is the table of the types that are served.
    pub fn new(types: &'static [ServedType]) -> Self {
        let (streams, by_peer) = (DashMap::new(), DashMap::new());
        let generations = GenerationTimes::default();
        Self { types, streams, by_peer, next: AtomicU64::new(0), generations }
    }

    /// Puts a new stream on the list, counted for its address. `limit` is the number of streams of one
    /// peer, zero for no limit.
    ///
    /// # Errors
    /// The address has that many already.
    pub fn register(
        self: &Arc<Self>,
        peer: Option<SocketAddr>,
        delta: bool,
        limit: usize,
    ) -> Result<Registration<I, K>, TooManyStreams> {
        let counted = peer.map(|peer| PeerKey::of_address(peer.ip()));
        if let Some(key) = &counted {
            self.count(key, limit)?;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let connected = SystemTime::now();
        let types = self.types.iter().map(|_| TypeStatus::default()).collect();
        let status = ProxyStatus { identity: None, assigned: None, types };
        let stream = Arc::new(XdsStream {
            id,
            peer,
            connected,
            delta,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            asleep_at: Mutex::default(),
            status: Mutex::new((status, History::new(connected))),
            counted: Mutex::new(counted),
        });
        self.streams.insert(id, stream.clone());
        Ok(Registration { proxies: self.clone(), stream })
    }

    /// Counts a registered stream for this peer from now on, no longer for its address: the peer has been
    /// authenticated.
    ///
    /// # Errors
    /// The peer has as many streams as it may have. The stream still counts for its address.
    pub fn count_by(
        &self,
        stream: &XdsStream<I, K>,
        peer: &PeerKey,
        limit: usize,
    ) -> Result<(), TooManyStreams> {
        self.count(peer, limit)?;
        let before = stream.counted().replace(peer.clone());
        if let Some(before) = before {
            self.uncount(&before);
        }
        Ok(())
    }

    fn count(&self, peer: &PeerKey, limit: usize) -> Result<(), TooManyStreams> {
        let mut streams = self.by_peer.entry(peer.clone()).or_insert(0);
        if limit != 0 && *streams >= limit {
            return Err(TooManyStreams { peer: peer.clone(), limit });
        }
        *streams += 1;
        Ok(())
    }

    fn uncount(&self, peer: &PeerKey) {
        self.by_peer.remove_if_mut(peer, |_, streams| {
            *streams -= 1;
            *streams == 0
        });
    }

    /// All streams, in the order in which they were opened.
    pub fn all(&self) -> Vec<Arc<XdsStream<I, K>>> {
        let mut all: Vec<_> = self.streams.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|stream| stream.id);
        all
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

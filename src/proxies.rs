//! The open xDS streams and their status: which proxy, and what it was sent and has acknowledged.
//!
//! Each stream registers itself and is the one writer of its entry; the debug pages and metrics read.
//! The status is a few counters a type and shared pointers to what was sent, never a list of names of
//! its own, so ten thousand proxies cost little.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use pilothouse_xds::Subscription;
use pilothouse_xds::session::Generations;
use thiserror::Error;

use crate::names::ResourceType;
use crate::snapshot::{TypeSet, Version};
use crate::view::{ViewKey, ViewWatch};

mod generations;
mod history;

pub use generations::GenerationTimes;
pub use history::{Happening, History, HistoryEntry};

/// Keys and values, by key.
pub type Labels = Arc<[(Box<str>, Box<str>)]>;

/// What the first request says about the proxy. Unknown until then.
#[derive(Clone, Debug)]
pub struct ProxyIdentity {
    /// `node.id` as sent.
    pub node_id: Arc<str>,
    /// `pod.namespace` for a sidecar or router, else the node id: what people search for.
    pub name: Arc<str>,
    pub cluster: Arc<str>,
    pub view: ViewKey,
    /// `user_agent_name/version`, empty if not said.
    pub user_agent: Arc<str>,
    /// `region/zone/subzone` without empty tails.
    pub locality: Arc<str>,
    /// Not the proxy itself: `pilothouse doctor` or the sidecar's agent acts in its name.
    pub probe: bool,
    /// Of its pod (metadata `LABELS`), a few KiB at most.
    pub labels: Labels,
}

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
#[derive(Clone, Debug)]
pub struct ProxyStatus {
    pub identity: Option<ProxyIdentity>,
    /// The view that is assigned; the identity's is the one that was requested.
    pub assigned: Option<Arc<ViewWatch>>,
    pub types: [TypeStatus; ResourceType::COUNT],
}

/// An open stream, ADS or of a single type.
#[derive(Debug)]
pub struct XdsStream {
    /// Unique within the process.
    pub id: u64,
    pub peer: Option<SocketAddr>,
    pub connected: SystemTime,
    /// Whether the stream speaks the delta variant.
    pub delta: bool,
    /// See [`Generations`]; written by the stream alone.
    sent: AtomicU64,
    acknowledged: AtomicU64,
    // Std mutex: one writer (the stream), rare readers, never held across an await.
    status: Mutex<(ProxyStatus, History)>,
}

impl XdsStream {
    /// Istio's connection id: the proxy's name and a number.
    pub fn connection_id(&self) -> String {
        let (status, _) = &*self.lock();
        let name = status.identity.as_ref().map_or("unknown", |identity| &identity.name);
        format!("{name}-{}", self.id)
    }

    /// A consistent copy; sets and names in it are shared.
    pub fn status(&self) -> ProxyStatus {
        self.lock().0.clone()
    }

    /// Reads the status without copying it.
    pub fn read<T>(&self, read: impl FnOnce(&ProxyStatus) -> T) -> T {
        read(&self.lock().0)
    }

    /// For the stream that owns this entry.
    pub fn update(&self, change: impl FnOnce(&mut ProxyStatus)) {
        change(&mut self.lock().0);
    }

    /// The same, and the history.
    pub fn update_with_history(&self, change: impl FnOnce(&mut ProxyStatus, &mut History)) {
        let (status, history) = &mut *self.lock();
        change(status, history);
    }

    /// The last responses and answers, newest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.lock().1.entries()
    }

    /// Up to which generation of the snapshot the stream was sent everything and has acknowledged it.
    pub fn generations(&self) -> Generations {
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

    fn lock(&self) -> MutexGuard<'_, (ProxyStatus, History)> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All open streams.
#[derive(Debug, Default)]
pub struct Proxies {
    streams: DashMap<u64, Arc<XdsStream>>,
    by_peer: DashMap<IpAddr, usize>,
    next: AtomicU64,
    /// When the last stream acknowledged each of the last generations.
    pub generations: GenerationTimes,
}

/// A peer has as many streams as one peer may have.
#[derive(Debug, Error)]
#[error("{peer} has {limit} streams open, which is the limit (--max-streams-per-peer)")]
pub struct TooManyStreams {
    peer: IpAddr,
    limit: usize,
}

/// Takes the stream off the list when dropped.
#[derive(Debug)]
pub struct Registration {
    proxies: Arc<Proxies>,
    pub stream: Arc<XdsStream>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.proxies.streams.remove(&self.stream.id);
        if let Some(peer) = self.stream.peer {
            self.proxies.by_peer.remove_if_mut(&peer.ip(), |_, streams| {
                *streams -= 1;
                *streams == 0
            });
        }
    }
}

impl Proxies {
    /// Puts a new stream on the list. `limit` is the number of streams from one address, zero for no
    /// limit.
    ///
    /// # Errors
    /// The address has that many already.
    pub fn register(
        self: &Arc<Self>,
        peer: Option<SocketAddr>,
        delta: bool,
        limit: usize,
    ) -> Result<Registration, TooManyStreams> {
        if let Some(peer) = peer.map(|peer| peer.ip()) {
            let mut streams = self.by_peer.entry(peer).or_insert(0);
            if limit != 0 && *streams >= limit {
                return Err(TooManyStreams { peer, limit });
            }
            *streams += 1;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let connected = SystemTime::now();
        let status = ProxyStatus { identity: None, assigned: None, types: Default::default() };
        let stream = Arc::new(XdsStream {
            id,
            peer,
            connected,
            delta,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            status: Mutex::new((status, History::new(connected))),
        });
        self.streams.insert(id, stream.clone());
        Ok(Registration { proxies: self.clone(), stream })
    }

    /// All streams, in the order in which they were opened.
    pub fn all(&self) -> Vec<Arc<XdsStream>> {
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

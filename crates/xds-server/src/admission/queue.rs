//! The queue for permits: who holds one, who waits, who is next. No I/O, no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::round_robin::RoundRobin;
use crate::peer::PeerKey;

/// Whose permit it is: a stream of this connection, of this peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PermitHolder {
    pub(crate) peer: PeerKey,
    pub(crate) connection: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// Number of permits; `None` for no limit.
    limit: Option<usize>,
    held: BTreeMap<u64, (PermitHolder, Instant)>,
    waiting: WaitingStreams,
}

/// Waiting streams: round robin over peers, on each over its connections, on each first come,
/// first served.
#[derive(Debug, Default)]
struct WaitingStreams {
    round: VecDeque<PeerKey>,
    peers: HashMap<PeerKey, PeerQueue>,
    /// Streams that still wait; one that has stopped waiting is skipped when its place comes up.
    streams: HashMap<u64, PermitHolder>,
}

/// The waiting streams of a peer by connection, each with its id and how it is told.
type PeerQueue = RoundRobin<u64, (u64, oneshot::Sender<()>)>;

impl Queue {
    /// A queue for `limit` permits; zero for no limit.
    pub(super) fn new(limit: usize) -> Self {
        let limit = (limit > 0).then_some(limit);
        Self { limit, held: BTreeMap::new(), waiting: WaitingStreams::default() }
    }

    /// Whether this stream is admitted at once.
    pub(super) fn admit(&mut self, id: u64, holder: PermitHolder, now: Instant) -> bool {
        let Some(limit) = self.limit else { return true };
        if self.held.len() >= limit && !self.reclaim_from_largest_holder(&holder) {
            return false;
        }
        self.held.insert(id, (holder, now));
        true
    }

    /// Reclaims a permit for a newcomer: from the peer that holds most if the newcomer's peer holds
    /// none, else from the connection of its peer that holds most if its connection holds none. Never
    /// from a holder of a single permit. Returns whether it reclaimed one.
    fn reclaim_from_largest_holder(&mut self, newcomer: &PermitHolder) -> bool {
        let mut by_peer: BTreeMap<&PeerKey, usize> = BTreeMap::new();
        let mut by_connection: BTreeMap<u64, usize> = BTreeMap::new();
        for (holder, _) in self.held.values() {
            *by_peer.entry(&holder.peer).or_default() += 1;
            if holder.peer == newcomer.peer {
                *by_connection.entry(holder.connection).or_default() += 1;
            }
        }
        let loser = if by_connection.is_empty() {
            largest_holder(by_peer).map(|peer| (peer, None))
        } else if by_connection.contains_key(&newcomer.connection) {
            None
        } else {
            largest_holder(by_connection).map(|connection| (&newcomer.peer, Some(connection)))
        };
        let Some((peer, connection)) = loser else { return false };
        let is_loser = |holder: &PermitHolder| {
            holder.peer == *peer && connection.is_none_or(|one| holder.connection == one)
        };
        let oldest = self.held.iter().find(|(_, (holder, _))| is_loser(holder)).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.held.remove(&id).is_some())
    }

    /// Enqueues a stream; the receiver resolves when it is admitted.
    pub(super) fn enqueue(&mut self, id: u64, holder: PermitHolder) -> oneshot::Receiver<()> {
        let (granted, admitted) = oneshot::channel();
        self.waiting.push(id, holder, granted);
        admitted
    }

    pub(super) fn is_contended(&self) -> bool {
        !self.waiting.streams.is_empty()
    }

    /// Releases the stream's permit or its place in the queue, and admits the next one.
    pub(super) fn release(&mut self, id: u64, now: Instant) {
        self.waiting.streams.remove(&id);
        if self.held.remove(&id).is_some() {
            self.admit_waiting(now);
        }
    }

    /// Ends the permits that have lasted for `limit`.
    pub(super) fn expire(&mut self, now: Instant, limit: Duration) {
        self.held.retain(|_, (_, since)| now.duration_since(*since) < limit);
        self.admit_waiting(now);
    }

    fn admit_waiting(&mut self, now: Instant) {
        while self.limit.is_some_and(|limit| self.held.len() < limit) {
            let Some((id, holder, granted)) = self.waiting.pop() else { return };
            if granted.send(()).is_ok() {
                self.held.insert(id, (holder, now));
            }
        }
    }
}

/// The holder of most permits, if it holds more than one.
fn largest_holder<K: Ord>(held: BTreeMap<K, usize>) -> Option<K> {
    let most = held.into_iter().max_by_key(|(_, held)| *held);
    most.filter(|(_, held)| *held > 1).map(|(key, _)| key)
}

impl WaitingStreams {
    fn push(&mut self, id: u64, holder: PermitHolder, granted: oneshot::Sender<()>) {
        let PermitHolder { peer, connection } = &holder;
        let own = self.peers.entry(peer.clone()).or_insert_with(|| {
            self.round.push_back(peer.clone());
            PeerQueue::default()
        });
        own.push(*connection, (id, granted));
        self.streams.insert(id, holder);
    }

    /// The next stream that still waits.
    fn pop(&mut self) -> Option<(u64, PermitHolder, oneshot::Sender<()>)> {
        while let Some(peer) = self.round.pop_front() {
            let Some(own) = self.peers.get_mut(&peer) else { continue };
            let next = own.pop();
            if own.is_empty() {
                self.peers.remove(&peer);
            } else {
                self.round.push_back(peer.clone());
            }
            if let Some((connection, (id, granted))) = next
                && self.streams.remove(&id).is_some()
            {
                return Some((id, PermitHolder { peer, connection }, granted));
            }
        }
        None
    }
}

//! The order in which streams are admitted, without I/O or a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Who asks: a stream of this connection, from this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ads) struct Holder {
    pub(in crate::ads) address: IpAddr,
    pub(in crate::ads) connection: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// Permits that there are; `None` for no limit.
    limit: Option<usize>,
    held: BTreeMap<u64, (Holder, Instant)>,
    waiting: Waiting,
}

/// Addresses in turn, on each its connections in turn, on each its streams in order.
#[derive(Debug, Default)]
struct Waiting {
    turns: VecDeque<IpAddr>,
    addresses: HashMap<IpAddr, Address>,
    /// Streams that wait; those that have stopped waiting are found out when it is their turn.
    streams: HashMap<u64, Holder>,
}

#[derive(Debug, Default)]
struct Address {
    turns: VecDeque<u64>,
    connections: HashMap<u64, VecDeque<(u64, oneshot::Sender<()>)>>,
}

impl Queue {
    /// Of so many permits; zero for no limit.
    pub(super) fn new(limit: usize) -> Self {
        let limit = (limit > 0).then_some(limit);
        Self { limit, held: BTreeMap::new(), waiting: Waiting::default() }
    }

    /// Whether this stream is admitted at once.
    pub(super) fn admit(&mut self, id: u64, holder: Holder, now: Instant) -> bool {
        let Some(limit) = self.limit else { return true };
        if self.held.len() >= limit && !self.take_from_the_greatest(holder) {
            return false;
        }
        self.held.insert(id, (holder, now));
        true
    }

    /// Takes a permit for a newcomer that has none: from the address that holds most, or of its own
    /// address from the connection that holds most; from nobody who holds but one.
    fn take_from_the_greatest(&mut self, newcomer: Holder) -> bool {
        let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut by_connection: BTreeMap<u64, usize> = BTreeMap::new();
        for (holder, _) in self.held.values() {
            *by_address.entry(holder.address).or_default() += 1;
            if holder.address == newcomer.address {
                *by_connection.entry(holder.connection).or_default() += 1;
            }
        }
        let loses = if by_connection.is_empty() {
            greatest(by_address).map(|address| (address, None))
        } else if by_connection.contains_key(&newcomer.connection) {
            None
        } else {
            greatest(by_connection).map(|connection| (newcomer.address, Some(connection)))
        };
        let Some((address, connection)) = loses else { return false };
        let is_loser = |holder: &Holder| {
            holder.address == address && connection.is_none_or(|one| holder.connection == one)
        };
        let oldest = self.held.iter().find(|(_, (holder, _))| is_loser(holder)).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.held.remove(&id).is_some())
    }

    /// Puts a stream into the queue; it is told when it is admitted.
    pub(super) fn wait(&mut self, id: u64, holder: Holder) -> oneshot::Receiver<()> {
        let (granted, admitted) = oneshot::channel();
        self.waiting.push(id, holder, granted);
        admitted
    }

    pub(super) fn is_contended(&self) -> bool {
        !self.waiting.streams.is_empty()
    }

    /// The stream holds no permit and waits for none any more.
    pub(super) fn give_back(&mut self, id: u64, now: Instant) {
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

/// Who holds most, if that is more than one.
fn greatest<K: Ord>(held: BTreeMap<K, usize>) -> Option<K> {
    let most = held.into_iter().max_by_key(|(_, held)| *held);
    most.filter(|(_, held)| *held > 1).map(|(key, _)| key)
}

impl Waiting {
    fn push(&mut self, id: u64, holder: Holder, granted: oneshot::Sender<()>) {
        self.streams.insert(id, holder);
        let address = self.addresses.entry(holder.address).or_insert_with(|| {
            self.turns.push_back(holder.address);
            Address::default()
        });
        let connection = address.connections.entry(holder.connection).or_insert_with(|| {
            address.turns.push_back(holder.connection);
            VecDeque::new()
        });
        connection.push_back((id, granted));
    }

    /// The next one that has not stopped waiting.
    fn pop(&mut self) -> Option<(u64, Holder, oneshot::Sender<()>)> {
        while let Some(address) = self.turns.pop_front() {
            let Some(own) = self.addresses.get_mut(&address) else { continue };
            let next = own.pop();
            if own.turns.is_empty() {
                self.addresses.remove(&address);
            } else {
                self.turns.push_back(address);
            }
            if let Some((connection, id, granted)) = next
                && self.streams.remove(&id).is_some()
            {
                return Some((id, Holder { address, connection }, granted));
            }
        }
        None
    }
}

impl Address {
    fn pop(&mut self) -> Option<(u64, u64, oneshot::Sender<()>)> {
        let connection = self.turns.pop_front()?;
        let streams = self.connections.get_mut(&connection)?;
        let next = streams.pop_front();
        if streams.is_empty() {
            self.connections.remove(&connection);
        } else {
            self.turns.push_back(connection);
        }
        next.map(|(id, granted)| (connection, id, granted))
    }
}

//! What peers make the server hold, in one account: requests that have not been read, answers that
//! the socket has not taken, subscriptions, words that are kept.
//!
//! Each bound by itself holds for one stream; a peer with a hundred streams a connection and any
//! number of connections multiplies it. So every connection has an account, and all of them one
//! sum. A connection that holds more than one may is ended; when all together hold too much, the
//! worst offender goes: of the address that holds most, the connection that holds most. What is
//! charged are estimates of what the allocator takes, and shared subscriptions count by their share.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::control::Control;
use crate::metrics::Metrics;

/// What a connection and a stream on it hold by themselves, measured by `benches/fanout`: 8.8 KiB
/// for both.
const CONNECTION_BYTES: usize = 2 << 10;
pub(super) const STREAM_BYTES: usize = 7 << 10;

/// The sum over all connections.
#[derive(Debug)]
pub(super) struct MemoryAccount {
    /// For all together and for one connection, bytes; 0 for no limit.
    limit: usize,
    connection_limit: usize,
    total: AtomicUsize,
    // A std mutex, never held across an await; taken when a connection opens, ends, or is evicted.
    connections: Mutex<HashMap<u64, Arc<Shared>>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// One connection's account, until dropped.
#[derive(Debug)]
pub(super) struct ConnectionAccount {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    account: Arc<MemoryAccount>,
    id: u64,
    peer: SocketAddr,
    control: Arc<Control>,
    bytes: AtomicUsize,
    /// It is being ended, and no longer counts.
    evicted: AtomicBool,
}

/// One thing that is charged to a connection, until dropped.
#[derive(Debug)]
pub(super) struct Charge {
    to: Arc<Shared>,
    bytes: AtomicUsize,
}

impl MemoryAccount {
    /// With limits for all connections together and for one, in bytes; 0 for none.
    pub(super) fn new(limit: usize, connection_limit: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            connection_limit,
            total: AtomicUsize::new(0),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            metrics,
        })
    }

    /// An account for the connection that `control` ends.
    pub(super) fn open(
        self: &Arc<Self>,
        peer: SocketAddr,
        control: Arc<Control>,
    ) -> ConnectionAccount {
        let shared = Arc::new(Shared {
            account: self.clone(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
            peer,
            control,
            bytes: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
        });
        self.connections().insert(shared.id, shared.clone());
        shared.add(CONNECTION_BYTES);
        ConnectionAccount { shared }
    }

    /// Bytes that all peers hold together.
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.limit != 0 && self.total() > self.limit
    }

    /// Ends connections until the others hold less than all may.
    fn evict_worst(&self) {
        while self.is_exceeded() {
            let worst = {
                let connections = self.connections();
                let there = || connections.values().filter(|one| !one.is_evicted());
                let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
                for one in there() {
                    *by_address.entry(one.peer.ip()).or_default() += one.bytes();
                }
                let address = by_address.into_iter().max_by_key(|(_, bytes)| *bytes);
                address.and_then(|(address, held)| {
                    let own = there().filter(|one| one.peer.ip() == address);
                    Some((own.max_by_key(|one| one.bytes())?.clone(), held))
                })
            };
            let Some((worst, held_by_address)) = worst else { return };
            let (bytes, limit) = (worst.evict(), self.limit);
            self.metrics.connection_evicted();
            warn!(
                peer = %worst.peer, bytes, held_by_address,
                "connection ended: peers hold more than {limit} bytes together \
                 (--max-peer-memory), and none more than this one"
            );
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionAccount {
    /// Unique within the process.
    pub(super) fn id(&self) -> u64 {
        self.shared.id
    }

    /// Charges something to the connection: nothing yet.
    pub(super) fn charge(&self) -> Charge {
        Charge { to: self.shared.clone(), bytes: AtomicUsize::new(0) }
    }
}

impl Drop for ConnectionAccount {
    fn drop(&mut self) {
        self.shared.account.connections().remove(&self.shared.id);
        self.shared.remove(CONNECTION_BYTES);
    }
}

impl Shared {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.is_evicted() {
            return;
        }
        let account = &self.account;
        account.total.fetch_add(bytes, Ordering::Relaxed);
        let limit = account.connection_limit;
        if limit != 0 && held > limit {
            self.evict();
            account.metrics.connection_evicted();
            warn!(
                peer = %self.peer, bytes = held,
                "connection ended: it holds more than {limit} bytes (--max-connection-memory)"
            );
        } else if account.is_exceeded() {
            account.evict_worst();
        }
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !self.is_evicted() {
            self.account.total.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Ends the connection, which counts no more from now on; gives what it held.
    fn evict(&self) -> usize {
        if self.evicted.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let bytes = self.bytes();
        self.account.total.fetch_sub(bytes, Ordering::Relaxed);
        self.control.evict();
        bytes
    }
}

impl Charge {
    /// It holds so many bytes now.
    pub(super) fn set(&self, bytes: usize) {
        if self.bytes.load(Ordering::Relaxed) == bytes {
            return;
        }
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        match bytes.checked_sub(before) {
            Some(more) => self.to.add(more),
            None => self.to.remove(before - bytes),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.to.remove(*self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn account(limit: usize, connection_limit: usize) -> Arc<MemoryAccount> {
        MemoryAccount::new(limit, connection_limit, Metrics::new(&mut Registry::default()))
    }

    fn open(account: &Arc<MemoryAccount>, peer: u8) -> (ConnectionAccount, Arc<Control>) {
        let control = Arc::new(Control::new());
        (account.open(([10, 0, 0, peer], 1).into(), control.clone()), control)
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let account = account(0, 0);
        let (one, _) = open(&account, 1);
        let (charge, other) = (one.charge(), one.charge());
        charge.set(1000);
        other.set(500);
        charge.set(300);
        assert_eq!(account.total(), CONNECTION_BYTES + 800);
        drop(charge);
        assert_eq!(account.total(), CONNECTION_BYTES + 500);
        drop(one);
        drop(other);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn a_connection_that_holds_more_than_one_may_is_ended() {
        let account = account(0, 10_000);
        let (one, control) = open(&account, 1);
        let (two, other) = open(&account, 1);
        let (charge, kept) = (one.charge(), two.charge());
        kept.set(5000);
        charge.set(10_000 - CONNECTION_BYTES);
        assert!(!control.is_evicted());
        charge.set(10_001 - CONNECTION_BYTES);
        assert!(control.is_evicted() && !other.is_evicted());
        assert_eq!(account.total(), CONNECTION_BYTES + 5000, "it counts no more");
        charge.set(20_000);
        drop((charge, one));
        assert_eq!(account.total(), CONNECTION_BYTES + 5000);
        drop((kept, two));
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn the_worst_offender_goes_and_the_others_stay() {
        let account = account(100_000, 0);
        // One address holds 80,000 bytes on four connections, another 15,000 on one.
        let many: Vec<_> = (0..4).map(|_| open(&account, 1)).collect();
        let (good, good_control) = open(&account, 2);
        let (good_charge, sizes) = (good.charge(), [10_000, 20_000, 30_000, 20_000]);
        good_charge.set(15_000 - CONNECTION_BYTES);
        let charges: Vec<_> = many.iter().map(|(one, _)| one.charge()).collect();
        for (charge, size) in charges.iter().zip(sizes) {
            charge.set(size - CONNECTION_BYTES);
        }
        assert_eq!(account.total(), 95_000);
        let evicted = || many.iter().map(|(_, control)| control.is_evicted()).collect::<Vec<_>>();
        assert_eq!(evicted(), [false; 4]);
        // It is another one that asks for more, and that one stays.
        good_charge.set(21_000 - CONNECTION_BYTES);
        assert_eq!(evicted(), [false, false, true, false]);
        assert!(!good_control.is_evicted());
        assert_eq!(account.total(), 71_000);
    }
}

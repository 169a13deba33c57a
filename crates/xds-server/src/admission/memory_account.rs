//! How much memory peers make the server hold: requests not yet read, responses that the socket has
//! not accepted, subscriptions, NACK texts.
//!
//! The other limits each hold for one stream; a peer with a hundred streams a connection and any number
//! of connections multiplies them. So every connection has an account, and one sum is kept over all. A
//! connection that exceeds its limit is evicted; when the sum exceeds the limit for all, the worst
//! offender is evicted: of the peer that holds most, the connection that holds most. Charges are
//! estimates of what the allocator takes; what subscriptions share is charged to their holders by shares.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::warn;

use crate::http::connection_handle::ConnectionHandle;
use crate::mesh::ServerTexts;
use crate::metrics::ServerMetrics;
use crate::peer::PeerKey;

/// What an idle connection and an idle stream hold, bytes; measured by `benches/fanout`: 8.8 KiB for
/// both.
const CONNECTION_BYTES: usize = 2 << 10;
pub(crate) const STREAM_BYTES: usize = 7 << 10;

/// The accounts of all connections, and their sum.
#[derive(Debug)]
pub(crate) struct MemoryAccounts {
    /// For all connections together and for one, bytes; 0 for no limit.
    limit: usize,
    connection_limit: usize,
    total: AtomicUsize,
    // A std mutex, never held across an await; locked when a connection opens, ends, or is evicted.
    connections: Mutex<HashMap<u64, Arc<ConnectionMemory>>>,
    next: AtomicU64,
    metrics: Arc<ServerMetrics>,
    texts: &'static ServerTexts,
}

/// One connection's account; dropping it closes the account.
#[derive(Debug)]
pub(crate) struct ConnectionAccount {
    memory: Arc<ConnectionMemory>,
}

#[derive(Debug)]
struct ConnectionMemory {
    accounts: Arc<MemoryAccounts>,
    id: u64,
    address: SocketAddr,
    /// Whom it counts for once a peer has been authenticated on it; its address until then.
    peer: OnceLock<PeerKey>,
    handle: Arc<ConnectionHandle>,
    bytes: AtomicUsize,
    /// It is being closed and is no longer part of the sum.
    evicted: AtomicBool,
}

/// Memory charged to a connection; dropping it releases the charge.
#[derive(Debug)]
pub(crate) struct Charge {
    connection: Arc<ConnectionMemory>,
    bytes: AtomicUsize,
}

impl MemoryAccounts {
    /// With limits for all connections together and for one, in bytes; 0 for none.
    pub(crate) fn new(
        limit: usize,
        connection_limit: usize,
        metrics: Arc<ServerMetrics>,
        texts: &'static ServerTexts,
    ) -> Arc<Self> {
        Arc::new(Self {
            limit,
            connection_limit,
            total: AtomicUsize::new(0),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            metrics,
            texts,
        })
    }

    /// Opens an account for the connection that `handle` evicts.
    pub(crate) fn open_account(
        self: &Arc<Self>,
        peer: SocketAddr,
        handle: Arc<ConnectionHandle>,
    ) -> ConnectionAccount {
        let memory = Arc::new(ConnectionMemory {
            accounts: self.clone(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
            address: peer,
            peer: OnceLock::new(),
            handle,
            bytes: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
        });
        self.connections().insert(memory.id, memory.clone());
        memory.add(CONNECTION_BYTES);
        ConnectionAccount { memory }
    }

    /// Bytes that all connections hold together.
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.limit != 0 && self.total() > self.limit
    }

    /// Evicts connections until the others are within the limit for all.
    fn evict_worst(&self) {
        while self.is_exceeded() {
            let worst = {
                let connections = self.connections();
                let live = || connections.values().filter(|one| !one.is_evicted());
                let mut by_peer: BTreeMap<PeerKey, usize> = BTreeMap::new();
                for one in live() {
                    *by_peer.entry(one.peer()).or_default() += one.bytes();
                }
                let peer = by_peer.into_iter().max_by_key(|(_, bytes)| *bytes);
                peer.and_then(|(peer, held)| {
                    let own = live().filter(|one| one.peer() == peer);
                    Some((own.max_by_key(|one| one.bytes())?.clone(), held))
                })
            };
            let Some((worst, held_by_peer)) = worst else { return };
            let (bytes, limit) = (worst.evict(), self.limit);
            self.metrics.connection_evicted();
            warn!(
                peer = %worst.address, of = %worst.peer(), bytes, held_by_peer,
                "connection ended: peers hold more than {limit} bytes together \
                 ({}), and none more than this one",
                self.texts.peer_memory,
            );
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionMemory>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionAccount {
    /// Unique within the process.
    pub(crate) fn id(&self) -> u64 {
        self.memory.id
    }

    /// Counts the connection for this peer from now on. The first peer that is authenticated on a connection
    /// has all of it: streams of several principals on one connection are of one process.
    pub(crate) fn set_peer(&self, peer: &PeerKey) {
        self.memory.peer.get_or_init(|| peer.clone());
    }

    /// A charge to this connection, of zero bytes so far.
    pub(crate) fn new_charge(&self) -> Charge {
        Charge { connection: self.memory.clone(), bytes: AtomicUsize::new(0) }
    }
}

impl Drop for ConnectionAccount {
    fn drop(&mut self) {
        self.memory.accounts.connections().remove(&self.memory.id);
        self.memory.remove(CONNECTION_BYTES);
    }
}

impl ConnectionMemory {
    fn peer(&self) -> PeerKey {
        self.peer.get().cloned().unwrap_or_else(|| PeerKey::of_address(self.address.ip()))
    }

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
        let accounts = &self.accounts;
        accounts.total.fetch_add(bytes, Ordering::Relaxed);
        let limit = accounts.connection_limit;
        if limit != 0 && held > limit {
            self.evict();
            accounts.metrics.connection_evicted();
            warn!(
                peer = %self.address, of = %self.peer(), bytes = held,
                "connection ended: it holds more than {limit} bytes ({})",
                accounts.texts.connection_memory,
            );
        } else if accounts.is_exceeded() {
            accounts.evict_worst();
        }
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !self.is_evicted() {
            self.accounts.total.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Evicts the connection and takes it out of the sum; returns the bytes that it held.
    fn evict(&self) -> usize {
        if self.evicted.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let bytes = self.bytes();
        self.accounts.total.fetch_sub(bytes, Ordering::Relaxed);
        self.handle.evict();
        bytes
    }
}

impl Charge {
    /// Sets the charge to so many bytes.
    pub(crate) fn set(&self, bytes: usize) {
        if self.bytes.load(Ordering::Relaxed) == bytes {
            return;
        }
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        match bytes.checked_sub(before) {
            Some(more) => self.connection.add(more),
            None => self.connection.remove(before - bytes),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connection.remove(*self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_xds::ServedType;

    use super::*;

    fn account(limit: usize, connection_limit: usize) -> Arc<MemoryAccounts> {
        let metrics = Arc::new(ServerMetrics::new(&[ServedType::CLUSTER]));
        MemoryAccounts::new(limit, connection_limit, metrics, &ServerTexts::DEFAULT)
    }

    fn open(account: &Arc<MemoryAccounts>, peer: u8) -> (ConnectionAccount, Arc<ConnectionHandle>) {
        let handle = Arc::new(ConnectionHandle::new());
        (account.open_account(([10, 0, 0, peer], 1).into(), handle.clone()), handle)
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let account = account(0, 0);
        let (one, _) = open(&account, 1);
        let (charge, other) = (one.new_charge(), one.new_charge());
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
        let (one, handle) = open(&account, 1);
        let (two, other) = open(&account, 1);
        let (charge, kept) = (one.new_charge(), two.new_charge());
        kept.set(5000);
        charge.set(10_000 - CONNECTION_BYTES);
        assert!(!handle.is_evicted());
        charge.set(10_001 - CONNECTION_BYTES);
        assert!(handle.is_evicted() && !other.is_evicted());
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
        let (good_charge, sizes) = (good.new_charge(), [10_000, 20_000, 30_000, 20_000]);
        good_charge.set(15_000 - CONNECTION_BYTES);
        let charges: Vec<_> = many.iter().map(|(one, _)| one.new_charge()).collect();
        for (charge, size) in charges.iter().zip(sizes) {
            charge.set(size - CONNECTION_BYTES);
        }
        assert_eq!(account.total(), 95_000);
        let evicted = || many.iter().map(|(_, handle)| handle.is_evicted()).collect::<Vec<_>>();
        assert_eq!(evicted(), [false; 4]);
        // It is another one that asks for more, and that one stays.
        good_charge.set(21_000 - CONNECTION_BYTES);
        assert_eq!(evicted(), [false, false, true, false]);
        assert!(!good_control.is_evicted());
        assert_eq!(account.total(), 71_000);
    }

    /// Many proxies behind one address do not pay for each other, and one principal at many addresses does.
    #[test]
    fn an_authenticated_peer_is_counted_by_its_principal() {
        let account = account(100_000, 0);
        let of = |address: u8, principal: &str| {
            let (one, handle) = open(&account, address);
            one.set_peer(&PeerKey::Principal(principal.into()));
            (one, handle)
        };
        // Behind one address, 30,000 bytes each; at two addresses, 45,000 bytes of one.
        let behind = [of(1, "a"), of(1, "b")];
        let spread = [of(2, "c"), of(3, "c")];
        let charges: Vec<_> = behind
            .iter()
            .zip([30_000, 20_000])
            .chain(spread.iter().zip([20_000, 25_000]))
            .map(|((one, _), bytes)| {
                let charge = one.new_charge();
                charge.set(bytes - CONNECTION_BYTES);
                charge
            })
            .collect();
        assert_eq!(account.total(), 95_000);
        let (last, _) = of(4, "d");
        let more = last.new_charge();
        more.set(10_000);
        let evicted = |all: &[(ConnectionAccount, Arc<ConnectionHandle>)]| {
            all.iter().map(|(_, handle)| handle.is_evicted()).collect::<Vec<_>>()
        };
        assert_eq!((evicted(&behind), evicted(&spread)), (vec![false; 2], vec![false, true]));
        drop(charges);
    }
}

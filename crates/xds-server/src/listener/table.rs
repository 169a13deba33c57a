//! The connections of a listener by address, and which of them are strangers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections a listener may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of all addresses together.
    pub total: usize,
    pub per_address: usize,
}

/// There is no stranger to evict for the new connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LimitReached;

/// Ends a connection.
pub(crate) type Evict = Box<dyn Fn() + Send>;

/// How many connections of one listener are open. Several listeners may share a table.
pub(crate) type OpenConnections = Arc<AtomicUsize>;

pub(crate) struct ConnectionTable {
    limits: ConnectionLimits,
    next: u64,
    open: usize,
    addresses: HashMap<IpAddr, AddressConnections>,
    /// Addresses that have strangers, by how many.
    by_strangers: BTreeSet<(usize, IpAddr)>,
}

#[derive(Default)]
struct AddressConnections {
    /// By age.
    strangers: BTreeMap<u64, (Evict, OpenOne)>,
    established: HashMap<u64, OpenOne>,
}

/// A connection among the open ones of its listener, until it is dropped.
struct OpenOne(OpenConnections);

impl OpenOne {
    fn new(open: OpenConnections) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for OpenOne {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AddressConnections {
    fn count(&self) -> usize {
        self.strangers.len() + self.established.len()
    }
}

impl ConnectionTable {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, next: 0, open: 0, addresses: HashMap::new(), by_strangers: BTreeSet::new() }
    }

    #[cfg(test)]
    fn open_connections(&self) -> usize {
        self.open
    }

    /// Adds a connection and returns its number, and what ends the stranger that is evicted for it.
    pub(crate) fn admit(
        &mut self,
        address: IpAddr,
        evict: Evict,
        open: OpenConnections,
    ) -> Result<(u64, Option<Evict>), LimitReached> {
        let of_address = self.addresses.get(&address).map_or(0, AddressConnections::count);
        let evicted = if of_address >= self.limits.per_address {
            Some(self.remove_oldest_stranger(address).ok_or(LimitReached)?)
        } else if self.open >= self.limits.total {
            let busiest = self.by_strangers.last().map(|(_, address)| *address);
            Some(
                busiest
                    .and_then(|busiest| self.remove_oldest_stranger(busiest))
                    .ok_or(LimitReached)?,
            )
        } else {
            None
        };
        let number = self.next;
        self.next += 1;
        self.open += 1;
        let stranger = (evict, OpenOne::new(open));
        self.update(address, |connections| connections.strangers.insert(number, stranger));
        Ok((number, evicted))
    }

    pub(crate) fn mark_established(&mut self, address: IpAddr, number: u64) {
        self.update(address, |connections| {
            if let Some((_, open)) = connections.strangers.remove(&number) {
                connections.established.insert(number, open);
            }
        });
    }

    /// Removes a connection. One that was evicted is removed already.
    pub(crate) fn release(&mut self, address: IpAddr, number: u64) {
        let removed = self.update(address, |connections| {
            connections.strangers.remove(&number).is_some()
                || connections.established.remove(&number).is_some()
        });
        self.open -= usize::from(removed);
    }

    fn remove_oldest_stranger(&mut self, address: IpAddr) -> Option<Evict> {
        let oldest = self.update(address, |connections| connections.strangers.pop_first());
        self.open -= usize::from(oldest.is_some());
        oldest.map(|(_, (evict, _))| evict)
    }

    /// Updates the connections of an address and `by_strangers`; an address without connections is dropped.
    fn update<T>(
        &mut self,
        address: IpAddr,
        update: impl FnOnce(&mut AddressConnections) -> T,
    ) -> T {
        let connections = self.addresses.entry(address).or_default();
        let before = connections.strangers.len();
        let result = update(connections);
        let after = connections.strangers.len();
        if connections.count() == 0 {
            self.addresses.remove(&address);
        }
        if before != after {
            self.by_strangers.remove(&(before, address));
            if after > 0 {
                self.by_strangers.insert((after, address));
            }
        }
        result
    }
}

impl fmt::Debug for ConnectionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTable")
            .field("limits", &self.limits)
            .field("open", &self.open)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A table that records what is evicted.
    struct RecordingTable {
        table: ConnectionTable,
        open: OpenConnections,
        evicted: Arc<Mutex<Vec<u64>>>,
    }

    impl RecordingTable {
        fn new(total: usize, per_address: usize) -> Self {
            let table = ConnectionTable::new(ConnectionLimits { total, per_address });
            Self { table, open: Arc::default(), evicted: Arc::default() }
        }

        fn admit(&mut self, address: u8) -> Result<u64, LimitReached> {
            let (evicted, number) = (self.evicted.clone(), self.table.next);
            let evict = Box::new(move || evicted.lock().unwrap().push(number));
            let (number, stranger) =
                self.table.admit(address_of(address), evict, self.open.clone())?;
            stranger.inspect(|evict| evict());
            Ok(number)
        }

        fn take_evicted(&self) -> Vec<u64> {
            std::mem::take(&mut self.evicted.lock().unwrap())
        }
    }

    fn address_of(address: u8) -> IpAddr {
        [10, 0, 0, address].into()
    }

    #[test]
    fn the_oldest_stranger_of_the_busiest_address_makes_room() {
        let mut recording = RecordingTable::new(4, 4);
        for address in [1, 2, 2, 2] {
            recording.admit(address).unwrap();
        }
        assert_eq!(recording.take_evicted(), [] as [u64; 0]);
        assert_eq!(recording.admit(3), Ok(4));
        assert_eq!(recording.take_evicted(), [1]);
        // The busiest is asked first although another's is older.
        assert_eq!(recording.admit(3), Ok(5));
        assert_eq!(recording.take_evicted(), [2]);
        assert_eq!(recording.table.open_connections(), 4);
    }

    #[test]
    fn one_address_makes_room_for_itself_only() {
        let mut recording = RecordingTable::new(100, 2);
        for address in [1, 2, 1, 1] {
            recording.admit(address).unwrap();
        }
        assert_eq!(recording.take_evicted(), [0]);
        assert_eq!(recording.table.open_connections(), 3);
    }

    #[test]
    fn the_settled_stay_and_a_newcomer_is_refused_where_all_are() {
        let mut recording = RecordingTable::new(2, 2);
        for address in [1, 2] {
            let number = recording.admit(address).unwrap();
            recording.table.mark_established(address_of(address), number);
        }
        assert_eq!(recording.admit(3), Err(LimitReached));
        assert_eq!(recording.take_evicted(), [] as [u64; 0]);
        recording.table.release(address_of(1), 0);
        recording.admit(3).unwrap();
        // A stranger again has to go, not the established one.
        recording.admit(4).unwrap();
        assert_eq!(recording.take_evicted(), [2]);
    }

    #[test]
    fn nothing_is_kept_of_those_who_left_and_cutting_counts_once() {
        let mut recording = RecordingTable::new(1, 1);
        let first = recording.admit(1).unwrap();
        let second = recording.admit(2).unwrap();
        assert_eq!(recording.take_evicted(), [first]);
        // Its task ends later than it was cut.
        recording.table.release(address_of(1), first);
        recording.table.mark_established(address_of(1), first);
        assert_eq!(recording.table.open_connections(), 1);
        recording.table.release(address_of(2), second);
        assert_eq!(recording.table.open_connections(), 0);
        assert_eq!(recording.open.load(Ordering::Relaxed), 0);
        assert!(recording.table.addresses.is_empty() && recording.table.by_strangers.is_empty());
    }
}

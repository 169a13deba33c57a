//! Who is in: connections by address, and which of them are strangers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub connections: usize,
    pub of_one_address: usize,
}

/// Nobody can be cut for the newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Ends a connection.
pub(super) type Cut = Box<dyn Fn() + Send>;

pub(super) struct Table {
    room: Room,
    next: u64,
    open: usize,
    addresses: HashMap<IpAddr, Connections>,
    /// Addresses that have strangers, by how many.
    by_strangers: BTreeSet<(usize, IpAddr)>,
}

#[derive(Default)]
struct Connections {
    /// By age.
    strangers: BTreeMap<u64, Cut>,
    settled: HashSet<u64>,
}

impl Connections {
    fn open(&self) -> usize {
        self.strangers.len() + self.settled.len()
    }
}

impl Table {
    pub(super) fn new(room: Room) -> Self {
        Self { room, next: 0, open: 0, addresses: HashMap::new(), by_strangers: BTreeSet::new() }
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// The newcomer's number, and what ends the connection that it is in the place of.
    pub(super) fn admit(&mut self, address: IpAddr, cut: Cut) -> Result<(u64, Option<Cut>), Full> {
        let of_address = self.addresses.get(&address).map_or(0, Connections::open);
        let victim = if of_address >= self.room.of_one_address {
            Some(self.take_oldest(address).ok_or(Full)?)
        } else if self.open >= self.room.connections {
            let busiest = self.by_strangers.last().map(|(_, address)| *address);
            Some(busiest.and_then(|busiest| self.take_oldest(busiest)).ok_or(Full)?)
        } else {
            None
        };
        let number = self.next;
        self.next += 1;
        self.open += 1;
        self.change(address, |connections| connections.strangers.insert(number, cut));
        Ok((number, victim))
    }

    pub(super) fn settle(&mut self, address: IpAddr, number: u64) {
        self.change(address, |connections| {
            if connections.strangers.remove(&number).is_some() {
                connections.settled.insert(number);
            }
        });
    }

    /// A connection that was cut has left already.
    pub(super) fn leave(&mut self, address: IpAddr, number: u64) {
        let left = self.change(address, |connections| {
            connections.strangers.remove(&number).is_some() || connections.settled.remove(&number)
        });
        self.open -= usize::from(left);
    }

    fn take_oldest(&mut self, address: IpAddr) -> Option<Cut> {
        let oldest = self.change(address, |connections| connections.strangers.pop_first());
        self.open -= usize::from(oldest.is_some());
        oldest.map(|(_, cut)| cut)
    }

    /// Keeps the order of addresses, and forgets those that have none left.
    fn change<T>(&mut self, address: IpAddr, change: impl FnOnce(&mut Connections) -> T) -> T {
        let connections = self.addresses.entry(address).or_default();
        let before = connections.strangers.len();
        let result = change(connections);
        let after = connections.strangers.len();
        if connections.open() == 0 {
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

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("room", &self.room).field("open", &self.open).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A table that notes who is cut.
    struct Noted {
        table: Table,
        cut: Arc<Mutex<Vec<u64>>>,
    }

    impl Noted {
        fn new(connections: usize, of_one_address: usize) -> Self {
            let table = Table::new(Room { connections, of_one_address });
            Self { table, cut: Arc::default() }
        }

        fn admit(&mut self, address: u8) -> Result<u64, Full> {
            let (cut, number) = (self.cut.clone(), self.table.next);
            let note = Box::new(move || cut.lock().unwrap().push(number));
            let (number, victim) = self.table.admit(of(address), note)?;
            victim.inspect(|cut| cut());
            Ok(number)
        }

        fn cut(&self) -> Vec<u64> {
            std::mem::take(&mut self.cut.lock().unwrap())
        }
    }

    fn of(address: u8) -> IpAddr {
        [10, 0, 0, address].into()
    }

    #[test]
    fn the_oldest_stranger_of_the_busiest_address_makes_room() {
        let mut noted = Noted::new(4, 4);
        for address in [1, 2, 2, 2] {
            noted.admit(address).unwrap();
        }
        assert_eq!(noted.cut(), [] as [u64; 0]);
        assert_eq!(noted.admit(3), Ok(4));
        assert_eq!(noted.cut(), [1]);
        // The busiest is asked first although another's is older.
        assert_eq!(noted.admit(3), Ok(5));
        assert_eq!(noted.cut(), [2]);
        assert_eq!(noted.table.open(), 4);
    }

    #[test]
    fn one_address_makes_room_for_itself_only() {
        let mut noted = Noted::new(100, 2);
        for address in [1, 2, 1, 1] {
            noted.admit(address).unwrap();
        }
        assert_eq!(noted.cut(), [0]);
        assert_eq!(noted.table.open(), 3);
    }

    #[test]
    fn the_settled_stay_and_a_newcomer_is_refused_where_all_are() {
        let mut noted = Noted::new(2, 2);
        for address in [1, 2] {
            let number = noted.admit(address).unwrap();
            noted.table.settle(of(address), number);
        }
        assert_eq!(noted.admit(3), Err(Full));
        assert_eq!(noted.cut(), [] as [u64; 0]);
        noted.table.leave(of(1), 0);
        noted.admit(3).unwrap();
        // A stranger again has to go, not the settled one.
        noted.admit(4).unwrap();
        assert_eq!(noted.cut(), [2]);
    }

    #[test]
    fn nothing_is_kept_of_those_who_left_and_cutting_counts_once() {
        let mut noted = Noted::new(1, 1);
        let first = noted.admit(1).unwrap();
        let second = noted.admit(2).unwrap();
        assert_eq!(noted.cut(), [first]);
        // Its task ends later than it was cut.
        noted.table.leave(of(1), first);
        noted.table.settle(of(1), first);
        assert_eq!(noted.table.open(), 1);
        noted.table.leave(of(2), second);
        assert_eq!(noted.table.open(), 0);
        assert!(noted.table.addresses.is_empty() && noted.table.by_strangers.is_empty());
    }
}

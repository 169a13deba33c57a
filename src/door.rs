//! A listener with a bound on its connections: nobody outside can use up the descriptors, and whoever
//! has business here gets in.
//!
//! A connection is a stranger until it has shown what it is for ([`Place::settle`]; on an HTTP door it
//! never is asked to). When a door is full, or an address has as many as one address may have, the
//! oldest stranger of the address with the most of them is cut, and the newcomer gets in: a probe, or a
//! new proxy, speaks at once and is not the oldest. Only where all are settled newcomers are refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

mod bind;
pub mod descriptors;
mod table;

pub use bind::{BindError, bind};
pub use table::Room;
use table::Table;

/// A line about what a door refuses is said again after this long, with a count.
const REPEAT: Duration = Duration::from_secs(30);

/// How long nothing is accepted when there is no descriptor for it.
const PAUSE: Duration = Duration::from_millis(100);

/// What a door has done, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    refused: AtomicU64,
    cut: AtomicU64,
    panicked: AtomicU64,
}

impl Counts {
    /// Connections that were closed at once, because the door was full of settled ones.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Strangers that were cut to let somebody else in.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Connections that ended by a panic.
    pub fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// A connection's task has panicked.
    pub fn note_panic(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }
}

/// What metrics see of a door.
#[derive(Clone, Debug)]
pub struct DoorStats {
    pub name: &'static str,
    pub counts: Arc<Counts>,
    table: Arc<Mutex<Table>>,
    broken: CancellationToken,
}

impl DoorStats {
    /// Connections open now.
    pub fn open(&self) -> usize {
        lock(&self.table).open()
    }

    /// Completes if the listening socket is one no longer. Nobody gets in any more then, while those who
    /// are in are served: somebody has to end the process.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

/// A listener, and who is in.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    stats: DoorStats,
    room: Room,
    /// When something was last said, and what has happened since.
    said: Option<Instant>,
    unsaid: Unsaid,
}

#[derive(Debug, Default)]
struct Unsaid {
    refused: u64,
    cut: u64,
    failed: u64,
}

impl Door {
    /// `name` is for log and metrics.
    pub fn new(name: &'static str, listener: TcpListener, room: Room) -> Self {
        let table = Arc::new(Mutex::new(Table::new(room)));
        let stats =
            DoorStats { name, counts: Arc::default(), table, broken: CancellationToken::new() };
        Self { listener, stats, room, said: None, unsaid: Unsaid::default() }
    }

    pub fn stats(&self) -> DoorStats {
        self.stats.clone()
    }

    /// To be taken to another runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn into_std(self) -> std::io::Result<Moving> {
        Ok(Moving { listener: self.listener.into_std()?, stats: self.stats, room: self.room })
    }

    /// The next connection, to be admitted. May be dropped at any time.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) if is_of_the_listener(&error) => {
                    error!(door = self.stats.name, %error, "the listening socket is lost");
                    self.stats.broken.cancel();
                    return std::future::pending().await;
                }
                Err(error) => {
                    self.unsaid.failed += 1;
                    if self.is_due() {
                        let failed = std::mem::take(&mut self.unsaid.failed);
                        warn!(
                            door = self.stats.name, %error, times = failed,
                            "cannot take a connection (too many open files? see ulimit -Hn)"
                        );
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A place for a connection from `address`, for as long as it is kept. `cut` must end the
    /// connection soon; it may be called from any thread. `None` if it must go.
    pub fn admit(&mut self, address: IpAddr, cut: impl Fn() + Send + 'static) -> Option<Place> {
        let address = address.to_canonical();
        let admitted = lock(&self.stats.table).admit(address, Box::new(cut));
        let place = match admitted {
            Ok((number, victim)) => {
                if let Some(cut) = victim {
                    cut();
                    self.stats.counts.cut.fetch_add(1, Ordering::Relaxed);
                    self.unsaid.cut += 1;
                }
                Some(Place { table: self.stats.table.clone(), address, number })
            }
            Err(table::Full) => {
                self.stats.counts.refused.fetch_add(1, Ordering::Relaxed);
                self.unsaid.refused += 1;
                None
            }
        };
        if (self.unsaid.cut > 0 || self.unsaid.refused > 0) && self.is_due() {
            let Unsaid { refused, cut, .. } = std::mem::take(&mut self.unsaid);
            warn!(
                door = self.stats.name, last = %address, refused, cut,
                "too many connections: there is room for {}, of which one address may have {}",
                self.room.connections, self.room.of_one_address,
            );
        }
        place
    }

    fn is_due(&mut self) -> bool {
        let due = self.said.is_none_or(|said| said.elapsed() >= REPEAT);
        if due {
            self.said = Some(Instant::now());
        }
        due
    }
}

/// A door between two runtimes: a listener belongs to the one that it was made in.
#[derive(Debug)]
pub struct Moving {
    listener: std::net::TcpListener,
    stats: DoorStats,
    room: Room,
}

impl Moving {
    /// In the runtime that calls.
    ///
    /// # Errors
    /// The system refuses.
    pub fn into_tokio(self) -> std::io::Result<Door> {
        let Self { listener, stats, room } = self;
        let listener = TcpListener::from_std(listener)?;
        Ok(Door { listener, stats, room, said: None, unsaid: Unsaid::default() })
    }
}

/// Whether only this connection failed, before it was taken.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

/// Whether nothing will ever be accepted again (accept(2)): the socket does not listen, or is none. Seen
/// where somebody shuts it down from outside (`ss -K`, a debugger). Everything else passes.
fn is_of_the_listener(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| matches!(errno, Errno::INVAL | Errno::BADF | Errno::NOTSOCK))
}

/// A connection's place; dropped with it.
#[derive(Debug)]
pub struct Place {
    table: Arc<Mutex<Table>>,
    address: IpAddr,
    number: u64,
}

impl Place {
    /// It has shown what it is for: nobody gets its place while it wants it.
    pub fn settle(&self) {
        lock(&self.table).settle(self.address, self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).leave(self.address, self.number);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

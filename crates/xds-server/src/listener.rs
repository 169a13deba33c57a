//! A listener with a limit on its connections (a *door* in metrics and log), so that peers can neither
//! exhaust the file descriptors nor keep proxies and probes out.
//!
//! A connection is a *stranger* until it is established by a first request that makes sense
//! ([`ConnectionSlot::mark_established`]; a connection of an HTTP listener stays a stranger). When the
//! limit of the listener or of one address is reached, the oldest stranger of the address with the most
//! of them is evicted for the new connection: a probe, or a new proxy, sends its request at once and is
//! not the oldest. A new connection is refused only if all others are established.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

mod accept_thread;
mod served;
pub(crate) mod table;

pub use served::ServedListener;
pub(crate) use served::ServedPort;
pub use table::ConnectionLimits;
use table::{ConnectionTable, OpenConnections};

/// Refusals are logged at most this often, with their number.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait before the next accept when there is no file descriptor for a connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Connections that may wait to be accepted. The kernel grants `net.core.somaxconn` at most (4,096 on Linux
/// since 5.4); what comes when so many wait is dropped, and its peer is reset or tries again after a second:
/// seen with the 1,024 that tokio asks for, when 1,500 proxies came at once.
const BACKLOG: u32 = i32::MAX as u32;

/// Listens on an address, with as many connections waiting as the kernel grants.
///
/// # Errors
/// The address cannot be bound.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As the standard library: connections of a process before this one do not hold the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a listener has done with connections, for metrics.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    refused: AtomicU64,
    cut: AtomicU64,
    panicked: AtomicU64,
}

impl ConnectionCounters {
    /// Connections that were refused, because all others were established.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Strangers that were evicted for a new connection.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Connections that ended by a panic.
    pub fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Counts a panic of a connection's task.
    pub fn count_panic(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }
}

/// What metrics read of a listener.
#[derive(Clone, Debug)]
pub struct ListenerStats {
    pub name: &'static str,
    pub counts: Arc<ConnectionCounters>,
    table: Arc<Mutex<ConnectionTable>>,
    open: OpenConnections,
    lost: CancellationToken,
}

impl ListenerStats {
    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Completes when the listening socket is lost. No connection is accepted any more then, while the
    /// others are still served, so the process has to end.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// A listener, and its connections.
#[derive(Debug)]
pub struct LimitedListener {
    incoming: Incoming,
    stats: ListenerStats,
    limits: ConnectionLimits,
    /// When refusals were last logged, and what has happened since.
    last_logged: Option<Instant>,
    unlogged: UnloggedCounts,
}

/// Where connections come from.
#[derive(Debug)]
enum Incoming {
    Listener(TcpListener),
    /// From a thread that accepts.
    Thread(mpsc::Receiver<accept_thread::Accepted>),
}

impl Incoming {
    async fn accept(&mut self) -> std::io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Listener(listener) => listener.accept().await,
            Self::Thread(accepted) => match accepted.recv().await {
                Some(accepted) => {
                    let (socket, peer) = accepted?;
                    Ok((TcpStream::from_std(socket)?, peer))
                }
                // It has said why.
                None => std::future::pending().await,
            },
        }
    }
}

#[derive(Debug, Default)]
struct UnloggedCounts {
    refused: u64,
    cut: u64,
    failed: u64,
}

impl LimitedListener {
    /// Accepts from `listener` with these limits. `name` is for log and metrics.
    pub fn new(name: &'static str, listener: TcpListener, limits: ConnectionLimits) -> Self {
        Self::with_table(name, listener, limits, Arc::new(Mutex::new(ConnectionTable::new(limits))))
    }

    /// Accepts from a second listener. The limits are for the connections of both together, and a stranger
    /// of the one may be evicted for a connection of the other.
    #[must_use]
    pub fn sharing_limits(&self, name: &'static str, listener: TcpListener) -> Self {
        Self::with_table(name, listener, self.limits, self.stats.table.clone())
    }

    fn with_table(
        name: &'static str,
        listener: TcpListener,
        limits: ConnectionLimits,
        table: Arc<Mutex<ConnectionTable>>,
    ) -> Self {
        let (counts, open, lost) = (Arc::default(), Arc::default(), CancellationToken::new());
        let stats = ListenerStats { name, counts, table, open, lost };
        let incoming = Incoming::Listener(listener);
        Self { incoming, stats, limits, last_logged: None, unlogged: UnloggedCounts::default() }
    }

    /// Accepts on a thread of its own from now on, however busy this runtime is. If the system refuses that,
    /// the listener is lost.
    #[must_use]
    pub(crate) fn accept_on_thread(self) -> Self {
        let Self { incoming, stats, limits, last_logged, unlogged } = self;
        let incoming = match incoming {
            Incoming::Listener(listener) => {
                let accepted = listener.into_std().and_then(accept_thread::spawn);
                Incoming::Thread(accepted.unwrap_or_else(|error| {
                    error!(door = stats.name, %error, "cannot accept connections");
                    stats.lost.cancel();
                    mpsc::channel(1).1
                }))
            }
            thread @ Incoming::Thread(_) => thread,
        };
        Self { incoming, stats, limits, last_logged, unlogged }
    }

    pub fn stats(&self) -> ListenerStats {
        self.stats.clone()
    }

    /// Detaches the listener from this runtime, to be used in another.
    ///
    /// # Errors
    /// The system refuses, or a thread accepts already.
    pub fn into_std(self) -> std::io::Result<DetachedListener> {
        let Incoming::Listener(listener) = self.incoming else {
            return Err(std::io::Error::other("a thread accepts from it"));
        };
        Ok(DetachedListener {
            listener: listener.into_std()?,
            stats: self.stats,
            limits: self.limits,
        })
    }

    /// The next connection, to be admitted. May be dropped at any time.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.incoming.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_connection_error(&error) => {}
                Err(error) if is_listener_lost(&error) => {
                    error!(door = self.stats.name, %error, "the listening socket is lost");
                    self.stats.lost.cancel();
                    return std::future::pending().await;
                }
                Err(error) => {
                    self.unlogged.failed += 1;
                    if self.is_log_due() {
                        let failed = std::mem::take(&mut self.unlogged.failed);
                        warn!(
                            door = self.stats.name, %error, times = failed,
                            "cannot take a connection (too many open files? see ulimit -Hn)"
                        );
                    }
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Admits a connection from `address`, which counts until its slot is dropped. `evict` must end the
    /// connection soon; it may be called from any thread. `None` if the connection is refused.
    pub fn admit(
        &mut self,
        address: IpAddr,
        evict: impl Fn() + Send + 'static,
    ) -> Option<ConnectionSlot> {
        let address = address.to_canonical();
        let open = self.stats.open.clone();
        let admitted = lock(&self.stats.table).admit(address, Box::new(evict), open);
        let slot = match admitted {
            Ok((number, evicted)) => {
                if let Some(evict) = evicted {
                    evict();
                    self.stats.counts.cut.fetch_add(1, Ordering::Relaxed);
                    self.unlogged.cut += 1;
                }
                Some(ConnectionSlot { table: self.stats.table.clone(), address, number })
            }
            Err(table::LimitReached) => {
                self.stats.counts.refused.fetch_add(1, Ordering::Relaxed);
                self.unlogged.refused += 1;
                None
            }
        };
        if (self.unlogged.cut > 0 || self.unlogged.refused > 0) && self.is_log_due() {
            let UnloggedCounts { refused, cut, .. } = std::mem::take(&mut self.unlogged);
            warn!(
                door = self.stats.name, last = %address, refused, cut,
                "too many connections: there is room for {}, of which one address may have {}",
                self.limits.total, self.limits.per_address,
            );
        }
        slot
    }

    fn is_log_due(&mut self) -> bool {
        let due = self.last_logged.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            self.last_logged = Some(Instant::now());
        }
        due
    }
}

/// A listener between two runtimes, since a socket of tokio belongs to the runtime that it was made in.
#[derive(Debug)]
pub struct DetachedListener {
    listener: std::net::TcpListener,
    stats: ListenerStats,
    limits: ConnectionLimits,
}

impl DetachedListener {
    /// Attaches the listener to the calling runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn into_tokio(self) -> std::io::Result<LimitedListener> {
        let Self { listener, stats, limits } = self;
        let listener = TcpListener::from_std(listener)?;
        Ok(LimitedListener {
            incoming: Incoming::Listener(listener),
            stats,
            limits,
            last_logged: None,
            unlogged: UnloggedCounts::default(),
        })
    }
}

/// Whether only this connection failed, before it was accepted.
fn is_connection_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

/// Whether nothing will ever be accepted again (accept(2)): the socket does not listen, or is none. Seen
/// where somebody shuts it down from outside (`ss -K`, a debugger). Everything else passes.
fn is_listener_lost(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| matches!(errno, Errno::INVAL | Errno::BADF | Errno::NOTSOCK))
}

/// One connection of a listener, counted until it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    table: Arc<Mutex<ConnectionTable>>,
    address: IpAddr,
    number: u64,
}

impl ConnectionSlot {
    /// Marks the connection as established: it is not evicted any more.
    pub fn mark_established(&self) {
        lock(&self.table).mark_established(self.address, self.number);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.table).release(self.address, self.number);
    }
}

fn lock(table: &Mutex<ConnectionTable>) -> MutexGuard<'_, ConnectionTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

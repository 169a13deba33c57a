//! When a handshake may use the processor.
//!
//! A handshake is the most expensive thing that a stranger can ask for: some 0.3 ms, hundreds of times what
//! its bytes cost the peer. All that have something to do would stand in the runtime's queue before the
//! streams that a push has woken. So a handshake is polled in turns, and only [`AT_ONCE`] turns are out at a
//! time: a push waits for no more than these. A turn lasts for one poll and is never held while a peer is
//! waited for, so that slow peers hold nothing.
//!
//! Addresses take turns as for permits (`admission`): a peer with a thousand handshakes delays only itself.
//! Handshakes that are begun go before those that are not, since they hold memory; every fourth turn begins
//! one all the same. At most [`BEGUN`] are begun: for another the oldest of the address with the most of them
//! ends.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::admission::round_robin::RoundRobin;
use crate::listener::ConnectionLimits;
use crate::listener::table::{ConnectionTable, Evict};

/// Turns that are out at a time.
const AT_ONCE: usize = 8;

/// Handshakes that are begun and not done, and those of one address.
const BEGUN: ConnectionLimits = ConnectionLimits { total: 1024, per_address: 512 };

/// While some wait that are begun, one of so many turns is for one that is not.
const BEGIN_EVERY: u32 = 4;

/// The turns of all handshakes of a listener.
#[derive(Debug)]
pub(super) struct HandshakeTurns {
    // Std mutexes, never held across an await, and never both.
    state: Mutex<TurnState>,
    begun: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct TurnState {
    /// Turns that are out.
    out: usize,
    granted: u32,
    /// Handshakes that wait: those that are begun, and those that are not.
    begun: WaitingHandshakes,
    new: WaitingHandshakes,
}

/// One that has stopped waiting is skipped when its place comes up.
type WaitingHandshakes = RoundRobin<IpAddr, oneshot::Sender<Turn>>;

/// The right to be polled once; it ends when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` once it is given back.
    turns: Option<Arc<HandshakeTurns>>,
}

/// A handshake that is begun, until it is dropped.
#[derive(Debug)]
pub(super) struct BegunHandshake {
    turns: Arc<HandshakeTurns>,
    address: IpAddr,
    number: u64,
}

impl Default for HandshakeTurns {
    fn default() -> Self {
        Self { state: Mutex::default(), begun: Mutex::new(ConnectionTable::new(BEGUN)) }
    }
}

impl HandshakeTurns {
    /// Waits for a turn. Dropping the future gives up the place in the queue.
    pub(super) async fn acquire(self: &Arc<Self>, address: IpAddr, begun: bool) -> Turn {
        loop {
            let granted = {
                let mut state = self.state();
                if state.out < AT_ONCE {
                    state.out += 1;
                    return Turn { turns: Some(self.clone()) };
                }
                let (sender, granted) = oneshot::channel();
                let waiting = if begun { &mut state.begun } else { &mut state.new };
                waiting.push(address, sender);
                granted
            };
            if let Ok(turn) = granted.await {
                return turn;
            }
        }
    }

    /// A handshake begins, and ends another if there are too many; `evict` must end it soon.
    pub(super) fn begin(
        self: &Arc<Self>,
        address: IpAddr,
        evict: impl Fn() + Send + 'static,
    ) -> Option<BegunHandshake> {
        let evict: Evict = Box::new(evict);
        let admitted = self.begun().admit(address, evict, Arc::default());
        let (number, evicted) = admitted.ok()?;
        if let Some(evict) = evicted {
            evict();
        }
        Some(BegunHandshake { turns: self.clone(), address, number })
    }

    /// Passes a turn on, or takes it back if nobody waits.
    fn pass_on(self: Arc<Self>) {
        let mut state = self.state();
        let mut turn = Turn { turns: Some(self.clone()) };
        while let Some(next) = state.next() {
            match next.send(turn) {
                Ok(()) => return,
                Err(unwanted) => turn = unwanted,
            }
        }
        state.out -= 1;
        // Dropped while the lock is held.
        turn.turns = None;
    }

    fn state(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, ConnectionTable> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TurnState {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.granted = self.granted.wrapping_add(1);
        if self.granted.is_multiple_of(BEGIN_EVERY) {
            next_waiting(&mut self.new).or_else(|| next_waiting(&mut self.begun))
        } else {
            next_waiting(&mut self.begun).or_else(|| next_waiting(&mut self.new))
        }
    }
}

/// The next that still waits.
fn next_waiting(handshakes: &mut WaitingHandshakes) -> Option<oneshot::Sender<Turn>> {
    std::iter::from_fn(|| handshakes.pop()).map(|(_, next)| next).find(|next| !next.is_closed())
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

impl Drop for BegunHandshake {
    fn drop(&mut self) {
        self.turns.begun().release(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// A handshake that asks for a turn at once, and the turn once it has it.
    fn asks(turns: &Arc<HandshakeTurns>, last: u8, begun: bool) -> BoxFuture<'static, Turn> {
        let turns = turns.clone();
        let mut asks = async move { turns.acquire(address(last), begun).await }.boxed();
        assert!(asks.as_mut().now_or_never().is_none(), "all turns are out");
        asks
    }

    fn all_out(turns: &Arc<HandshakeTurns>) -> Vec<Turn> {
        (0..AT_ONCE).map(|_| turns.acquire(address(1), false).now_or_never().unwrap()).collect()
    }

    #[test]
    fn addresses_take_turns_and_those_that_gave_up_are_skipped() {
        let turns = Arc::<HandshakeTurns>::default();
        let mut out = all_out(&turns);
        let mut many: Vec<_> = (0..5).map(|_| asks(&turns, 2, false)).collect();
        let mut one = asks(&turns, 3, false);
        drop(many.remove(0));
        out.pop();
        // The first of the busy address has gone, and the other address is next.
        let turn = one.as_mut().now_or_never().expect("a turn");
        assert!(many.iter_mut().all(|other| other.as_mut().now_or_never().is_none()));
        drop(turn);
        assert!(many[0].as_mut().now_or_never().is_some());
        drop((many, out, one));
        assert_eq!(turns.state().out, 0);
        assert!(turns.state().new.is_empty());
    }

    #[test]
    fn a_turn_that_is_granted_to_one_that_gives_up_is_passed_on() {
        let turns = Arc::<HandshakeTurns>::default();
        let mut out = all_out(&turns);
        let (first, mut second) = (asks(&turns, 2, false), asks(&turns, 2, false));
        out.pop();
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
        drop(out);
        assert_eq!(turns.state().out, 0);
    }

    #[test]
    fn those_that_are_begun_go_first_and_every_fourth_turn_begins_one() {
        let turns = Arc::<HandshakeTurns>::default();
        let out = all_out(&turns);
        let order = Arc::<Mutex<Vec<bool>>>::default();
        let waiting = (0..20).map(|at| {
            let (mut asks, order, begun) = (asks(&turns, 2, at >= 10), order.clone(), at >= 10);
            let turn = std::future::poll_fn(move |context| asks.as_mut().poll(context));
            async move {
                let _turn = turn.await;
                order.lock().unwrap().push(begun);
            }
        });
        let waiting = futures::future::join_all(waiting.collect::<Vec<_>>());
        drop(out);
        waiting.now_or_never();
        let order = order.lock().unwrap();
        assert!(order.len() >= 8, "{order:?}");
        assert_eq!(order.iter().take(8).filter(|begun| !**begun).count(), 2, "{order:?}");
    }

    #[test]
    fn of_too_many_that_are_begun_the_oldest_of_the_busiest_address_ends() {
        let turns = Arc::<HandshakeTurns>::default();
        let ended = Arc::<AtomicUsize>::default();
        let begin = |last| {
            let ended = ended.clone();
            turns.begin(address(last), move || _ = ended.fetch_add(1, Ordering::Relaxed)).unwrap()
        };
        let held: Vec<_> = (0..BEGUN.per_address + 7).map(|_| begin(1)).collect();
        assert_eq!(ended.load(Ordering::Relaxed), 7);
        drop(held);
        let _one = begin(1);
        assert_eq!(ended.load(Ordering::Relaxed), 7);
    }
}

//! A stand-in API server: Services and EndpointSlices, routes if it is told to, and faults on command.
//!
//! `world` is what it has stored, `answers` what it says to requests.

use std::net::SocketAddr;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{LONG_DEADLINE, until};

mod answers;
mod events;
mod world;

pub use events::Writes;
pub use world::Changes;
use world::{Shared, World};

pub const SERVICES: &str = "services";
pub const SLICES: &str = "endpointslices";
pub const HTTP_ROUTES: &str = "httproutes";
pub const GRPC_ROUTES: &str = "grpcroutes";
pub const GRANTS: &str = "referencegrants";
/// The kinds of the Gateway API.
pub const ROUTE_KINDS: [&str; 3] = [HTTP_ROUTES, GRPC_ROUTES, GRANTS];

/// What befalls every watch that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Neither events nor the end, not even at the watch's timeout.
    Hang,
    /// An ERROR event: the version is too old.
    Gone,
    /// A clean end, and the version is too old for the next watch.
    Forget,
    /// Half an event, and the connection breaks.
    HalfThenBreak,
    /// Half an event, and a clean end.
    HalfThenEnd,
    /// A whole event without the end of its line, and a clean end.
    NoNewline,
    /// An event that is no JSON.
    Garbage,
    /// A clean end.
    End,
}

/// What becomes of a list that is asked for as a watch (KEP-3157).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// Everything, the mark of its end, and the watch goes on.
    #[default]
    Whole,
    /// Refused, as by servers without it.
    Unknown,
    /// Everything, but no mark: the server does not know what it was asked for.
    Unmarked,
    HalfThenHang,
    HalfThenBreak,
    HalfThenEnd,
    /// The same objects over and over, and no mark.
    Endless,
}

#[derive(Debug)]
pub struct Api {
    pub address: SocketAddr,
    shared: Shared,
    _serving: AbortOnDropHandle<()>,
}

impl Api {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new();
        let app = answers::router(shared.clone()).merge(events::router(shared.clone()));
        let door = answers::Door { listener, shared: shared.clone() };
        let serving = async move { axum::serve(door, app).await.unwrap() };
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Self { address, shared, _serving: serving }
    }

    /// Makes the changes known to watches and lists.
    pub fn change(&self, changes: impl FnOnce(&mut Changes<'_>)) {
        changes(&mut Changes { world: self.shared.world() });
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Waits until a watch of each kind is open, which a cut or a broken connection takes along.
    pub async fn is_watched(&self) {
        drop(self.watched().await);
    }

    async fn watched(&self) -> MutexGuard<'_, World> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < LONG_DEADLINE, "there is no open watch of each kind");
            {
                let world = self.shared.world();
                let open = |kind: &&str| world.open.get(kind).is_some_and(|&n| n > 0);
                if [SERVICES, SLICES].iter().all(open) {
                    return world;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Cuts the open watches, of which there is one of each kind at least, and makes changes that
    /// none of them has told.
    pub async fn cut(&self, cut: Cut, changes: impl FnOnce(&mut Changes<'_>)) {
        let mut guard = Changes { world: self.watched().await };
        changes(&mut guard);
        if matches!(cut, Cut::Gone | Cut::Forget) {
            guard.world.floor = guard.world.version;
        }
        // Under the lock, so that no watch sees the changes before the cut.
        self.shared.cut_all(cut);
    }

    /// Answers every new request (of one kind, or of all) with this status, and ends the watches.
    pub fn refuse(&self, kind: Option<&'static str>, status: u16) {
        self.shared.world().refused = Some((kind, status));
        self.shared.cut_all(Cut::End);
    }

    /// The same, and says when to come again.
    pub fn refuse_for(&self, kind: &'static str, status: u16, seconds: u32) {
        self.shared.world().retry_after = seconds;
        self.refuse(Some(kind), status);
    }

    /// From now on it has these kinds of the Gateway API, in this version, and no others. Watches of those that
    /// it had end, and their objects go.
    pub fn has_crds(&self, version: &'static str, kinds: &[&'static str]) {
        {
            let world = &mut *self.shared.world();
            world.crds = kinds.iter().map(|kind| (*kind, version)).collect();
            let crds = &world.crds;
            let stays = |kind: &str| !ROUTE_KINDS.contains(&kind) || crds.contains_key(kind);
            world.objects.retain(|(kind, _), _| stays(kind));
        }
        self.shared.cut_all(Cut::End);
    }

    /// How often the API's discovery was asked for the Gateway API.
    pub fn discoveries(&self) -> usize {
        self.shared.world().discoveries
    }

    /// When requests were refused.
    pub fn refusals(&self) -> Vec<Instant> {
        self.shared.world().refusals.clone()
    }

    /// Pages of lists that were begun cannot be gone on with.
    pub fn forget_lists(&self) {
        let mut world = self.shared.world();
        world.version += 1;
        world.floor = world.version;
    }

    /// Nobody is listening any more, and what was open breaks.
    pub fn go_down(&self) {
        self.shared.world().down = true;
        self.shared.cut_all(Cut::HalfThenBreak);
    }

    /// Takes refusals and the outage back.
    pub fn be_well(&self) {
        let mut world = self.shared.world();
        world.refused = None;
        world.down = false;
    }

    /// From the next list on.
    pub fn streams(&self, streaming: Streaming) {
        self.shared.world().streaming = streaming;
    }

    /// What becomes of events from now on.
    pub fn treat_events(&self, writes: Writes) {
        self.shared.world().events.writes = writes;
    }

    /// All events that were written, in the order of namespaces and names.
    pub fn events(&self) -> Vec<Value> {
        self.shared.world().events.all.values().cloned().collect()
    }

    /// Requests about events, refused ones included.
    pub fn event_requests(&self) -> usize {
        self.shared.world().events.requests
    }

    pub fn hold_pages(&self, held: bool) {
        self.shared.pages_held.send_replace(held);
    }

    /// How many lists have been begun: in whole streams or by a first page, of which `KIND+` counts
    /// the later ones; and as `KIND streamed`, how many as streams, whole or not.
    pub fn lists(&self, kind: &str) -> usize {
        self.shared.world().lists.get(kind).copied().unwrap_or_default()
    }

    pub async fn lists_more_than(&self, kind: &str, count: usize) {
        until(&format!("more than {count} lists of {kind}"), async || {
            let seen = self.lists(kind);
            if seen > count { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
    }
}

//! What the number that a stream has acknowledged says of the client: never too much, and at rest
//! everything.

use std::collections::BTreeMap;

use super::client::FALLBACK;
use super::{NAMES, Run};
use crate::session::tests::types::ResourceType;

impl Run {
    pub(super) fn generation(&self) -> u64 {
        self.worlds.len() as u64 - 1
    }

    /// Whatever the client asked for and the number says that it has, it has: as it was then, or newer.
    pub(super) fn check_acknowledged(&self) {
        if !self.up.is_empty() {
            // The server cannot know what the client wants by now.
            return;
        }
        let acknowledged = self.session.generations().acknowledged;
        assert!(acknowledged <= self.generation());
        let since = &self.worlds[acknowledged as usize..];
        for resource_type in ResourceType::IN_ORDER {
            let (one, asked) =
                (&self.client.types[resource_type.index()], &self.asked[resource_type.index()]);
            // A client that took parts of what it rejected, and says that it has what it had before,
            // reconnects with what nobody can know.
            let unknown = one.spoiled || (one.doubt && self.streams > 0);
            if !one.open || !asked.open || unknown {
                continue;
            }
            let awaited = self.session.unacked_nonce(resource_type).is_some();
            for name in NAMES.iter().filter(|name| asked.wants(name)) {
                if asked.on_demand && !one.wants(resource_type, self.delta(), name) {
                    // It has given the wildcard up, and what came with it.
                    continue;
                }
                let has = one.view.get(*name).map(|(content, _)| content);
                let has = has.filter(|content| *content != FALLBACK);
                // What it has of a name that crossed with the wildcard is as little owed as nothing.
                let owed = has.is_some() && !(asked.on_demand && self.crossed);
                if !owed && (awaited || self.unsure || one.doubt) {
                    // Asked for just now, and not answered, or rejected: what was before it was asked for
                    // is not owed.
                    continue;
                }
                let was = |world: &&BTreeMap<String, String>| world.get(*name) == has;
                // In SotW nothing can say that endpoints or routes are gone.
                let may_be_gone = !self.delta() && !resource_type.is_full_state();
                let mut since = since.iter().map(|world| &world[resource_type.index()]);
                let held = since.clone().any(|world| was(&world))
                    || may_be_gone && since.any(|world| !world.contains_key(*name));
                assert!(
                    held,
                    "{} {name} of {acknowledged} is not acknowledged, the client has {has:?}",
                    resource_type.short()
                );
            }
        }
    }

    /// Nothing is on its way: the client has acknowledged the newest generation, unless it rejected
    /// something, or the server has stopped waiting for an answer.
    pub(super) fn check_caught_up(&self) {
        let good = self.client.types.iter().all(|one| !one.doubt && !one.spoiled);
        if good && !self.unsure {
            assert_eq!(self.session.generations().acknowledged, self.generation());
        }
    }
}

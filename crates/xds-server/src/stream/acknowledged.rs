//! Tells who looks which generations of the snapshot the stream has been sent and has acknowledged.
//!
//! The session knows them; this is asked for whenever it has nothing to send, so it must cost next to
//! nothing: two numbers are compared, and written only when they have changed.

use pilothouse_xds::session::Generations;

use super::AdsStream;
use crate::mesh::Mesh;

/// What has been told.
#[derive(Debug)]
pub(super) struct ToldGenerations {
    pub(super) told: Generations,
    /// The newest generation whose acknowledgement is counted. What was published before the stream came is
    /// not: a proxy that starts would be the last one to have a change of yesterday.
    pub(super) counted: u64,
}

impl ToldGenerations {
    /// Of a stream that begins with the view of this generation. A probe is not counted at all.
    pub(super) fn new(generation: u64, probe: bool) -> Self {
        let counted = if probe { u64::MAX } else { generation };
        Self { told: Generations::default(), counted }
    }
}

impl<M: Mesh> AdsStream<M> {
    /// To be called when there is nothing to send.
    pub(super) fn tell_generations(&mut self) {
        let now = self.session.generations();
        if now == self.generations.told {
            return;
        }
        self.generations.told = now;
        self.stream.set_generations(now);
        let counted = self.generations.counted;
        if now.acknowledged > counted {
            let (times, at) = (&self.context.server.proxies.generations, self.last_event);
            times.acknowledged(counted, now.acknowledged, at.into_std());
            self.generations.counted = now.acknowledged;
        }
    }
}

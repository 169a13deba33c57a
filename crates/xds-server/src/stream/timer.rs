//! What a stream does because of time alone: an ACK that does not come, a stream that is in sync, and one that
//! was throttled and may read again. One timer for all of it, which is not reset before it fires.

use pilothouse_xds::TypeIndex;
use tokio::time::Instant;
use tracing::warn;

use super::{Admitted, AdsStream};
use crate::admission::IN_SYNC_AFTER;
use crate::mesh::Mesh;

impl<M: Mesh> AdsStream<M> {
    /// The types with an unacknowledged response, and when its ACK times out.
    fn ack_deadlines(&self) -> impl Iterator<Item = (TypeIndex, Instant)> {
        let limit = self.context.server.limits.ack;
        let sent = self.sent_at.iter().enumerate();
        let sent = sent.filter_map(|(at, sent)| Some((TypeIndex(at), (*sent)?)));
        sent.filter(|(resource_type, _)| self.session.unacked_nonce(*resource_type).is_some())
            .map(move |(resource_type, sent)| (resource_type, sent + limit))
    }

    /// Sets the timer unless it is set. `throttled`: until when no request is read.
    pub(super) fn set_timer(&mut self, throttled: Option<Instant>) {
        if let Some(at) = throttled
            && (!self.timer_set || at < self.timer.deadline())
        {
            self.timer.as_mut().reset(at);
            self.timer_set = true;
        }
        if self.timer_set {
            return;
        }
        let ack_deadline = self.ack_deadlines().map(|(_, at)| at).min();
        let in_sync = match (&self.admitted, ack_deadline) {
            (Admitted::Starting(_), None) => Some(self.last_event + IN_SYNC_AFTER),
            (Admitted::Starting(_), Some(_)) => Some(Instant::now() + IN_SYNC_AFTER),
            _ => None,
        };
        if let Some(at) = ack_deadline.into_iter().chain(in_sync).min() {
            self.timer.as_mut().reset(at);
            self.timer_set = true;
        }
    }

    pub(super) fn on_timer(&mut self) {
        let now = Instant::now();
        let overdue: Vec<_> = self.ack_deadlines().filter(|(_, at)| *at <= now).collect();
        for (resource_type, _) in overdue {
            if let Some(nonce) = self.session.unacked_nonce(resource_type) {
                warn!(
                    proxy = self.stream.connection_id(),
                    r#type = self.short_name(resource_type),
                    "neither ACK nor NACK in {:?}, sending newer content all the same",
                    self.context.server.limits.ack,
                );
                self.session.ack_timed_out(resource_type, nonce);
            }
            self.sent_at[resource_type.0] = None;
        }
        let all_acked = self.ack_deadlines().next().is_none();
        let in_sync = all_acked && self.last_event + IN_SYNC_AFTER <= now;
        if matches!(self.admitted, Admitted::Starting(_)) && in_sync {
            self.registered.set_permit(None);
            self.admitted = Admitted::Done;
        }
        if self.registered.handle().work.throttle_delay(self.last_event).is_some() {
            // If the timer fired because the stream was throttled, it reads again.
            self.last_event = now;
        }
    }
}

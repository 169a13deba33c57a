//! What a stream does, as the debug pages and the metrics see it.

use std::time::SystemTime;

use tokio::time::Instant;
use tracing::warn;

use super::AdsStream;
use crate::ads::session::{Meaning, Response};
use crate::ads::work;
use crate::names::ResourceType;

impl AdsStream {
    pub(super) fn note_request(&mut self, of: ResourceType, meaning: Meaning) {
        let metrics = &self.context.shared.metrics;
        metrics.request(of);
        match &meaning {
            Meaning::Subscribe => {}
            Meaning::Stale => metrics.expired_nonce(of),
            Meaning::Ack { .. } => {
                if let Some(sent) = self.sent_at[of.index()].take() {
                    metrics.ack_time(of, self.woken.saturating_duration_since(sent));
                }
            }
            Meaning::Nack { error, .. } => {
                self.sent_at[of.index()] = None;
                metrics.reject(of);
                warn!(
                    proxy = self.connection.connection_id(),
                    r#type = of.short(),
                    "rejected: {error}"
                );
            }
        }
        let (subscription, held) = (self.session.subscription(of), self.session.held(of));
        let mut charge = matches!(meaning, Meaning::Nack { .. });
        self.connection.update(|status| {
            let one = &mut status.types[of.index()];
            match meaning {
                Meaning::Subscribe | Meaning::Stale => {}
                Meaning::Ack { nonce } => {
                    one.acks += 1;
                    one.nonce_acked = nonce;
                    one.last_acked = Some(SystemTime::now());
                    one.last_error = None;
                }
                Meaning::Nack { error, .. } => {
                    one.nacks += 1;
                    one.last_error = Some(error.into());
                    one.last_nack = Some(SystemTime::now());
                }
            }
            // What a request alone makes known: names that are wanted no more, and what a proxy
            // brought along from another stream, which no response will tell of.
            let before = one.subscription.replace(subscription.clone());
            charge |= before.is_none_or(|before| before.id() != subscription.id());
            if let (None, Some(held)) = (&one.set, held) {
                one.version = Some(held.version());
                one.set = Some(held.clone());
            }
        });
        if charge {
            self.outbox.shares_others();
        }
    }

    pub(super) fn note_sent(&mut self, response: &Response) {
        let Some(of) = response.of else { return };
        let (metrics, now) = (&self.context.shared.metrics, Instant::now());
        metrics.push(of, response.frame.len());
        metrics.push_time(of, now.saturating_duration_since(self.woken));
        if let Some(since) = self.since {
            metrics.convergence(now.into_std().saturating_duration_since(since));
        }
        self.outbox.control().work.done(work::of_response(response.frame.len()), now);
        self.sent_at[of.index()] = Some(now);
        self.connection.update(|status| {
            let one = &mut status.types[of.index()];
            one.sent += 1;
            one.nonce_sent = response.nonce;
            one.last_sent = Some(SystemTime::now());
            one.version = Some(response.frame.version);
            one.set = Some(response.set.clone());
            one.subscription = Some(response.subscription.clone());
        });
    }
}

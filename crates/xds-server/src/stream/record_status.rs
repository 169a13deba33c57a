//! Records requests and responses in the stream's status and in the metrics.

use std::time::SystemTime;

use pilothouse_xds::TypeIndex;
use pilothouse_xds::session::{RequestKind, Response};
use tokio::time::Instant;
use tracing::warn;

use super::AdsStream;
use crate::admission::work_meter;
use crate::mesh::Mesh;
use crate::proxies::{Happening, HistoryEntry};

impl<M: Mesh> AdsStream<M> {
    pub(super) fn record_request(&mut self, resource_type: TypeIndex, kind: RequestKind) {
        let metrics = &self.context.server.metrics;
        metrics.request_received(resource_type);
        match &kind {
            RequestKind::Subscribe => {}
            RequestKind::Stale => metrics.stale_nonce_received(resource_type),
            RequestKind::Ack { .. } => {
                if let Some(sent) = self.sent_at[resource_type.0].take() {
                    metrics.observe_ack_time(
                        resource_type,
                        self.last_event.saturating_duration_since(sent),
                    );
                }
            }
            RequestKind::Nack { error, .. } => {
                self.sent_at[resource_type.0] = None;
                metrics.nack_received(resource_type);
                warn!(
                    proxy = self.stream.connection_id(),
                    r#type = self.short_name(resource_type),
                    "rejected: {error}"
                );
            }
        }
        let (subscription, sent) =
            (self.session.subscription(resource_type), self.session.sent_set(resource_type));
        let mut charge = matches!(kind, RequestKind::Nack { .. });
        let generation = self.session.generation();
        let answer = |what, nonce, at| HistoryEntry {
            at,
            resource_type,
            what,
            nonce,
            generation,
            resources: 0,
            removed: 0,
            bytes: 0,
        };
        self.stream.update_with_history(|status, history| {
            let status = &mut status.types[resource_type.0];
            match kind {
                RequestKind::Subscribe | RequestKind::Stale => {}
                RequestKind::Ack { nonce } => {
                    let now = SystemTime::now();
                    status.acks += 1;
                    status.nonce_acked = nonce;
                    status.last_acked = Some(now);
                    status.last_error = None;
                    history.push(answer(Happening::Ack, nonce, now));
                }
                RequestKind::Nack { nonce, error } => {
                    let now = SystemTime::now();
                    status.nacks += 1;
                    status.last_error = Some(error.into());
                    status.last_nack = Some(now);
                    history.push(answer(Happening::Nack, nonce, now));
                }
            }
            // Known from requests alone: unsubscribed names, and the resources that a proxy kept from an
            // earlier stream, which no response will carry.
            let before = status.subscription.replace(subscription.clone());
            charge |= before.is_none_or(|before| before.id() != subscription.id());
            if let (None, Some(sent)) = (&status.set, sent) {
                status.version = Some(sent.version());
                status.set = Some(sent.clone());
            }
        });
        if charge {
            self.registered.charge_share();
        }
    }

    pub(super) fn record_response(&mut self, response: &Response) {
        let Some(resource_type) = response.resource_type else { return };
        let (metrics, now) = (&self.context.server.metrics, Instant::now());
        metrics.push_sent(resource_type, response.frame.len());
        metrics.observe_push_time(resource_type, now.saturating_duration_since(self.last_event));
        if let Some(since) = self.change_received {
            metrics.observe_convergence(now.into_std().saturating_duration_since(since));
        }
        self.registered.handle().work.charge(work_meter::response_units(response.frame.len()), now);
        self.sent_at[resource_type.0] = Some(now);
        let at = SystemTime::now();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let entry = HistoryEntry {
            at,
            resource_type,
            what: Happening::Response,
            nonce: response.nonce,
            generation: self.session.generation(),
            resources: count(response.frame.resources),
            removed: count(response.frame.removed),
            bytes: count(response.frame.len()),
        };
        self.stream.update_with_history(|status, history| {
            history.push(entry);
            let status = &mut status.types[resource_type.0];
            status.sent += 1;
            status.nonce_sent = response.nonce;
            status.last_sent = Some(at);
            status.version = Some(response.frame.version);
            status.set = Some(response.set.clone());
            status.subscription = Some(response.subscription.clone());
        });
    }
}

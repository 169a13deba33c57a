//! Records requests and responses in the stream's status and in the metrics.

use std::time::SystemTime;

use pilothouse_xds::TypeIndex;
use pilothouse_xds::session::{RequestKind, Response};
use tokio::time::Instant;
use tracing::warn;

use super::AdsStream;
use crate::admission::work_meter;
use crate::mesh::Mesh;

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
        self.stream.update(|status| {
            let status = &mut status.types[resource_type.0];
            match kind {
                RequestKind::Subscribe | RequestKind::Stale => {}
                RequestKind::Ack { nonce } => {
                    status.acks += 1;
                    status.nonce_acked = nonce;
                    status.last_acked = Some(SystemTime::now());
                    status.last_error = None;
                }
                RequestKind::Nack { error, .. } => {
                    status.nacks += 1;
                    status.last_error = Some(error.into());
                    status.last_nack = Some(SystemTime::now());
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
        self.stream.update(|status| {
            let status = &mut status.types[resource_type.0];
            status.sent += 1;
            status.nonce_sent = response.nonce;
            status.last_sent = Some(SystemTime::now());
            status.version = Some(response.frame.version);
            status.set = Some(response.set.clone());
            status.subscription = Some(response.subscription.clone());
        });
    }
}

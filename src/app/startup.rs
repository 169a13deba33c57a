//! The conditions under which the control plane is ready: every watch of the source has listed once,
//! and a first snapshot is published.
//!
//! Neither is lost again: the last state stays served when the source fails, and a pod that became
//! unready then would only keep configuration from new proxies.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Conditions, Guard};
use crate::snapshot::Snapshot;
use crate::source::health::Health;

/// The guards of both conditions.
#[derive(Debug)]
pub(super) struct StartupConditions {
    source_listed: Guard,
    snapshot_published: Guard,
}

impl StartupConditions {
    pub(super) fn new(readiness: &Conditions) -> Self {
        Self {
            source_listed: readiness.condition("source listed", "the source has not started"),
            snapshot_published: readiness.condition(
                "snapshot published",
                "everything is listed, the first snapshot is being made",
            ),
        }
    }

    /// Meets the conditions as they come true, and holds them until `stop`.
    pub(super) async fn watch(
        self,
        health: Arc<Health>,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        stop: CancellationToken,
    ) {
        let mut changes = health.changes();
        let meet_all = async {
            while let Some(reason) = health.waiting_for() {
                self.source_listed.fail(reason);
                if changes.changed().await.is_err() {
                    return;
                }
            }
            self.source_listed.meet();
            if snapshots.wait_for(Option::is_some).await.is_ok() {
                self.snapshot_published.meet();
            }
        };
        stop.run_until_cancelled(meet_all).await;
        stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Waits until the process waits for exactly this.
    async fn waits_for(readiness: &Conditions, reason: Option<&str>) {
        let comes = async {
            while readiness.waiting_for().as_deref() != reason {
                tokio::task::yield_now().await;
            }
        };
        let came = timeout(Duration::from_secs(5), comes).await;
        assert!(came.is_ok(), "{:?} instead of {reason:?}", readiness.waiting_for());
    }

    #[tokio::test]
    async fn readiness_names_the_reason_and_is_for_good() {
        let readiness = Conditions::default();
        let health = Arc::new(Health::default());
        let (snapshot, snapshots) = watch::channel(None);
        let (conditions, stop) = (StartupConditions::new(&readiness), CancellationToken::new());
        waits_for(&readiness, Some("the source has not started")).await;
        let watch = tokio::spawn(conditions.watch(health.clone(), snapshots, stop.clone()));
        health.expect("Service");
        health.expect("EndpointSlice");
        health.synced("EndpointSlice");
        health.failed("Service", "connection refused");
        waits_for(&readiness, Some("not listed yet: Service (connection refused)")).await;
        health.synced("Service");
        let publishing = "everything is listed, the first snapshot is being made";
        waits_for(&readiness, Some(publishing)).await;
        snapshot.send_replace(Some(Arc::default()));
        waits_for(&readiness, None).await;
        health.failed("Service", "connection refused");
        health.expect("Endpoints");
        assert_eq!(readiness.waiting_for(), None);
        stop.cancel();
        watch.await.unwrap();
        assert!(readiness.lost().is_some(), "nobody holds the conditions any more");
    }
}

//! The parts of a process: tasks that run until they are asked to end. A part that ends before, or
//! panics, leaves a process that looks alive and does not work, so the program waits for that
//! ([`Parts::failed`]) and ends the process.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// A part has ended without having been asked to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PartFailure {
    #[error("the part {part:?} ended although nobody had asked it to")]
    Ended { part: &'static str },
    #[error("the part {part:?} panicked: {message}")]
    Panicked { part: &'static str, message: String },
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    stop: CancellationToken,
    /// `None` once its end has been seen.
    task: Option<JoinHandle<()>>,
}

/// All parts, in the order in which they are shut down.
#[derive(Debug, Default)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// Starts a part, which is to run until its token is cancelled.
    pub fn add<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        stop: CancellationToken,
        run: impl FnOnce(CancellationToken) -> F,
    ) {
        let task = tokio::spawn(run(stop.clone()));
        self.0.push(Part { name, stop, task: Some(task) });
    }

    /// Waits until a part ends without having been asked to.
    pub async fn failed(&mut self) -> PartFailure {
        poll_fn(|context| {
            for part in &mut self.0 {
                let Some(task) = &mut part.task else { continue };
                if let Poll::Ready(ended) = Pin::new(task).poll(context) {
                    part.task = None;
                    return Poll::Ready(part_failure(part.name, ended));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Ends every part in order, and drops what has not ended at the deadline.
    pub async fn shutdown(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        for part in self.0 {
            part.stop.cancel();
            let Some(mut task) = part.task else { continue };
            match timeout_at(deadline, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(ended)) => error!("{}", part_failure(part.name, Err(ended))),
                Err(_) => {
                    warn!(part = part.name, "has not ended in {timeout:?}, dropped");
                    task.abort();
                }
            }
        }
    }
}

fn part_failure(part: &'static str, ended: Result<(), JoinError>) -> PartFailure {
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => PartFailure::Panicked { part, message: panic_message(&*panic) },
        // A cancelled task has ended.
        Ok(()) | Err(Err(_)) => PartFailure::Ended { part },
    }
}

/// The message of a panic.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A part that says when it ends, and does so only if asked.
    fn obedient(
        parts: &mut Parts,
        name: &'static str,
        ended: &mpsc::UnboundedSender<&'static str>,
    ) {
        let ended = ended.clone();
        parts.add(name, CancellationToken::new(), |stop| async move {
            stop.cancelled().await;
            ended.send(name).unwrap();
        });
    }

    #[tokio::test]
    async fn a_part_that_panics_or_returns_is_named_and_the_others_end_in_order() {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut parts = Parts::default();
        obedient(&mut parts, "first", &ended);
        parts.add("broken", CancellationToken::new(), |_| async { panic!("at {}", 7) });
        parts.add("idle", CancellationToken::new(), |_| async {});
        obedient(&mut parts, "last", &ended);
        let mut seen = [parts.failed().await, parts.failed().await];
        seen.sort_by_key(PartFailure::to_string);
        let message = "at 7".to_owned();
        let broken = PartFailure::Panicked { part: "broken", message };
        assert_eq!(seen, [broken, PartFailure::Ended { part: "idle" }]);
        assert!(ends.try_recv().is_err(), "those that work go on");
        // What has been seen is not waited for again.
        parts.shutdown(Duration::from_secs(60)).await;
        assert_eq!((ends.recv().await, ends.recv().await), (Some("first"), Some("last")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_dropped_at_the_deadline() {
        struct Dropped(mpsc::UnboundedSender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (sender, mut dropped) = mpsc::unbounded_channel();
        let guard = Dropped(sender);
        let mut parts = Parts::default();
        parts.add("deaf", CancellationToken::new(), |_| async move {
            let _guard = guard;
            std::future::pending().await
        });
        parts.shutdown(Duration::from_secs(5)).await;
        dropped.recv().await.unwrap();
    }

    #[tokio::test]
    async fn parts_that_work_never_fail() {
        let mut parts = Parts::default();
        parts.add("steady", CancellationToken::new(), CancellationToken::cancelled_owned);
        let failed = tokio::time::timeout(Duration::from_millis(50), parts.failed()).await;
        assert!(failed.is_err(), "{failed:?}");
    }
}

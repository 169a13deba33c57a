//! What the first process of a container owes to the others: whose parent has ended becomes its child,
//! and stays in the process table until somebody asks how it ended.

use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Reaps every child but Envoy for as long as it is polled; nothing to do for any process but the
/// first.
pub(super) async fn reap(envoy: Pid) {
    let children = match getpid() == Pid::INIT {
        true => signal(SignalKind::child()),
        false => return std::future::pending().await,
    };
    match children {
        Ok(ended) => reap_children(envoy, ended).await,
        Err(error) => {
            warn!("orphans will not be reaped: {error}");
            std::future::pending().await
        }
    }
}

async fn reap_children(envoy: Pid, mut ended: Signal) {
    loop {
        // By their ids, one by one: a wait for just any child would take Envoy's status away from
        // whoever waits for Envoy.
        for child in children().into_iter().filter(|child| *child != envoy) {
            // None for those that run.
            _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
        if ended.recv().await.is_none() {
            return std::future::pending().await;
        }
    }
}

/// The children of all of this process's threads, as the kernel lists them.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let ids =
                list.split_ascii_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?));
            ids.collect::<Vec<_>>()
        })
        .collect()
}

//! What every test here stands on: the real `pilothouse`, a real Envoy, workloads on loopback
//! addresses, a folder of manifests, and waiting for what must become true.
//!
//! Every test has addresses and ports of its own, so tests run side by side. Processes end with
//! the test that started them; if it fails they show the end of their log.

use std::fmt::Debug;
use std::time::{Duration, Instant};

pub(crate) mod backends;
pub(crate) mod balancer;
pub(crate) mod control_plane;
pub(crate) mod dump;
pub(crate) mod envoy;
pub(crate) mod http;
pub(crate) mod lab;
pub(crate) mod load;
pub(crate) mod manifests;
pub(crate) mod namespace;
pub(crate) mod places;
pub(crate) mod process;
pub(crate) mod relay;

/// What takes a second on an idle machine may take this long on a busy one. Far below the 15 s
/// for which Envoy waits for a resource that does not come, so that such a wait is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// For a change of the manifests to show in traffic: 1 s by the product's word, and slack.
pub(crate) const VISIBLE: Duration = Duration::from_secs(5);

/// Polls `check` until it gives a value; past the deadline panics with what it said last.
pub(crate) async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Looks again and again for as long as `period` lasts; panics if `check` ever says no.
pub(crate) async fn throughout(
    period: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<(), String>,
) {
    let start = Instant::now();
    while start.elapsed() < period {
        if let Err(seen) = check().await {
            panic!("{what} held for {:?} only: {seen}", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `Ok` if both are equal, else what they are.
pub(crate) fn same<T: PartialEq + Debug>(seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, wanted {wanted:?}")) }
}

/// Makes two tests of each function: with the state of the world and with delta.
macro_rules! on_both_wires {
    ($($test:ident),* $(,)?) => {
        mod sotw {
            use crate::harness::envoy::Wire;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Sotw).await;
            })*
        }
        mod delta {
            use crate::harness::envoy::Wire;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Delta).await;
            })*
        }
    };
}
pub(crate) use on_both_wires;

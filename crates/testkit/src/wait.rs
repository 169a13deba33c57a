//! Waiting for what must become true.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What takes a second on an idle machine may take this long on a busy one. Far below the 15 s
/// for which Envoy waits for a resource that does not come, so that such a wait is a failure.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The same for what takes several seconds on an idle machine.
pub const LONG_DEADLINE: Duration = Duration::from_secs(90);

/// For a change of the manifests to show in traffic: 1 s by the product's word, and slack.
pub const VISIBLE: Duration = Duration::from_secs(5);

/// Polls `check` until it gives a value; past the deadline panics with what it said last.
pub async fn eventually<T>(
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
            // A long wait looks less often: what is waited for may be busy, and in this very process.
            Err(_) if deadline > DEADLINE => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The same for as long as [`LONG_DEADLINE`].
pub async fn until<T>(what: &str, check: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually(LONG_DEADLINE, what, check).await
}

/// What `future` gives, which must be there before the [`LONG_DEADLINE`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let timed = tokio::time::timeout(LONG_DEADLINE, future).await;
    timed.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Looks again and again for as long as `period` lasts; panics if `check` ever says no.
pub async fn throughout(
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

/// `Ok` if both are equal.
///
/// # Errors
/// What both are.
pub fn same<T: PartialEq + Debug>(seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, wanted {wanted:?}")) }
}

/// Makes two tests of each function: with the state of the world and with delta.
#[macro_export]
macro_rules! on_both_wires {
    ($($test:ident),* $(,)?) => {
        mod sotw {
            use $crate::envoy::Wire;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Sotw).await;
            })*
        }
        mod delta {
            use $crate::envoy::Wire;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Delta).await;
            })*
        }
    };
}

/// Makes two tests of each function: of a proxy that asks for everything, and of one that asks on demand.
#[macro_export]
macro_rules! in_both_discoveries {
    ($($test:ident),* $(,)?) => {
        mod all {
            use $crate::envoy::Discovery;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Discovery::All).await;
            })*
        }
        mod on_demand {
            use $crate::envoy::Discovery;
            $(#[tokio::test]
            async fn $test() {
                super::$test(Discovery::OnDemand).await;
            })*
        }
    };
}

/// Makes three tests of each function: with the state of the world, with delta, and with delta on demand.
#[macro_export]
macro_rules! on_both_wires_and_on_demand {
    ($($test:ident),* $(,)?) => {
        mod sotw {
            use $crate::envoy::{Discovery, Wire};
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Sotw, Discovery::All).await;
            })*
        }
        mod delta {
            use $crate::envoy::{Discovery, Wire};
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Delta, Discovery::All).await;
            })*
        }
        mod on_demand {
            use $crate::envoy::{Discovery, Wire};
            $(#[tokio::test]
            async fn $test() {
                super::$test(Wire::Delta, Discovery::OnDemand).await;
            })*
        }
    };
}

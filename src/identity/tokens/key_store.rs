//! The keys of the issuer as they were last fetched. One task fetches them ([`KeyFetcher`]): from time to time,
//! and when a token names a key that is not among them, but that at most once in a while, however many such
//! tokens come. A fetch that fails takes nothing away: old keys verify what they ever did, none verify
//! nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::TIMEOUT;
use super::issuer::{Issuer, Published};
use super::keys::KeySet;
use super::metrics::TokenMetrics;

/// When keys are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchPace {
    /// Anew, if nobody asks for it. Kubernetes says of its keys that they may be kept for an hour.
    pub(super) refresh: Duration,
    /// After a failure; each further pause is twice as long, up to `refresh`.
    pub(super) retry: Duration,
    /// Between two fetches for the sake of keys that are not known.
    pub(super) unknown_key: Duration,
    /// How long a token waits for a fetch.
    pub(super) patience: Duration,
}

impl FetchPace {
    pub(super) const DEFAULT: Self = Self {
        refresh: Duration::from_secs(300),
        retry: Duration::from_secs(1),
        unknown_key: Duration::from_secs(10),
        // Less than a client has for its first request.
        patience: Duration::from_secs(5),
    };
}

/// The result of all fetches until now.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyState {
    pub(super) known: Option<Known>,
    /// Fetches that have ended.
    pub(super) fetches: u64,
    /// The last failure, until the next success.
    pub(super) last_error: Option<Arc<str>>,
    pub(super) errors: u64,
}

/// An issuer and its keys.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) issuer: Arc<str>,
    pub(super) keys: Arc<KeySet>,
    /// Grows when issuer or keys are others than before.
    pub(super) generation: u64,
    pub(super) fetched: SystemTime,
    /// The same by a clock that nobody sets.
    pub(super) fetched_at: Instant,
}

/// Reads what the fetcher writes.
#[derive(Debug)]
pub(super) struct KeyStore {
    state: watch::Receiver<KeyState>,
    wake: Arc<Notify>,
    pace: FetchPace,
    /// The last fetch that was asked for: when, and how many had ended then.
    asked: Mutex<Option<(Instant, u64)>>,
}

/// Fetches; the one writer of the [`KeyState`].
pub(super) struct KeyFetcher {
    issuer: Issuer,
    state: watch::Sender<KeyState>,
    wake: Arc<Notify>,
    pace: FetchPace,
    metrics: Arc<TokenMetrics>,
}

pub(super) fn new(
    issuer: Issuer,
    pace: FetchPace,
    metrics: Arc<TokenMetrics>,
) -> (KeyStore, KeyFetcher) {
    let (state, receiver) = watch::channel(KeyState::default());
    let wake = Arc::new(Notify::new());
    let store = KeyStore { state: receiver, wake: wake.clone(), pace, asked: Mutex::new(None) };
    (store, KeyFetcher { issuer, state, wake, pace, metrics })
}

impl KeyStore {
    pub(super) fn state(&self) -> KeyState {
        self.state.borrow().clone()
    }

    /// The keys; right after the start the end of the first fetch is waited for.
    ///
    /// Fails with a sentence if there are none.
    pub(super) async fn known(&self) -> Result<Known, String> {
        let mut state = self.state.clone();
        let first = timeout(self.pace.patience, state.wait_for(|state| state.fetches > 0)).await;
        let Ok(Ok(state)) = first else {
            return Err(format!("no answer within {:?}", self.pace.patience));
        };
        let error = || state.last_error.as_deref().unwrap_or("no answer yet").to_owned();
        state.known.clone().ok_or_else(error)
    }

    /// The keys after one more fetch, since one is missing among these. `None` if that was asked for a
    /// moment ago already, and answered.
    pub(super) async fn fetched_again(&self) -> Option<Known> {
        let mut state = self.state.clone();
        let fetches = state.borrow().fetches;
        if !self.asks(fetches) {
            return None;
        }
        let newer = timeout(self.pace.patience, state.wait_for(|state| state.fetches > fetches));
        newer.await.ok()?.ok()?.known.clone()
    }

    /// Whether to wait for the end of the next fetch, having asked for it if nobody had.
    fn asks(&self, fetches: u64) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some((at, then)) if at.elapsed() < self.pace.unknown_key => fetches == then,
            _ => {
                *asked = Some((Instant::now(), fetches));
                self.wake.notify_one();
                true
            }
        }
    }
}

impl KeyFetcher {
    /// Fetches until `stop` fires.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.fetch_for_ever()).await;
    }

    async fn fetch_for_ever(self) {
        let mut pause = self.pace.retry;
        loop {
            let fetched = match timeout(2 * TIMEOUT, self.issuer.fetch()).await {
                Ok(fetched) => fetched,
                Err(_) => Err(format!("no answer within {:?}", 2 * TIMEOUT)),
            };
            self.metrics.keys_fetched(fetched.is_ok());
            let next = match fetched {
                Ok(published) => {
                    self.succeeded(published);
                    pause = self.pace.retry;
                    self.pace.refresh
                }
                Err(error) => {
                    self.failed(error);
                    let this = pause;
                    pause = (2 * pause).min(self.pace.refresh);
                    this
                }
            };
            tokio::select! {
                () = sleep(next) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn succeeded(&self, published: Published) {
        let before = self.state.borrow().clone();
        let (issuer, keys) = (published.issuer, published.keys);
        let same = before.known.filter(|old| *old.issuer == *issuer && *old.keys == keys);
        let (fetched, fetched_at) = (SystemTime::now(), Instant::now());
        let known = match same {
            Some(old) => {
                if before.last_error.is_some() {
                    info!(%issuer, "the keys of tokens are fetched again");
                }
                Known { fetched, fetched_at, ..old }
            }
            None => {
                let ids = keys.ids().collect::<Vec<_>>().join(", ");
                info!(%issuer, keys = %ids, "fetched the keys that tokens are verified with");
                let generation = before.fetches + 1;
                let (issuer, keys) = (issuer.into(), Arc::new(keys));
                Known { issuer, keys, generation, fetched, fetched_at }
            }
        };
        self.state.send_modify(|state| {
            state.fetches += 1;
            state.known = Some(known);
            state.last_error = None;
        });
    }

    fn failed(&self, error: String) {
        let before = self.state.borrow().clone();
        // Once for all that fail alike.
        if before.last_error.as_deref() != Some(error.as_str()) {
            match before.known {
                Some(known) => {
                    let age = known.fetched_at.elapsed();
                    warn!(%error, "cannot fetch the keys of tokens; those of {age:.0?} ago go on to count");
                }
                None => warn!(%error, "cannot fetch the keys of tokens; no token is accepted"),
            }
        }
        self.state.send_modify(|state| {
            state.fetches += 1;
            state.errors += 1;
            state.last_error = Some(error.into());
        });
    }
}

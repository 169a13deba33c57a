//! ServiceAccount tokens: whose one is, by the keys that its issuer publishes or by asking the API server.
//!
//! A token comes from whoever can reach the port, so nothing of it is believed before its signature: it is
//! bounded, read without recursion into our own code, and what it makes us do (fetch keys, ask the API
//! server) is bounded whatever it says. What the answer means for a proxy is decided elsewhere.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

mod cache;
mod claims;
mod error;
mod issuer;
mod issuer_url;
mod key_store;
mod keys;
mod metrics;
mod review;
mod signature;

pub use error::TokenError;
pub use issuer_url::IssuerUrl;
pub use metrics::TokenMetrics;

use cache::Cache;
use claims::Unverified;
use issuer::{ApiServer, ClusterCa, Issuer};
use key_store::{FetchPace, KeyFetcher, KeyStore};
use metrics::TokenOutcome;
use review::Reviewer;

/// The audience of Istio's projected token.
pub const DEFAULT_AUDIENCE: &str = "istio-ca";

/// A token with more is not read. Those of ServiceAccounts have about one KiB.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// How far the issuer's clock and ours may be apart: what Kubernetes' own verifier grants.
const LEEWAY: Duration = Duration::from_secs(60);
/// For one answer of the API server or of an issuer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How tokens are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TokenVerification {
    /// No token is accepted.
    #[default]
    Off,
    /// By the keys that the issuer publishes.
    Keys,
    /// By a TokenReview of the API server.
    Review,
}

/// Who says whether a token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenAuthority {
    /// The keys of the API server, of this context of the kubeconfig.
    ApiServerKeys { context: Option<String> },
    /// The keys of an issuer elsewhere; `cluster` is the context of the cluster whose CA is believed as well.
    IssuerKeys { url: IssuerUrl, cluster: Option<Option<String>> },
    /// The API server, asked about each token.
    Review { context: Option<String> },
}

/// What tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    pub authority: TokenAuthority,
    /// One of these must be an audience of the token.
    pub audiences: Vec<String>,
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    /// The pod that it was made for, if for one.
    pub pod: Option<Arc<str>>,
    pub expires: SystemTime,
    pub issuer: Arc<str>,
    pub audiences: Vec<Box<str>>,
    /// The groups of the ServiceAccount, as the API server has them.
    pub groups: Vec<Box<str>>,
}

/// What there is to know about the verification of tokens, for people.
#[derive(Clone, Debug)]
pub struct TokenHealth {
    pub verification: TokenVerification,
    pub audiences: Vec<String>,
    /// Of the issuer whose keys are known.
    pub issuer: Option<String>,
    /// The ids of the keys that are known.
    pub keys: Vec<String>,
    /// When the keys were last fetched, and how long ago that is.
    pub fetched: Option<(SystemTime, Duration)>,
    /// Why the last fetch, or review, failed; until the next that does not.
    pub last_error: Option<String>,
}

/// Verifies tokens. Reads only, but for its cache; the keys are written by the [`TokenKeyTask`].
pub struct TokenVerifier {
    audiences: Vec<String>,
    method: Method,
    cache: Mutex<Cache>,
    metrics: Arc<TokenMetrics>,
}

enum Method {
    Keys(KeyStore),
    Review(Reviewer),
}

/// Fetches the issuer's keys as long as it runs; without keys there is nothing to do for it.
pub struct TokenKeyTask(Option<KeyFetcher>);

impl TokenKeyTask {
    /// Until `stop` fires.
    pub async fn run(self, stop: CancellationToken) {
        match self.0 {
            Some(fetcher) => fetcher.run(stop).await,
            None => stop.cancelled().await,
        }
    }
}

impl fmt::Debug for TokenKeyTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeyTask").finish_non_exhaustive()
    }
}

impl TokenVerifier {
    /// A verifier, and the task that it needs. Nothing has been asked of anybody yet.
    #[must_use]
    pub fn new(settings: TokenSettings, metrics: Arc<TokenMetrics>) -> (Arc<Self>, TokenKeyTask) {
        Self::with_pace(settings, FetchPace::DEFAULT, metrics)
    }

    fn with_pace(
        settings: TokenSettings,
        pace: FetchPace,
        metrics: Arc<TokenMetrics>,
    ) -> (Arc<Self>, TokenKeyTask) {
        let issuer = match settings.authority {
            TokenAuthority::Review { context } => {
                let method = Method::Review(Reviewer::new(ApiServer::new(context)));
                return (Self::of(settings.audiences, method, metrics), TokenKeyTask(None));
            }
            TokenAuthority::ApiServerKeys { context } => Issuer::ApiServer(ApiServer::new(context)),
            TokenAuthority::IssuerKeys { url, cluster } => {
                let cluster_ca = cluster.map_or(ClusterCa::None, ClusterCa::Of);
                Issuer::Elsewhere { url, cluster_ca }
            }
        };
        Self::by_keys(issuer, settings.audiences, pace, metrics)
    }

    fn by_keys(
        issuer: Issuer,
        audiences: Vec<String>,
        pace: FetchPace,
        metrics: Arc<TokenMetrics>,
    ) -> (Arc<Self>, TokenKeyTask) {
        let (store, fetcher) = key_store::new(issuer, pace, metrics.clone());
        (Self::of(audiences, Method::Keys(store), metrics), TokenKeyTask(Some(fetcher)))
    }

    fn of(audiences: Vec<String>, method: Method, metrics: Arc<TokenMetrics>) -> Arc<Self> {
        Arc::new(Self { audiences, method, cache: Mutex::default(), metrics })
    }

    /// Whose this token is, now.
    ///
    /// # Errors
    /// It is not acceptable, or that cannot be told now ([`TokenError::is_temporary`]); the text is for the
    /// client.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        let verified = self.remembered_or_verified(token).await;
        let outcome = verified.as_ref().map_or_else(TokenError::outcome, |_| TokenOutcome::Valid);
        self.metrics.verified(outcome);
        verified
    }

    async fn remembered_or_verified(&self, token: &str) -> Result<VerifiedToken, TokenError> {
        // Before it is hashed: a megabyte is not worth that.
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { bytes: token.len() });
        }
        let hash = cache::hash(token);
        let generation = match &self.method {
            Method::Keys(store) => store.state().known.map_or(0, |known| known.generation),
            Method::Review(_) => 0,
        };
        let known = self.with_cache(|cache| cache.get(&hash, generation, Instant::now()));
        if let Some(known) = known {
            return known;
        }
        let verified = match &self.method {
            Method::Keys(store) => self.by_published_keys(store, token).await,
            Method::Review(reviewer) => {
                self.by_review(reviewer, token).await.map(|verified| (verified, 0))
            }
        };
        let now = Instant::now();
        match verified {
            Ok((token, generation)) => {
                let left = (token.expires + LEEWAY).duration_since(SystemTime::now());
                let left = match &self.method {
                    Method::Keys(_) => left.unwrap_or_default(),
                    Method::Review(_) => left.unwrap_or_default().min(review::BELIEVED_FOR),
                };
                let until = now.checked_add(left).unwrap_or(now);
                self.with_cache(|cache| cache.accepted(hash, generation, token.clone(), until));
                Ok(token)
            }
            Err(error) => {
                if error.is_of_the_token() {
                    self.with_cache(|cache| cache.refused(hash, error.clone(), now));
                }
                Err(error)
            }
        }
    }

    async fn by_published_keys(
        &self,
        store: &KeyStore,
        token: &str,
    ) -> Result<(VerifiedToken, u64), TokenError> {
        let token = Unverified::read(token)?;
        let unavailable = |error| TokenError::KeysUnavailable { error };
        let mut known = store.known().await.map_err(unavailable)?;
        if token.key(&known.keys).is_none() {
            // Whose issuer is another is not worth a fetch.
            token.check_issuer(&known.issuer)?;
            known = store.fetched_again().await.unwrap_or(known);
        }
        token.check_issuer(&known.issuer)?;
        let Some(key) = token.key(&known.keys) else {
            let kid = token.kid().to_owned();
            if let Some(error) = store.state().last_error {
                let kid = error::quoted(&kid);
                let error = format!("the key {kid} is none of those that are known, and: {error}");
                return Err(TokenError::KeysUnavailable { error });
            }
            let age = known.fetched_at.elapsed();
            return Err(TokenError::UnknownKey { kid, known: known.keys.ids().len(), age });
        };
        let claims = token.signed_by(key)?;
        let verified = claims.check(&self.audiences, SystemTime::now())?;
        Ok((verified, known.generation))
    }

    /// What can be told without the API server is, so that it is asked about nothing that cannot be good.
    async fn by_review(
        &self,
        reviewer: &Reviewer,
        token: &str,
    ) -> Result<VerifiedToken, TokenError> {
        let unverified = Unverified::read(token)?;
        let claims = unverified.claims();
        let mut verified = claims.check(&self.audiences, SystemTime::now())?;
        let reviewed = reviewer.review(token, &self.audiences).await?;
        if reviewed.username != claims.subject() {
            let subject = reviewed.username;
            let claim = claims.subject().to_owned();
            return Err(TokenError::Disagreement { subject, claim });
        }
        verified.groups = reviewed.groups.into_iter().map(Into::into).collect();
        Ok(verified)
    }

    /// How the verification is doing.
    pub fn health(&self) -> TokenHealth {
        let health = TokenHealth {
            verification: TokenVerification::Review,
            audiences: self.audiences.clone(),
            issuer: None,
            keys: Vec::new(),
            fetched: None,
            last_error: None,
        };
        match &self.method {
            Method::Review(reviewer) => TokenHealth { last_error: reviewer.last_error(), ..health },
            Method::Keys(store) => {
                let state = store.state();
                let known = state.known.as_ref();
                let ids = known.map(|known| known.keys.ids().map(str::to_owned).collect());
                TokenHealth {
                    verification: TokenVerification::Keys,
                    issuer: known.map(|known| known.issuer.to_string()),
                    keys: ids.unwrap_or_default(),
                    fetched: known.map(|known| (known.fetched, known.fetched_at.elapsed())),
                    last_error: state.last_error.as_deref().map(str::to_owned),
                    ..health
                }
            }
        }
    }

    fn with_cache<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        // Whatever panicked in between has lost an entry at most.
        work(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No cache: it is large, and nobody's business.
        f.debug_struct("TokenVerifier").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

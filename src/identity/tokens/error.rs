//! Why a token is not accepted. The text of each is what the client is told, so it says what was found, what
//! was wanted, and what to do; what is quoted of a token is escaped and of bounded length.

use std::time::{Duration, SystemTime};

use jsonwebtoken::Algorithm;
use thiserror::Error;

use super::metrics::TokenOutcome;
use super::{LEEWAY, MAX_TOKEN_BYTES};

/// Characters of one word of a token that are quoted.
const MAX_QUOTED: usize = 120;
/// Audiences of a token that are named.
const MAX_NAMED: usize = 5;

/// Why a token is not accepted, or could not be verified.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("the token has {bytes} bytes, more than the {MAX_TOKEN_BYTES} that are read")]
    TooLong { bytes: usize },
    #[error("what follows Bearer is no JSON Web Token of a ServiceAccount: {0}")]
    Malformed(String),
    /// Never `none`, never a secret that both sides share.
    #[error(
        "the token is signed with {found:?}; only RS256, RS384, RS512, PS256, PS384, PS512, ES256 and \
         ES384 are verified"
    )]
    Algorithm { found: Algorithm },
    #[error(
        "the token is of the issuer {}, and only tokens of {wanted:?} are accepted",
        quoted(found)
    )]
    UnknownIssuer { wanted: String, found: String },
    #[error(
        "the token is signed with the key {}, which its issuer does not publish ({known} keys, \
         fetched {} ago): an old token, or one of another cluster",
        quoted(kid), whole_seconds(*age)
    )]
    UnknownKey { kid: String, known: usize, age: Duration },
    #[error(
        "the token says that it is signed with {found:?}, and its issuer's key {} is none for that",
        quoted(kid)
    )]
    AlgorithmOfKey { kid: String, found: Algorithm },
    #[error(
        "the signature of the token is not one of the issuer's key {}: the token was altered, or made by somebody else",
        quoted(kid)
    )]
    Signature { kid: String },
    #[error(
        "the token expired at {}, and the clock of the control plane says {} ({} of leeway are \
         granted): read the token's file anew, or compare the clocks",
        moment(*at), moment(*now), whole_seconds(LEEWAY)
    )]
    Expired { at: SystemTime, now: SystemTime },
    #[error(
        "the token is valid from {} on, and the clock of the control plane says {} ({} of leeway are \
         granted): compare the clocks",
        moment(*from), moment(*now), whole_seconds(LEEWAY)
    )]
    NotYetValid { from: SystemTime, now: SystemTime },
    #[error(
        "the token is for the audience {}, and {} is wanted: set `audience` of the projected \
         serviceAccountToken volume (or --token-audience of the control plane)",
        named(found),
        named(wanted)
    )]
    Audience { wanted: Vec<String>, found: Vec<String> },
    #[error(
        "the token is of {}, which is no ServiceAccount (system:serviceaccount:NAMESPACE:NAME)",
        quoted(subject)
    )]
    NotAServiceAccount { subject: String },
    #[error(
        "the token's subject is {} and its claim kubernetes.io says {}: they must be of one \
         ServiceAccount",
        quoted(subject),
        quoted(claim)
    )]
    Disagreement { subject: String, claim: String },
    /// There are no keys yet, or the token's is not among those that are old. Others go on to count.
    #[error("the token cannot be verified now: the keys of its issuer cannot be fetched: {error}")]
    KeysUnavailable { error: String },
    /// What the API server says against the token.
    #[error("the API server does not accept the token: {error}")]
    Rejected { error: String },
    #[error(
        "the token cannot be verified now: the API server was asked (TokenReview) and has not answered: {error}"
    )]
    ReviewFailed { error: String },
    #[error(
        "the token cannot be verified now: {waiting} others wait for the API server's answer to a TokenReview"
    )]
    ReviewBusy { waiting: usize },
}

impl TokenError {
    /// Whether the same token may be accepted a moment later, without anything done to it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::KeysUnavailable { .. } | Self::ReviewFailed { .. } | Self::ReviewBusy { .. }
        )
    }

    /// Whether to remember the refusal for a while. A key that is not known may be published meanwhile,
    /// and is asked for at a bounded rate anyway; a token that is not valid yet becomes so by itself.
    pub(super) fn is_of_the_token(&self) -> bool {
        !self.is_temporary() && !matches!(self, Self::UnknownKey { .. } | Self::NotYetValid { .. })
    }

    pub(super) fn outcome(&self) -> TokenOutcome {
        match self {
            Self::TooLong { .. } | Self::Malformed(_) => TokenOutcome::Malformed,
            Self::UnknownIssuer { .. } => TokenOutcome::Issuer,
            Self::UnknownKey { .. } => TokenOutcome::Key,
            Self::Algorithm { .. } | Self::AlgorithmOfKey { .. } | Self::Signature { .. } => {
                TokenOutcome::Signature
            }
            Self::Expired { .. } | Self::NotYetValid { .. } => TokenOutcome::Time,
            Self::Audience { .. } => TokenOutcome::Audience,
            Self::NotAServiceAccount { .. } | Self::Disagreement { .. } => TokenOutcome::Subject,
            Self::Rejected { .. } => TokenOutcome::Rejected,
            Self::KeysUnavailable { .. } | Self::ReviewFailed { .. } | Self::ReviewBusy { .. } => {
                TokenOutcome::Unavailable
            }
        }
    }
}

/// A word of the token, escaped and cut.
pub(super) fn quoted(word: &str) -> String {
    match word.char_indices().nth(MAX_QUOTED) {
        None => format!("{word:?}"),
        Some((end, _)) => format!("{:?}…", &word[..end]),
    }
}

fn named(audiences: &[String]) -> String {
    let some: Vec<String> = audiences.iter().take(MAX_NAMED).map(|one| quoted(one)).collect();
    match audiences.len() {
        0 => "(none)".to_owned(),
        1..=MAX_NAMED => some.join(" or "),
        more => format!("{} or {} others", some.join(" or "), more - MAX_NAMED),
    }
}

fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

//! Asking the API server about a token (TokenReview, `authentication.k8s.io/v1`): it knows what no signature
//! tells, for instance that the pod of a token has been deleted. It takes the right to create tokenreviews.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Error};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{info, warn};

use super::issuer::ApiServer;
use super::{TIMEOUT, TokenError};
use crate::causes::with_causes;

/// Reviews under way at once: as many as do not weigh on an API server.
const AT_ONCE: usize = 16;
/// Reviews that wait for their turn.
const MAX_WAITING: usize = 512;
/// How long an accepted token is believed without being asked about again: so late a deleted pod's counts
/// as deleted.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Whose token it is in the API server's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reviewed {
    pub(super) username: String,
    pub(super) groups: Vec<String>,
}

pub(super) struct Reviewer {
    server: ApiServer,
    turns: Semaphore,
    waiting: AtomicUsize,
    /// The failure of the last review that failed, until the next that did not.
    last_error: Mutex<Option<String>>,
}

impl Reviewer {
    pub(super) fn new(server: ApiServer) -> Self {
        Self {
            server,
            turns: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
            last_error: Mutex::new(None),
        }
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who the API server says that the bearer of this token is.
    pub(super) async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Reviewed, TokenError> {
        let waiting = Waiting::begin(&self.waiting)?;
        let asked = async {
            let turn = self.turns.acquire().await;
            let _turn = turn.map_err(|error| error.to_string())?;
            drop(waiting);
            self.ask(token, audiences).await
        };
        let answer = timeout(TIMEOUT, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        self.note(answer.as_ref().err());
        let status = answer.map_err(|error| TokenError::ReviewFailed { error })?;
        read(status, audiences)
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String> {
        let api = Api::<TokenReview>::all(self.server.client().await?.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(audiences.to_vec()),
            },
            ..TokenReview::default()
        };
        match api.create(&PostParams::default(), &review).await {
            Ok(review) => Ok(review.status.unwrap_or_default()),
            Err(Error::Api(status)) if status.code == 403 => Err(format!(
                "403 Forbidden: {}; a ClusterRole must allow to create tokenreviews \
                 (manifests/secure/token-review)",
                status.message
            )),
            Err(error) => Err(with_causes(&error)),
        }
    }

    /// One line for all that fail alike, and one at the end.
    fn note(&self, error: Option<&String>) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) if last.as_ref() != Some(error) => {
                warn!(%error, "the API server cannot be asked about tokens (TokenReview)");
            }
            None if last.is_some() => info!("the API server answers about tokens again"),
            _ => {}
        }
        *last = error.cloned();
    }
}

fn read(status: TokenReviewStatus, audiences: &[String]) -> Result<Reviewed, TokenError> {
    if status.authenticated != Some(true) {
        let error = status.error.filter(|error| !error.is_empty());
        let error = error.unwrap_or_else(|| "it does not say why".to_owned());
        return Err(TokenError::Rejected { error });
    }
    // One that knows no audiences answers without any: it has not looked at that of the token.
    let found = status.audiences.unwrap_or_default();
    if !found.iter().any(|one| audiences.contains(one)) {
        return Err(TokenError::Audience { wanted: audiences.to_vec(), found });
    }
    let user = status.user.unwrap_or_default();
    Ok(Reviewed {
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
    })
}

/// One that waits for its turn, however it ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Result<Self, TokenError> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let this = Self(waiting);
        match before < MAX_WAITING {
            true => Ok(this),
            false => Err(TokenError::ReviewBusy { waiting: before }),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn wanted() -> Vec<String> {
        vec!["istio-ca".to_owned()]
    }

    #[test]
    fn an_answer_without_our_audience_is_none() {
        let user = UserInfo {
            username: Some("system:serviceaccount:shop:web".to_owned()),
            groups: Some(vec!["system:serviceaccounts".to_owned()]),
            ..UserInfo::default()
        };
        let answer = |audiences: Option<Vec<String>>| TokenReviewStatus {
            authenticated: Some(true),
            user: Some(user.clone()),
            audiences,
            error: None,
        };
        let read_as = read(answer(Some(wanted())), &wanted()).unwrap();
        assert_eq!(read_as.username, "system:serviceaccount:shop:web");
        assert_eq!(read_as.groups, ["system:serviceaccounts"]);
        for audiences in [None, Some(vec!["other".to_owned()])] {
            let found = audiences.clone().unwrap_or_default();
            let refused = TokenError::Audience { wanted: wanted(), found };
            assert_eq!(read(answer(audiences), &wanted()), Err(refused));
        }
    }

    #[test]
    fn who_is_not_authenticated_is_told_the_api_servers_words() {
        for authenticated in [None, Some(false)] {
            let error = Some("token has expired".to_owned());
            let status = TokenReviewStatus { authenticated, error, ..Default::default() };
            let error = TokenError::Rejected { error: "token has expired".to_owned() };
            assert_eq!(read(status, &wanted()), Err(error));
        }
    }

    #[test]
    fn the_queue_is_bounded_and_empties() {
        let waiting = AtomicUsize::new(0);
        let all: Vec<_> = (0..MAX_WAITING).map(|_| Waiting::begin(&waiting).ok()).collect();
        assert!(matches!(Waiting::begin(&waiting), Err(TokenError::ReviewBusy { .. })));
        drop(all);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        assert!(Waiting::begin(&waiting).is_ok());
    }
}

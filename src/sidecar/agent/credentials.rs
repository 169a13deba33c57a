//! Waits for the files that the proxy proves itself with, before Envoy is started: without them it would
//! end or, worse, wait without a word.
//!
//! The kubelet mounts Secrets and tokens before it starts a container, but a CSI driver may be late, and a
//! certificate that is asked for with the pod takes its time to be issued.

use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::readiness::Guard;
use crate::sidecar::credentials::files::{self, FileError, LoadedClient, utc};
use crate::sidecar::credentials::{ClientCredential, Credentials};

/// How long is waited in all.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(250);
/// A line that says nothing new is said again after this long.
const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(15);

/// A file that did not come.
#[derive(Debug, Error)]
#[error(
    "{error}, {limit:?} after the start: --tls {mode} needs it; {fix}, or set --tls (PILOTHOUSE_TLS) to \
     what this proxy has"
)]
pub struct CredentialsMissing {
    error: FileError,
    limit: Duration,
    mode: &'static str,
    fix: &'static str,
}

/// Waits until every file can be used; says, in the log and for readiness, which cannot.
///
/// # Errors
/// One cannot be used at the end of the limit.
pub(super) async fn wait(
    credentials: &Credentials,
    condition: &Guard,
    limit: Duration,
) -> Result<(), CredentialsMissing> {
    let start = Instant::now();
    let mut logged: Option<(FileError, Instant)> = None;
    let error = loop {
        let error = match files::check(credentials) {
            Ok(client) => {
                if logged.is_some() {
                    info!(
                        "the files that TLS needs are there, {:.1?} after the start",
                        start.elapsed()
                    );
                }
                warn_of_validity(credentials, &client);
                condition.meet();
                return Ok(());
            }
            Err(error) if start.elapsed() >= limit => break error,
            Err(error) => error,
        };
        condition.fail(format!("Envoy is not started yet: {error}"));
        let due = logged
            .as_ref()
            .is_none_or(|(before, at)| *before != error || at.elapsed() > LOG_REPEAT_INTERVAL);
        if due {
            warn!("{error}: waiting for it, for {limit:?} at most");
            logged = Some((error, Instant::now()));
        }
        tokio::time::sleep(INTERVAL).await;
    };
    let (mode, fix) = match credentials.client {
        ClientCredential::Token(_) => (
            "token",
            "give the pod the ConfigMap with the CA and a projected serviceAccountToken volume",
        ),
        _ => ("certificate", "give the pod the Secret with tls.crt, tls.key and ca.crt"),
    };
    Err(CredentialsMissing { error, limit, mode, fix })
}

/// Not waited for: whoever renews it may be late, and what the control plane says then is told as well.
fn warn_of_validity(credentials: &Credentials, client: &LoadedClient) {
    let Some((what, validity)) = client.validity() else { return };
    let file = match &credentials.client {
        ClientCredential::Certificate { certificate: file, .. } | ClientCredential::Token(file) => {
            file.display()
        }
        ClientCredential::None => return,
    };
    let now = SystemTime::now();
    if validity.contains(now) {
        return;
    }
    let (from, until, now_is) = (utc(validity.not_before), utc(validity.not_after), utc(now));
    match now > validity.not_after {
        true => warn!(
            "the {what} in {file} has expired at {until} (it is {now_is} here): the control plane will \
             refuse it until it is renewed"
        ),
        false => warn!(
            "the {what} in {file} is valid from {from} on, and it is {now_is} here: the control plane may \
             refuse it, and one of the clocks is wrong"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::Conditions;

    #[tokio::test]
    async fn a_file_that_does_not_come_is_named_and_so_is_the_way_out() {
        let credentials = Credentials {
            ca: "/none/ca.crt".into(),
            server_name: "pilot".to_owned(),
            client: ClientCredential::Token("/none/token".into()),
        };
        let conditions = Conditions::default();
        let condition = conditions.condition("credentials", "being read");
        let limit = Duration::from_millis(1);
        let error = wait(&credentials, &condition, limit).await.unwrap_err().to_string();
        for words in ["/none/ca.crt is not there", "1ms", "--tls token", "ConfigMap"] {
            assert!(error.contains(words), "{words:?} is not in {error}");
        }
        let waiting = conditions.waiting_for().unwrap();
        assert!(waiting.contains("/none/ca.crt is not there"), "{waiting}");
    }
}

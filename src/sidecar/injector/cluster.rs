//! Whether the cluster has native sidecars, by the version of its API server. Asked only if the settings leave
//! it to the cluster (`nativeSidecars: auto`).
//!
//! `/version` takes no right of one's own: Kubernetes lets every account that it knows read it
//! (`system:public-info-viewer`). It is asked with the pod's own token rather than without one, since clusters
//! with `--anonymous-auth=false` answer nobody who does not say who he is.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::settings::InjectorSettings;
use crate::causes::with_causes;
use crate::kubeconfig;
use crate::readiness::{Conditions, Guard};
use crate::sidecar::inject::has_native_sidecars;

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(3);
/// A cluster is upgraded while the injector runs on.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// Who asks.
#[derive(Debug)]
pub(super) struct Cluster {
    guard: Guard,
    settings: watch::Receiver<Option<Arc<InjectorSettings>>>,
    native_sidecars: watch::Sender<Option<bool>>,
}

impl Cluster {
    /// With where the answer appears.
    pub(super) fn new(
        readiness: &Conditions,
        settings: watch::Receiver<Option<Arc<InjectorSettings>>>,
    ) -> (Self, watch::Receiver<Option<bool>>) {
        let guard =
            readiness.condition("API server's version known", "the settings are being read");
        let (native_sidecars, known) = watch::channel(None);
        (Self { guard, settings, native_sidecars }, known)
    }

    /// Asks until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        _ = stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut said = None;
        loop {
            let asks = self.settings.borrow_and_update().as_ref().map(|one| one.asks_the_cluster());
            let pause = match asks {
                None => ASK_AGAIN,
                Some(false) => {
                    self.guard.meet();
                    ASK_AGAIN
                }
                Some(true) => match version().await {
                    Ok((major, minor)) => {
                        let native = has_native_sidecars(major, minor);
                        if self.native_sidecars.send_replace(Some(native)) != Some(native) {
                            info!(
                                "the API server is of version {major}.{minor}: native sidecars {native}"
                            );
                        }
                        self.guard.meet();
                        said = None;
                        ASK_AGAIN
                    }
                    Err(problem) => {
                        let problem = format!(
                            "the API server's version cannot be had ({problem}); nativeSidecars: always \
                             or never in the settings needs none"
                        );
                        if said.as_ref() != Some(&problem) {
                            warn!("{problem}");
                        }
                        if self.native_sidecars.borrow().is_none() {
                            self.guard.fail(&problem);
                        }
                        said = Some(problem);
                        RETRY
                    }
                },
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.settings.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }
}

/// The API server's version, major and minor.
async fn version() -> Result<(u32, u32), String> {
    let mut config = kubeconfig::choose(None).await.map_err(|error| with_causes(&error))?;
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| with_causes(&error))?;
    let version = client.apiserver_version().await.map_err(|error| with_causes(&error))?;
    let read = || Some((number(&version.major)?, number(&version.minor)?));
    read().ok_or_else(|| format!("{}.{} is no version", version.major, version.minor))
}

/// Some providers write `29+`.
fn number(text: &str) -> Option<u32> {
    text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_providers_are_read() {
        assert_eq!(
            [number("35"), number("29+"), number(""), number("x1")],
            [Some(35), Some(29), None, None]
        );
    }
}

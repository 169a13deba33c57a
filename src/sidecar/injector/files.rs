//! The files of the injector, read anew when they change. A file that cannot be used leaves what was read
//! before in force, and is said: in the log, as a metric, and by `/ready` as long as there is nothing before.
//!
//! They are looked at every few seconds rather than watched: three small files, and whatever a kubelet, an
//! editor or a test does to get new content there (symlinks swapped, folders replaced) comes to the same.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::InjectorConfig;
use super::certificate;
use super::metrics::Metrics;
use super::settings::InjectorSettings;
use crate::readiness::{Conditions, Guard};

/// More than a ConfigMap or a Secret can have.
const MAX_FILE_BYTES: u64 = 2 << 20;

/// The one that reads them.
#[derive(Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    settings: PathBuf,
    interval: Duration,
    metrics: Arc<Metrics>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    settings_used: watch::Sender<Option<Arc<InjectorSettings>>>,
    certificate_read: Source,
    settings_read: Source,
}

/// What of one source was read last, and what became of it.
#[derive(Debug)]
struct Source {
    guard: Guard,
    /// The bytes that are in force.
    used: Option<Vec<Vec<u8>>>,
    /// Why what is there now cannot be used; said once.
    problem: Option<String>,
}

/// What of the files is served; `None` until there was something usable.
#[derive(Clone, Debug)]
pub(super) struct Usable {
    pub(super) tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    pub(super) settings: watch::Receiver<Option<Arc<InjectorSettings>>>,
}

impl Files {
    /// With where the certificate and the settings appear.
    pub(super) fn new(
        config: &InjectorConfig,
        readiness: &Conditions,
        metrics: Arc<Metrics>,
    ) -> (Self, Usable) {
        let source = |name, file: &Path| {
            let guard = readiness.condition(name, format!("{} is being read", file.display()));
            Source { guard, used: None, problem: None }
        };
        let (tls, tls_in_force) = watch::channel(None);
        let (settings, settings_in_force) = watch::channel(None);
        let files = Self {
            certificate_read: source("certificate read", &config.certificate),
            settings_read: source("settings read", &config.settings),
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            settings: config.settings.clone(),
            interval: config.reload_interval,
            metrics,
            tls,
            settings_used: settings,
        };
        (files, Usable { tls: tls_in_force, settings: settings_in_force })
    }

    /// Reads until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.look().await;
            let pause = tokio::time::sleep(self.interval);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self) {
        let paths = [self.certificate.clone(), self.key.clone()];
        if let Some((found, read)) = self.certificate_read.changed(&paths).await {
            let served = read.and_then(|files| {
                let [certificate, key] = files.as_slice() else { return Err(String::new()) };
                certificate::read(certificate, key, SystemTime::now()).map_err(|error| {
                    format!("{} and {}: {error}", paths[0].display(), paths[1].display())
                })
            });
            let usable = self.certificate_read.note(found, &served, "certificate");
            self.metrics.certificate_unusable.set(i64::from(!usable));
            if let Ok(served) = served {
                let expires = humantime::format_rfc3339_seconds(served.not_after);
                info!(names = served.names, %expires, "the certificate is served");
                self.metrics.set_expiry(served.not_after);
                self.tls.send_replace(Some(served.config));
            }
        }
        let paths = [self.settings.clone()];
        if let Some((found, read)) = self.settings_read.changed(&paths).await {
            let parsed = read.and_then(|files| {
                let text = files.first().map(Vec::as_slice).unwrap_or_default();
                InjectorSettings::parse(text)
                    .map_err(|error| format!("{}: {error}", paths[0].display()))
            });
            let usable = self.settings_read.note(found, &parsed, "settings");
            self.metrics.settings_unusable.set(i64::from(!usable));
            if let Ok(settings) = parsed {
                info!("the settings are in force");
                self.settings_used.send_replace(Some(Arc::new(settings)));
            }
        }
    }
}

/// The bytes that were found, and the same or why they could not be read.
type Found = (Option<Vec<Vec<u8>>>, Result<Vec<Vec<u8>>, String>);

impl Source {
    /// Reads the files; none if they are what is in force already.
    async fn changed(&self, paths: &[PathBuf]) -> Option<Found> {
        let paths = paths.to_vec();
        let read = tokio::task::spawn_blocking(move || {
            let one = |path: &PathBuf| {
                read_file(path).map_err(|error| format!("{}: {error}", path.display()))
            };
            paths.iter().map(one).collect::<Result<Vec<_>, _>>()
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        let found = read.as_ref().ok().cloned();
        // After a problem it is tried again: a certificate may become valid by time alone.
        let same = found.is_some() && found == self.used && self.problem.is_none();
        (!same).then_some((found, read))
    }

    /// Notes what became of it, says a problem once, and gives whether it is usable.
    fn note<T>(
        &mut self,
        found: Option<Vec<Vec<u8>>>,
        result: &Result<T, String>,
        what: &str,
    ) -> bool {
        match result {
            Ok(_) => {
                self.used = found;
                self.problem = None;
                self.guard.meet();
                true
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(problem) {
                    match &self.used {
                        Some(_) => error!("the {what} stays as it was: {problem}"),
                        None => error!("not ready, for want of a usable {what}: {problem}"),
                    }
                    self.problem = Some(problem.clone());
                }
                if self.used.is_none() {
                    self.guard.fail(problem.clone());
                }
                false
            }
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

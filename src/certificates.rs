//! The server's certificate, its key and the CA for clients, from files that change while they are served.
//!
//! [`files`] reads and checks them; [`Certificates`] serves what was read last and could be used, and reads
//! again when the files change: cert-manager, its CSI driver, the kubelet's projected volumes and Secrets all
//! replace files, most by swapping a symbolic link. Open connections go on. Files that cannot be used change
//! nothing and are said: in the log, in metrics and in `/debug/sourcez`, until they can be used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use pilothouse_xds_server::TlsAcceptor;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::file_watch::FileWatch;

pub mod files;

use files::{Loaded, ServerFiles, UnusableFile};

/// Files are read once nothing has changed for this long: two of them may be written one after the other,
const QUIET_PERIOD: Duration = Duration::from_millis(200);
/// but no later than this after the first change.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);
/// How often the files are read without an event, since some file systems report none.
const RESYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Files that cannot be used are read once more after this, before anything is said: a certificate may have
/// been written, and its key not yet.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How often it is said again that a certificate has expired, or that new files cannot be used.
const REMINDER: Duration = Duration::from_secs(60 * 60);
/// From when on it is said that a certificate will expire. Those of cert-manager's defaults are renewed a
/// month before, the kubelet's at half of their time.
const EXPIRES_SOON: Duration = Duration::from_secs(60 * 60);

/// What there is to see of the certificates.
#[derive(Clone, Debug)]
pub struct CertificateStatus {
    /// When the certificates that are served were read.
    pub loaded: SystemTime,
    /// When the server's certificate (of its chain the first to expire) is no longer valid.
    pub server_expires: SystemTime,
    /// When the last certificate of the CA for clients is no longer valid, if there is such a CA.
    pub client_ca_expires: Option<SystemTime>,
    /// Why the files cannot be used as they are now; what is served was read before.
    pub unusable: Option<String>,
    /// How often new files were taken over, and how often they could not be used.
    pub reloads: u64,
    pub failures: u64,
}

/// The certificates of the TLS listener.
#[derive(Debug)]
pub struct Certificates {
    files: ServerFiles,
    acceptor: Arc<TlsAcceptor>,
    // A std mutex, never held across an await.
    status: Mutex<CertificateStatus>,
}

impl Certificates {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be used: the file, and why.
    pub fn load(files: ServerFiles) -> Result<(Arc<Self>, CertificateReloader), UnusableFile> {
        let Loaded { settings, server_expires, client_ca_expires, digest } = files.load()?;
        let status = CertificateStatus {
            loaded: SystemTime::now(),
            server_expires,
            client_ca_expires,
            unusable: None,
            reloads: 0,
            failures: 0,
        };
        let acceptor = TlsAcceptor::new(settings);
        let status = Mutex::new(status);
        let certificates = Arc::new(Self { files, acceptor, status });
        let reloader =
            CertificateReloader { certificates: certificates.clone(), digest, reminded: None };
        Ok((certificates, reloader))
    }

    /// What makes TLS connections with them.
    pub fn acceptor(&self) -> &Arc<TlsAcceptor> {
        &self.acceptor
    }

    pub fn files(&self) -> &ServerFiles {
        &self.files
    }

    pub fn status(&self) -> CertificateStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, CertificateStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the files again when they change; the one writer of [`Certificates`].
#[derive(Debug)]
pub struct CertificateReloader {
    certificates: Arc<Certificates>,
    /// Of the content that is served.
    digest: u64,
    /// When an expired certificate, or unusable files, were last said.
    reminded: Option<Instant>,
}

impl CertificateReloader {
    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        _ = stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        let paths = self.certificates.files.paths();
        let mut watch = FileWatch::new();
        self.remind();
        loop {
            // The watches come first: what changes after them is an event, what changed before is read.
            let watched = paths.clone();
            let rewatched = tokio::task::spawn_blocking(move || {
                watch.rewatch(&watched);
                watch
            });
            watch = match rewatched.await {
                Ok(watch) => watch,
                Err(broken) => {
                    error!(error = %broken, "the certificates' files are watched no longer");
                    return;
                }
            };
            self.read().await;
            self.remind();
            tokio::select! {
                () = watch.changed() => debounce(&watch).await,
                () = sleep(RESYNC_INTERVAL) => {}
            }
        }
    }

    async fn read(&mut self) {
        let mut read = self.certificates.files.load_blocking().await;
        if read.is_err() {
            sleep(SECOND_LOOK).await;
            read = self.certificates.files.load_blocking().await;
        }
        match read {
            Ok(loaded) => self.serve(loaded),
            Err(unusable) => self.keep(unusable),
        }
    }

    fn serve(&mut self, loaded: Loaded) {
        let Loaded { settings, server_expires, client_ca_expires, digest } = loaded;
        let mut status = self.certificates.lock();
        let was_unusable = status.unusable.take().is_some();
        if digest == self.digest {
            if was_unusable {
                info!("the certificate's files are again what is served");
            }
            return;
        }
        self.digest = digest;
        status.reloads += 1;
        status.loaded = SystemTime::now();
        (status.server_expires, status.client_ca_expires) = (server_expires, client_ca_expires);
        drop(status);
        self.certificates.acceptor.replace(settings);
        self.reminded = None;
        let expires = files::rfc3339(server_expires);
        info!(%expires, "a new certificate is served, or is verified by a new CA");
    }

    fn keep(&mut self, unusable: UnusableFile) {
        let text = unusable.to_string();
        let mut status = self.certificates.lock();
        let is_new = status.unusable.as_ref() != Some(&text);
        if is_new {
            status.failures += 1;
            status.unusable = Some(text.clone());
        }
        drop(status);
        if is_new {
            self.reminded = Some(Instant::now());
            error!(reason = %text, "the new certificate's files cannot be used: the old ones are served on");
        }
    }

    /// Says what stays wrong, not too often.
    fn remind(&mut self) {
        if self.reminded.is_some_and(|last| last.elapsed() < REMINDER) {
            return;
        }
        let status = self.certificates.status();
        let now = SystemTime::now();
        let ends = |at: SystemTime| at.duration_since(now).map_or(Duration::ZERO, |left| left);
        let mut said = false;
        let server = ("server's certificate", Some(status.server_expires));
        for (which, at) in [server, ("CA for clients", status.client_ca_expires)] {
            let Some(at) = at.filter(|at| ends(*at) < EXPIRES_SOON) else { continue };
            let (expires, left) = (files::rfc3339(at), ends(at));
            if left.is_zero() {
                error!(%expires, "the {which} has expired: proxies that check it refuse it");
            } else {
                warn!(%expires, "the {which} expires soon, and no newer one has come");
            }
            said = true;
        }
        if let Some(reason) = status.unusable {
            error!(%reason, "the certificate's files still cannot be used: older ones are served");
            said = true;
        }
        if said {
            self.reminded = Some(Instant::now());
        }
    }
}

/// Waits until nothing has changed for [`QUIET_PERIOD`].
async fn debounce(watch: &FileWatch) {
    let deadline = Instant::now() + MAX_DEBOUNCE;
    let quiet = async { while timeout(QUIET_PERIOD, watch.changed()).await.is_ok() {} };
    _ = timeout_at(deadline, quiet).await;
}

#[cfg(test)]
pub(crate) mod tests;

//! The links of a path over TLS: the files, the handshake, and the other side's clock where time is what is
//! wrong.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use tokio::net::TcpStream;

use super::Walk;
use crate::sidecar::credentials::Credentials;
use crate::sidecar::credentials::files;
use crate::sidecar::doctor::clock::OtherClock;
use crate::sidecar::doctor::finding::{Code, Finding};
use crate::sidecar::doctor::observations::Observations;
use crate::sidecar::doctor::tls::{self, Loaded, Seen, TlsClient, TlsFailure};
use crate::sidecar::doctor::verdict::wrong_protocol;
use crate::sidecar::doctor::{connect, tls_verdict};
use crate::sidecar::host_port::HostPort;
use crate::sidecar::http_client::get;
use crate::well_known::{MONITORING_PORT, SECURE_XDS_PORT, XDS_PORT};

impl Walk<'_> {
    /// The files that the proxy proves itself with.
    pub(super) fn load(
        &mut self,
        credentials: Credentials,
        seen: &mut Observations,
    ) -> Result<Loaded, Finding> {
        let since = Instant::now();
        let unusable = |error: &files::FileError| {
            (error.to_string(), tls_verdict::unusable_file(&credentials, error))
        };
        let read = files::authorities(&credentials.ca)
            .and_then(|authorities| Ok((authorities, files::client(&credentials.client)?)));
        let (authorities, client) = match read {
            Ok(read) => read,
            Err(error) => {
                let (said, finding) = unusable(&error);
                return Err(self.broken("credentials", since, said, finding));
            }
        };
        let said = match client.validity() {
            Some((what, validity)) => format!("{what}, {validity}"),
            None => "none of its own".to_owned(),
        };
        let loaded = Loaded { credentials, authorities, client };
        if let Some((finding, validity)) =
            tls_verdict::expired_authorities(&loaded, SystemTime::now())
        {
            seen.disputed = validity;
            return Err(self.broken("credentials", since, said, finding));
        }
        self.well("credentials", since, said);
        Ok(loaded)
    }

    /// The handshake, and the first words inside.
    pub(super) async fn tls(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        loaded: &Loaded,
        seen: &mut Observations,
    ) -> Result<TlsClient, Finding> {
        let since = Instant::now();
        let limit = self.deadline.step()?;
        let client = TlsClient::new(loaded).map_err(|why| {
            Finding::new(Code::TlsCaUnusable, why, "name a file of authorities with --tls-ca")
        })?;
        let stream = match client.handshake(stream, limit).await {
            Ok(stream) => stream,
            Err(failure) => {
                let of_server = client.seen(None);
                return Err(self
                    .tls_failed(since, address, loaded, &of_server, &failure, seen)
                    .await);
            }
        };
        let of_server = client.seen(Some(&stream));
        let server = of_server.server.as_ref();
        let said = server.map_or_else(String::new, |facts| {
            format!("{} from {}, {}", facts.names.join(", "), facts.issuer, facts.validity)
        });
        if of_server.protocol.as_deref() != Some(b"h2") {
            return Err(self.broken("TLS", since, said, tls_verdict::no_alpn(address)));
        }
        let limit = self.deadline.step()?;
        match tls::first_words(stream, limit).await {
            Ok(protocol) => {
                self.well("TLS", since, said);
                match wrong_protocol(&protocol, address, limit) {
                    None => {
                        self.well("HTTP/2", since, "SETTINGS received");
                        Ok(client)
                    }
                    Some((said, finding)) => Err(self.broken("HTTP/2", since, said, finding)),
                }
            }
            Err(failure) => {
                Err(self.tls_failed(since, address, loaded, &of_server, &failure, seen).await)
            }
        }
    }

    async fn tls_failed(
        &mut self,
        since: Instant,
        address: SocketAddr,
        loaded: &Loaded,
        of_server: &Seen,
        failure: &TlsFailure,
        seen: &mut Observations,
    ) -> Finding {
        let limit = self.deadline.optional_step();
        // A plaintext port may answer in TLS too, to say that it has none: with an alert.
        if of_server.server.is_none() && connect::speaks_http2(address, limit).await {
            let finding = Finding::new(
                Code::TlsToPlaintext,
                format!("the proxy speaks TLS to {address}, which is plaintext"),
                "use the control plane's TLS port, 15012, or speak plaintext to 15010 (--tls off; where \
                 the bootstrap is not the agent's, take transport_socket away from the control plane's \
                 cluster)",
            );
            return self.broken("TLS", since, format!("{address} speaks no TLS"), finding);
        }
        let (finding, validity) = tls_verdict::no_tls(address, loaded, of_server, failure, limit);
        seen.disputed = validity;
        let said = match failure {
            TlsFailure::Timeout => "no answer".to_owned(),
            TlsFailure::Certificate(error) => error.to_string(),
            TlsFailure::Alert(alert) => format!("alert {alert:?}"),
            TlsFailure::Other(why) => why.clone(),
        };
        self.broken("TLS", since, said, finding)
    }

    /// Where nobody listens on one of the two ports, whether somebody does on the other.
    pub(super) async fn other_port(
        &self,
        discovery: &HostPort,
        addresses: &[IpAddr],
    ) -> Option<Finding> {
        let other = match discovery.port {
            XDS_PORT => SECURE_XDS_PORT,
            SECURE_XDS_PORT => XDS_PORT,
            _ => return None,
        };
        let limit = self.deadline.optional_step().min(self.deadline.limit() / 5);
        let tried = addresses.iter().map(async |address| {
            let open = connect::tcp(SocketAddr::new(*address, other), limit).await.is_ok();
            open.then(|| {
                tls_verdict::other_port_open(SocketAddr::new(*address, discovery.port), other)
            })
        });
        futures::future::join_all(tried).await.into_iter().flatten().next()
    }

    /// The control plane's clock, by its monitoring port.
    pub(super) async fn pilots_clock(&self, seen: &Observations) -> Option<OtherClock> {
        let beside = |reached: SocketAddr| SocketAddr::new(reached.ip(), MONITORING_PORT);
        let monitoring = self.target.monitoring.or_else(|| seen.reached.map(beside))?;
        let limit = self.deadline.optional_step().min(self.deadline.limit() / 5);
        let page = get(monitoring, "/ready", limit).await.ok()?;
        Some(OtherClock::now("Pilot", page.date?))
    }
}

//! What becomes of the flags of `serve`.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, ValueEnum as _};
use pilothouse_xds::session::SessionLimits;

use super::{Cli, Serve, Source};
use crate::ads::ServerLimits;
use crate::app::{self, memory};
use crate::certificates::files::ServerFiles;
use crate::flags::{Listen, or_any, or_forever};
use crate::identity::tokens::{self, TokenAuthority, TokenSettings, TokenVerification};
use crate::identity::{ActFor, Readers};
use crate::publish::Timing;
use crate::source::{files, kube};
use crate::view::ViewLimits;
use crate::well_known::SECURE_XDS_PORT;

/// Istio's number, on every address.
const DEFAULT_SECURE_GRPC: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SECURE_XDS_PORT);

pub(super) const WATCH_TIMEOUT: Duration = Duration::from_secs(30);

impl Serve {
    /// What to run, once the flags fit together.
    ///
    /// # Errors
    /// Neither kind of source or both, or a flag that this kind cannot honour: a usage error.
    pub fn config(&self) -> Result<app::ControlPlaneConfig, clap::Error> {
        let source = match (self.source, self.manifests.as_slice()) {
            (None, []) => {
                return Err(usage(
                    "where does the mesh come from? Give --source kube (a Kubernetes API server) \
                     or --manifests PATH (a file or folder of Services and EndpointSlices), for \
                     instance:\n\n  pilothouse serve --manifests ./examples/bookinfo",
                ));
            }
            (Some(_), [_, ..]) => {
                return Err(usage(
                    "--source kube (PILOTHOUSE_SOURCE) and --manifests (PILOTHOUSE_MANIFESTS) exclude \
                     each other: the mesh comes from one place only",
                ));
            }
            (Some(Source::Kube), []) => app::SourceConfig::Kube(kube::KubeSourceConfig {
                context: self.context.clone(),
                namespaces: self.namespace.clone(),
                endpoints: self.endpoints(),
                nodes: self.watch_nodes,
                watch_timeout: self.watch_timeout(),
            }),
            (None, paths) => {
                self.refuse_flags_of_a_cluster()?;
                let (paths, namespaces) = (paths.to_vec(), self.namespace.clone());
                app::SourceConfig::Files(files::FileSourceConfig { paths, namespaces })
            }
        };
        let tokens = self.tokens()?;
        if self.secure_http_addr.is_some() && self.debug_identities.is_empty() {
            return Err(usage(
                "nobody could read what --secure-http-addr (PILOTHOUSE_SECURE_HTTP_ADDR) serves: name those \
                 who may by --debug-identities (PILOTHOUSE_DEBUG_IDENTITIES), for instance \
                 --debug-identities ops/doctor",
            ));
        }
        Ok(app::ControlPlaneConfig {
            source,
            tokens,
            identity: app::IdentityConfig {
                trust_domain: self.trust_domain.clone(),
                required: self.require_identity,
                act_for: ActFor::new(self.act_for.clone()),
                readers: Readers::new(self.debug_identities.clone()),
            },
            domain: self.domain.clone(),
            grpc_addr: match self.grpc_addr {
                Listen::At(address) => Some(address),
                Listen::Off => None,
            },
            tls: self.tls()?,
            http_addr: self.http_addr,
            secure_http_addr: self.secure_http_addr,
            monitoring_addr: self.monitoring_addr,
            timing: Timing {
                pace: self.pace,
                linger: self.linger,
                on_demand: self.on_demand_timeout,
            },
            limits: ServerLimits {
                session: SessionLimits {
                    names: or_any(self.max_names),
                    types: or_any(self.max_types),
                    ..SessionLimits::default()
                },
                request_bytes: self.max_request_bytes,
                first_request: or_forever(self.first_request_timeout),
                ack: or_forever(self.ack_timeout),
                send: or_forever(self.send_timeout),
                requests_per_second: match self.max_requests_per_second {
                    0 => u32::MAX,
                    limit => limit,
                },
                streams_per_peer: self.max_streams_per_peer,
                starting: self.max_starting,
                connection_age: self.max_connection_age,
                connections: or_any(self.max_connections),
                connection_memory: self.max_connection_memory,
                peer_memory: self.max_peer_memory.unwrap_or_else(memory::half_of_limit),
            },
            view_limits: ViewLimits { views: self.max_views, per_peer: self.max_views_per_peer },
            events: self.events,
            keepalive: self.keepalive,
            shutdown_timeout: self.shutdown_timeout,
        })
    }

    /// Whose tokens are accepted, if any.
    fn tokens(&self) -> Result<Option<TokenSettings>, clap::Error> {
        let has_cluster = self.source == Some(Source::Kube);
        let context = || self.context.clone();
        let authority = match (self.token_verification, &self.token_issuer) {
            (TokenVerification::Off, None) if self.token_audience.is_empty() => return Ok(None),
            (TokenVerification::Off, issuer) => {
                let flag = match issuer {
                    Some(_) => "--token-issuer (PILOTHOUSE_TOKEN_ISSUER)",
                    None => "--token-audience (PILOTHOUSE_TOKEN_AUDIENCE)",
                };
                return Err(usage(&format!(
                    "{flag} has no effect, since no token is verified: give --token-verification keys \
                     (or review) as well, or leave it out"
                )));
            }
            (TokenVerification::Review, Some(_)) => {
                return Err(usage(
                    "--token-issuer (PILOTHOUSE_TOKEN_ISSUER) has no effect with --token-verification \
                     review: the API server knows its issuers. Leave it out, or verify by keys",
                ));
            }
            (TokenVerification::Keys, Some(url)) => {
                TokenAuthority::IssuerKeys { url: url.clone(), cluster: has_cluster.then(context) }
            }
            (TokenVerification::Keys | TokenVerification::Review, None) if !has_cluster => {
                return Err(usage(
                    "--token-verification (PILOTHOUSE_TOKEN_VERIFICATION) needs an API server to ask, \
                     and --manifests has none: give --token-verification keys with --token-issuer URL, \
                     or take the mesh from --source kube",
                ));
            }
            (TokenVerification::Keys, None) => TokenAuthority::ApiServerKeys { context: context() },
            (TokenVerification::Review, None) => TokenAuthority::Review { context: context() },
        };
        Ok(Some(TokenSettings { authority, audiences: self.audiences() }))
    }

    fn audiences(&self) -> Vec<String> {
        match self.token_audience.as_slice() {
            [] => vec![tokens::DEFAULT_AUDIENCE.to_owned()],
            some => some.to_vec(),
        }
    }

    /// The listener with TLS, if there is to be one.
    fn tls(&self) -> Result<Option<app::TlsConfig>, clap::Error> {
        let (certificate, key) = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (Some(_), None) => {
                return Err(usage(
                    "--tls-cert (PILOTHOUSE_TLS_CERT) is given and its key is not: give --tls-key \
                     (PILOTHOUSE_TLS_KEY) too, the same file if it has both",
                ));
            }
            (None, Some(_)) => {
                return Err(usage(
                    "--tls-key (PILOTHOUSE_TLS_KEY) is given and its certificate is not: give \
                     --tls-cert (PILOTHOUSE_TLS_CERT) too, the same file if it has both",
                ));
            }
            (None, None) => {
                self.refuse_flags_of_tls()?;
                return Ok(None);
            }
        };
        let address = self.secure_grpc_addr.unwrap_or(DEFAULT_SECURE_GRPC);
        let files = ServerFiles { certificate, key, client_ca: self.client_ca.clone() };
        Ok(Some(app::TlsConfig { address, files }))
    }

    /// There is no certificate.
    fn refuse_flags_of_tls(&self) -> Result<(), clap::Error> {
        let flag = if self.secure_grpc_addr.is_some() {
            "--secure-grpc-addr (PILOTHOUSE_SECURE_GRPC_ADDR)"
        } else if self.secure_http_addr.is_some() {
            "--secure-http-addr (PILOTHOUSE_SECURE_HTTP_ADDR)"
        } else if self.client_ca.is_some() {
            "--client-ca (PILOTHOUSE_CLIENT_CA)"
        } else if self.grpc_addr == Listen::Off {
            return Err(usage(
                "no proxy could connect: --grpc-addr (PILOTHOUSE_GRPC_ADDR) is off, and without \
                 --tls-cert and --tls-key there is no port with TLS",
            ));
        } else {
            return Ok(());
        };
        Err(usage(&format!(
            "{flag} is about the port with TLS, which needs a certificate: give --tls-cert and \
             --tls-key, or leave it out"
        )))
    }

    fn endpoints(&self) -> kube::EndpointsKind {
        self.endpoints.unwrap_or(kube::EndpointsKind::Auto)
    }

    fn watch_timeout(&self) -> Duration {
        self.watch_timeout.unwrap_or(WATCH_TIMEOUT)
    }

    /// There is no API server that they could be about.
    fn refuse_flags_of_a_cluster(&self) -> Result<(), clap::Error> {
        let given = [
            (self.context.is_some(), "--context (PILOTHOUSE_CONTEXT)"),
            (self.endpoints.is_some(), "--endpoints (PILOTHOUSE_ENDPOINTS)"),
            (self.watch_nodes, "--watch-nodes (PILOTHOUSE_WATCH_NODES)"),
            (self.events, "--events (PILOTHOUSE_EVENTS)"),
            (self.watch_timeout.is_some(), "--watch-timeout (PILOTHOUSE_WATCH_TIMEOUT)"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, flag)) => Err(usage(&format!(
                "{flag} is about a Kubernetes API server, and has no effect on manifests: leave it \
                 out, or replace --manifests (PILOTHOUSE_MANIFESTS) by --source kube"
            ))),
        }
    }

    /// The variable has commas between paths; on the command line a path is given as it is, and may
    /// contain one.
    pub(super) fn split_manifests(&mut self) {
        let paths = self.manifests.iter().map(|paths| paths.as_os_str().as_bytes());
        let paths = paths.flat_map(|paths| paths.split(|byte| *byte == b','));
        let paths = paths.filter(|path| !path.is_empty());
        self.manifests = paths.map(|path| OsStr::from_bytes(path).into()).collect();
    }
}

impl fmt::Display for Serve {
    /// One line with what is in force.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(Source::Kube) => {
                write!(f, "source=kube endpoints={:?}", self.endpoints())?;
                if self.watch_nodes {
                    write!(f, " watch-nodes")?;
                }
                if self.events {
                    write!(f, " events")?;
                }
                write!(f, " watch-timeout={:?}", self.watch_timeout())?;
                if let Some(context) = &self.context {
                    write!(f, " context={context}")?;
                }
            }
            None => write!(f, "manifests={:?}", self.manifests)?,
        }
        match self.namespace.as_slice() {
            [] => f.write_str(" namespaces=all")?,
            some => write!(f, " namespaces={}", some.join(","))?,
        }
        write!(
            f,
            " domain={} grpc-addr={}{} http-addr={} monitoring-addr={} pace={:?} linger={:?} \
             max-request-bytes={} max-names={} max-types={} max-requests-per-second={} \
             max-streams-per-peer={} max-views={} max-views-per-peer={} \
             max-connection-age={:?} max-connection-memory={} max-peer-memory={} \
             max-starting={} max-connections={} first-request-timeout={:?} ack-timeout={:?} \
             send-timeout={:?} keepalive={:?} shutdown-timeout={:?}",
            self.domain,
            self.grpc_addr,
            Tls(self),
            self.http_addr,
            self.monitoring_addr,
            self.pace,
            self.linger,
            self.max_request_bytes,
            self.max_names,
            self.max_types,
            self.max_requests_per_second,
            self.max_streams_per_peer,
            self.max_views,
            self.max_views_per_peer,
            self.max_connection_age,
            self.max_connection_memory,
            self.max_peer_memory.unwrap_or_else(memory::half_of_limit),
            self.max_starting,
            self.max_connections,
            self.first_request_timeout,
            self.ack_timeout,
            self.send_timeout,
            self.keepalive,
            self.shutdown_timeout,
        )?;
        if let Some(address) = self.secure_http_addr {
            write!(f, " secure-http-addr={address}")?;
        }
        write!(f, " trust-domain={}", self.trust_domain)?;
        write!(f, " require-identity={}", self.require_identity)?;
        let lists = [
            ("act-for", self.act_for.iter().map(ToString::to_string).collect::<Vec<_>>()),
            ("debug-identities", self.debug_identities.iter().map(ToString::to_string).collect()),
        ];
        for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, " {name}={}", list.join(","))?;
        }
        match self.token_verification {
            TokenVerification::Off => f.write_str(" token-verification=off")?,
            by => {
                let by = by.to_possible_value();
                let by = by.as_ref().map_or("", |value| value.get_name());
                write!(
                    f,
                    " token-verification={by} token-audience={}",
                    self.audiences().join(",")
                )?;
            }
        }
        match &self.token_issuer {
            Some(issuer) => write!(f, " token-issuer={}", issuer.as_str()),
            None => Ok(()),
        }
    }
}

/// What is in force about TLS, if it is.
struct Tls<'a>(&'a Serve);

impl fmt::Display for Tls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Serve { tls_cert: Some(certificate), tls_key: Some(key), client_ca, .. } = self.0
        else {
            return Ok(());
        };
        let address = self.0.secure_grpc_addr.unwrap_or(DEFAULT_SECURE_GRPC);
        write!(f, " secure-grpc-addr={address} tls-cert={certificate:?} tls-key={key:?}")?;
        client_ca.as_ref().map_or(Ok(()), |ca| write!(f, " client-ca={ca:?}"))
    }
}

fn usage(message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut("serve") {
        Some(serve) => serve.error(ErrorKind::MissingRequiredArgument, message),
        None => command.error(ErrorKind::MissingRequiredArgument, message),
    }
}

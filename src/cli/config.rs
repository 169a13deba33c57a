//! What becomes of the flags of `serve`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, ValueEnum as _};
use pilothouse_xds::session::SessionLimits;

use super::{Cli, Serve, Source};
use crate::ads::ServerLimits;
use crate::app::{self, memory};
use crate::flags::{or_any, or_forever};
use crate::identity::tokens::{self, TokenAuthority, TokenSettings, TokenVerification};
use crate::identity::{ActFor, Readers};
use crate::publish::Timing;
use crate::source::{files, kube};
use crate::view::ViewLimits;

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
            grpc_addr: self.grpc_addr,
            http_addr: self.http_addr,
            monitoring_addr: self.monitoring_addr,
            timing: Timing { pace: self.pace, linger: self.linger },
            limits: ServerLimits {
                session: SessionLimits {
                    names: or_any(self.max_names),
                    types: or_any(self.max_types),
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
            " domain={} grpc-addr={} http-addr={} monitoring-addr={} pace={:?} linger={:?} \
             max-request-bytes={} max-names={} max-types={} max-requests-per-second={} \
             max-streams-per-peer={} max-views={} max-views-per-peer={} \
             max-connection-age={:?} max-connection-memory={} max-peer-memory={} \
             max-starting={} max-connections={} first-request-timeout={:?} ack-timeout={:?} \
             send-timeout={:?} keepalive={:?} shutdown-timeout={:?}",
            self.domain,
            self.grpc_addr,
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

fn usage(message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut("serve") {
        Some(serve) => serve.error(ErrorKind::MissingRequiredArgument, message),
        None => command.error(ErrorKind::MissingRequiredArgument, message),
    }
}

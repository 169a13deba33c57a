//! The walk: link after link in the order in which a proxy needs them, up to the first that is
//! broken.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect::{self, Connection, Protocol};
use super::deadline::Deadline;
use super::envoy;
use super::finding::{Code, Diagnosis, Finding, Link, LinkState};
use super::kubernetes::{self, ServicesToQuery};
use super::observations::Observations;
use super::on_demand::OnDemand;
use super::pilot::Readiness;
use super::tls::{Loaded, TlsClient};
use super::verdict::{no_connection, pilot_silent, wrong_protocol};
use super::{Target, ads, clock, explain, pilot, tls_verdict, verdict};
use crate::causes::with_causes;
use crate::sidecar::credentials::files::LoadedClient;
use crate::sidecar::credentials::{Credentials, TlsMode};
use crate::sidecar::host_port::{HostPort, HostPortError};
use crate::well_known::{
    DEFAULT_DISCOVERY_ADDRESS, DEFAULT_SECURE_DISCOVERY_ADDRESS, MONITORING_PORT,
};

mod dataplane;
mod resolve;
mod routes;
mod service;
mod tls;

/// Links without which nobody can say that all is well, if it was meant to be looked at.
const NEEDED: [&str; 2] = ["Envoy", "Pilot"];

/// What has been seen so far.
struct Walk<'a> {
    target: &'a Target,
    deadline: Deadline,
    links: Vec<Link>,
    notes: Vec<String>,
}

pub(super) async fn walk(target: &Target, deadline: Deadline) -> Diagnosis {
    let mut walk = Walk { target, deadline, links: Vec::new(), notes: Vec::new() };
    // Each step has a limit; this one holds whatever those forgot.
    let walked = timeout(deadline.left(), Box::pin(walk.run())).await;
    let broken = walked.unwrap_or_else(|_| Err(deadline.out_of_time())).err();
    let finding = broken.unwrap_or_else(|| {
        let unseen = walk
            .links
            .iter()
            .filter(|link| link.state == LinkState::Unknown && NEEDED.contains(&link.name));
        let unseen: Vec<_> = unseen.map(|link| (link.name, &*link.said)).collect();
        verdict::all_well(&unseen)
    });
    Diagnosis {
        code: finding.code,
        outcome: finding.code.outcome(),
        cause: finding.cause,
        fix: finding.fix,
        links: walk.links,
        notes: walk.notes,
        took: deadline.elapsed(),
    }
}

impl Walk<'_> {
    /// The path, with Kubernetes asked meanwhile, and then what it takes both for.
    async fn run(&mut self) -> Result<(), Finding> {
        let mut seen = Observations::default();
        self.envoy(&mut seen).await?;
        let target = self.target;
        let discovery = self.discovery(&seen)?;
        let namespace = seen.namespace();
        let wanted = ServicesToQuery {
            pilot: discovery
                .service()
                .map(|(name, of)| (name.to_owned(), of.unwrap_or(&namespace).to_owned())),
            service: target.service.as_ref().map(|service| {
                let of = service.namespace.clone().unwrap_or_else(|| namespace.clone());
                (service.name.clone(), of)
            }),
            client_namespace: namespace.clone(),
        };
        seen.discovery = Some(discovery);
        let (since, limit) = (Instant::now(), self.deadline.optional_step());
        let ask = async {
            match target.kubernetes {
                true => Some(kubernetes::query(target.context.as_deref(), &wanted, limit).await),
                false => None,
            }
        };
        let (walked, asked) = tokio::join!(Box::pin(self.walk_to_pilot(&mut seen)), ask);
        if let Some(asked) = &asked {
            self.kubernetes(since, asked);
        }
        match walked {
            Err(found) => {
                let on_demand = seen.envoy.as_ref().and_then(|envoy| envoy.on_demand.as_ref());
                let cut_off = on_demand.filter(|on_demand| !on_demand.stats.connected);
                self.notes.extend(cut_off.and_then(OnDemand::note));
                let kubernetes = asked.as_ref().and_then(|asked| asked.as_ref().ok());
                seen.clocks.extend(kubernetes.and_then(|kubernetes| kubernetes.clock.clone()));
                let found = clock::explain(found, seen.disputed, &seen.clocks);
                // Nothing here says that this place should reach a control plane.
                let outside =
                    !target.envoy_expected && seen.envoy.is_none() && target.discovery.is_none();
                Err(match (kubernetes, outside) {
                    (None, false) => found,
                    (None, true) => verdict::outside_cluster(&found),
                    (Some(kubernetes), false) => explain::explain(found, kubernetes, &seen),
                    (Some(kubernetes), true) => {
                        explain::explain_outside_cluster(&found, kubernetes, &seen)
                    }
                })
            }
            Ok(()) => {
                if let (Some(service), Some((_, namespace))) = (&target.service, &wanted.service) {
                    self.service(service, namespace, asked.as_ref(), &seen).await?;
                }
                let kubernetes = asked.as_ref().and_then(|asked| asked.as_ref().ok());
                kubernetes.and_then(explain::replica_not_ready).map_or(Ok(()), Err)
            }
        }
    }

    fn discovery(&self, seen: &Observations) -> Result<HostPort, Finding> {
        let of_envoy = seen.envoy.as_ref().and_then(|envoy| envoy.discovery.clone());
        if let Some(known) = self.target.discovery.clone().or(of_envoy) {
            return Ok(known);
        }
        let default = match self.target.tls.tls {
            None | Some(TlsMode::Off) => DEFAULT_DISCOVERY_ADDRESS,
            Some(TlsMode::Certificate | TlsMode::Token) => DEFAULT_SECURE_DISCOVERY_ADDRESS,
        };
        default.parse().map_err(|error: HostPortError| {
            Finding::new(Code::NameNotFound, error.to_string(), "give --discovery-address")
        })
    }

    fn credentials(&self, discovery: &HostPort, seen: &Observations) -> Option<Credentials> {
        let known = seen.envoy.as_ref().and_then(|envoy| envoy.credentials.as_ref());
        self.target.tls.credentials(discovery, known)
    }

    /// To the first broken link; where time is what is wrong, with another clock to compare with.
    async fn walk_to_pilot(&mut self, seen: &mut Observations) -> Result<(), Finding> {
        let walked = self.follow_path_to_pilot(seen).await;
        if walked.as_ref().is_err_and(|found| clock::is_about_time(found.code)) {
            seen.clocks.extend(self.pilots_clock(seen).await);
        }
        walked
    }

    async fn follow_path_to_pilot(&mut self, seen: &mut Observations) -> Result<(), Finding> {
        let discovery = self.discovery(seen)?;
        match discovery.address() {
            Some(address) => seen.addresses = vec![address],
            None => self.resolve(&discovery, seen).await?,
        }
        let stream = self.tcp(&discovery, &seen.addresses).await?;
        let address = stream.peer_addr().map_err(|error| {
            Finding::new(Code::AddressUnreachable, error.to_string(), "try again")
        })?;
        seen.reached = Some(address);
        let (loaded, tls) = match self.credentials(&discovery, seen) {
            None => {
                self.http2(stream, address).await?;
                (None, None)
            }
            Some(credentials) => {
                let loaded = self.load(credentials, seen)?;
                let tls = self.tls(stream, address, &loaded, seen).await?;
                (Some(loaded), Some(tls))
            }
        };
        let connection = self.grpc(address, tls.as_ref()).await?;
        let stale = self.readiness(address).await?;
        self.ads(&connection, address, loaded.as_ref(), seen).await?;
        if let Some(envoy) = &seen.envoy {
            let discovery = self.pilots_view(address, envoy).await?;
            self.acceptance(envoy)?;
            self.capture(envoy).await?;
            self.on_demand(envoy, discovery.as_deref())?;
        }
        match stale {
            Some(stale) => Err(stale),
            None => Ok(()),
        }
    }

    /// Adds a link of the path and its state.
    fn add_link(&mut self, name: &'static str, since: Instant, state: LinkState, said: String) {
        self.links.push(Link { name, state, said, took: since.elapsed() });
    }

    fn well(&mut self, name: &'static str, since: Instant, said: impl Into<String>) {
        self.add_link(name, since, LinkState::Well, said.into());
    }

    fn unknown(&mut self, name: &'static str, since: Instant, said: impl Into<String>) {
        self.add_link(name, since, LinkState::Unknown, said.into());
    }

    /// Notes the broken link and ends the walk.
    fn broken(
        &mut self,
        name: &'static str,
        since: Instant,
        said: impl Into<String>,
        finding: Finding,
    ) -> Finding {
        let unknown = finding.code.outcome() == super::Outcome::Unknown;
        let state = if unknown { LinkState::Unknown } else { LinkState::Broken };
        self.add_link(name, since, state, said.into());
        finding
    }

    async fn envoy(&mut self, seen: &mut Observations) -> Result<(), Finding> {
        let Some(address) = self.target.admin else { return Ok(()) };
        let since = Instant::now();
        match envoy::inspect(address, self.deadline.step()?).await {
            Ok(envoy) => {
                self.well("Envoy", since, envoy.summary());
                seen.envoy = Some(envoy);
                Ok(())
            }
            Err(finding) if self.target.envoy_expected => {
                Err(self.broken("Envoy", since, address.to_string(), finding))
            }
            Err(finding) => {
                self.unknown("Envoy", since, format!("none here: {}", finding.cause));
                Ok(())
            }
        }
    }

    async fn tcp(
        &mut self,
        discovery: &HostPort,
        addresses: &[IpAddr],
    ) -> Result<TcpStream, Finding> {
        let since = Instant::now();
        let limit = self.deadline.step()?;
        let mut errors = Vec::new();
        let tried = addresses.iter().map(async |address| {
            let address = SocketAddr::new(*address, discovery.port);
            (address, connect::tcp(address, limit).await)
        });
        for (address, tried) in futures::future::join_all(tried).await {
            match tried {
                Ok(stream) => {
                    self.well("TCP", since, format!("{address} takes connections"));
                    return Ok(stream);
                }
                Err(error) => errors.push((address, error)),
            }
        }
        let (said, finding) = no_connection(discovery, &errors, limit);
        let finding = self.other_port(discovery, addresses).await.unwrap_or(finding);
        Err(self.broken("TCP", since, said, finding))
    }

    async fn http2(&mut self, stream: TcpStream, address: SocketAddr) -> Result<(), Finding> {
        let since = Instant::now();
        let limit = self.deadline.step()?;
        let speech = connect::detect_protocol(stream, address, limit).await;
        match wrong_protocol(&speech, address, limit) {
            None => {
                self.well("HTTP/2", since, "SETTINGS received");
                Ok(())
            }
            Some((said, finding)) => Err(self.broken("HTTP/2", since, said, finding)),
        }
    }

    async fn grpc(
        &mut self,
        address: SocketAddr,
        tls: Option<&TlsClient>,
    ) -> Result<Connection, Finding> {
        let since = Instant::now();
        let limit = self.deadline.step()?;
        let opened = async {
            let opened = match tls {
                None => Connection::open(address).await,
                Some(tls) => {
                    let stream = tls.connect(address, limit).await?;
                    Connection::over(stream, "https", address).await
                }
            };
            let mut connection = opened.map_err(|error| with_causes(&*error))?;
            connection.speaks_grpc().await.map(|()| connection)
        };
        let said = match timeout(limit, opened).await {
            Ok(Ok(connection)) => {
                self.well("gRPC", since, "a gRPC server answers");
                return Ok(connection);
            }
            Ok(Err(said)) => said,
            Err(_) => {
                let (said, finding) = pilot_silent(address, "HTTP/2 begins, but no request", limit);
                return Err(self.broken("gRPC", since, said, finding));
            }
        };
        if let Some(broken) = self.plaintext_to_tls("gRPC", since, address, tls.is_some()).await {
            return Err(broken);
        }
        let finding = Finding::new(
            Code::NotGrpc,
            format!("{address} speaks HTTP/2 but not gRPC: it answers {said}"),
            "correct the discovery address: Pilot serves ADS on port 15010",
        );
        Err(self.broken("gRPC", since, said, finding))
    }

    /// A TLS port may answer plaintext in HTTP/2, to say that it speaks none.
    async fn plaintext_to_tls(
        &mut self,
        link: &'static str,
        since: Instant,
        address: SocketAddr,
        over_tls: bool,
    ) -> Option<Finding> {
        let limit = self.deadline.optional_step();
        if over_tls || !connect::speaks_tls(address, limit).await {
            return None;
        }
        let (said, finding) = wrong_protocol(&Protocol::Tls, address, limit)?;
        Some(self.broken(link, since, said, finding))
    }

    /// The monitoring port. Its staleness is a fault to be told last: proxies are served all the
    /// same.
    async fn readiness(&mut self, address: SocketAddr) -> Result<Option<Finding>, Finding> {
        let since = Instant::now();
        let port = SocketAddr::new(address.ip(), MONITORING_PORT);
        let monitoring = self.target.monitoring.unwrap_or(port);
        match pilot::readiness(monitoring, self.deadline.optional_step()).await {
            Readiness::Ready(ready) => {
                self.well("Pilot", since, ready.summary());
                Ok(ready.stale())
            }
            Readiness::NotReady(finding) => Err(self.broken("Pilot", since, "not ready", finding)),
            Readiness::Unknown(why) => {
                self.unknown("Pilot", since, format!("could not look: {why}"));
                Ok(None)
            }
        }
    }

    async fn ads(
        &mut self,
        connection: &Connection,
        address: SocketAddr,
        loaded: Option<&Loaded>,
        seen: &mut Observations,
    ) -> Result<(), Finding> {
        let since = Instant::now();
        let limit = self.deadline.step()?;
        let nothing = serde_json::Value::Null;
        let of_envoy = seen.envoy.as_ref().map_or(&nothing, |envoy| &envoy.node);
        let id = self.target.node_id.as_deref().or_else(|| of_envoy["id"].as_str());
        let made_up =
            format!("sidecar~127.0.0.1~doctor.default~default.svc.{}", self.target.domain);
        let id = id.unwrap_or(&made_up);
        let node = ads::node(of_envoy, id, self.target.origin);
        let token = loaded.and_then(|loaded| match &loaded.client {
            LoadedClient::Token(token) => Some(token),
            LoadedClient::None | LoadedClient::Certificate(_) => None,
        });
        match timeout(limit, ads::probe(connection, node, token)).await {
            Ok(Ok(ads::ResourceCounts { clusters, listeners })) => {
                let said = format!("{clusters} clusters and {listeners} listeners for {id}");
                self.well("ADS", since, said);
                Ok(())
            }
            Ok(Err(status)) => {
                let over_tls = loaded.is_some();
                if let Some(broken) = self.plaintext_to_tls("ADS", since, address, over_tls).await {
                    return Err(broken);
                }
                let said = format!("{:?}", status.code());
                let refused = tls_verdict::identity_refused(address, id, &status, loaded);
                let (finding, validity) =
                    refused.unwrap_or_else(|| (ads::stream_error(address, id, &status), None));
                seen.disputed = validity;
                Err(self.broken("ADS", since, said, finding))
            }
            Err(_) => {
                let finding = Finding::new(
                    Code::StreamSilent,
                    format!(
                        "{address} takes the ADS stream, but sends no clusters and listeners \
                         within {limit:?}"
                    ),
                    "see whether Pilot is overloaded (CPU limit, pilot_xds_push_time), and give it \
                     more time: --timeout 30s",
                );
                Err(self.broken("ADS", since, "nothing comes", finding))
            }
        }
    }
}

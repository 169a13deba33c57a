//! The walk: link after link in the order in which a proxy needs them, up to the first that is
//! broken.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::admin::{self, Envoy};
use super::clock::Clock;
use super::connect::{self, Connection};
use super::dns::{self, Lookup, Reply};
use super::finding::{Code, Diagnosis, Finding, Link, LinkState};
use super::kubernetes::{self, Wanted};
use super::place::HostPort;
use super::resolv::ResolvConf;
use super::verdict::{misspeech, mute, no_connection, no_such_name, silent};
use super::{DEFAULT_DISCOVERY, Target, ads, explain, hosts, pilot, verdict};

mod beyond;
mod service;

/// The control plane's pages for people.
const DEBUG_PORT: u16 = 8080;
/// Links without which nobody can say that all is well, if it was meant to be looked at.
const NEEDED: [&str; 2] = ["Envoy", "Pilot"];

/// What has been seen so far.
struct Walk<'a> {
    target: &'a Target,
    clock: Clock,
    links: Vec<Link>,
    notes: Vec<String>,
}

/// What the walk has learned that later links, and Kubernetes, need.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) envoy: Option<Envoy>,
    pub(super) discovery: Option<HostPort>,
    pub(super) servers: Vec<IpAddr>,
    pub(super) addresses: Vec<IpAddr>,
    /// The one that took a connection.
    pub(super) reached: Option<SocketAddr>,
}

impl Seen {
    /// Envoy's, by its node.
    fn namespace(&self) -> String {
        let node = self.envoy.as_ref().map(|envoy| &envoy.node);
        let told = node.and_then(|node| node["metadata"]["NAMESPACE"].as_str());
        told.unwrap_or("default").to_owned()
    }

    /// The pod's own addresses, by Envoy's node.
    fn own(&self) -> Vec<IpAddr> {
        let Some(envoy) = &self.envoy else { return Vec::new() };
        let of_id = envoy.node["id"].as_str().and_then(|id| id.split('~').nth(1));
        let listed = envoy.node["metadata"]["INSTANCE_IPS"].as_str().unwrap_or_default();
        let all = of_id.into_iter().chain(listed.split(','));
        all.filter_map(|one| one.trim().parse().ok()).collect()
    }
}

pub(super) async fn walk(target: &Target, clock: Clock) -> Diagnosis {
    let mut walk = Walk { target, clock, links: Vec::new(), notes: Vec::new() };
    // Each step has a limit; this one holds whatever those forgot.
    let walked = timeout(clock.left(), Box::pin(walk.whole())).await;
    let broken = walked.unwrap_or_else(|_| Err(clock.out_of_time())).err();
    let finding = broken.unwrap_or_else(|| {
        let unseen = walk
            .links
            .iter()
            .filter(|link| link.state == LinkState::Unknown && NEEDED.contains(&link.name));
        let unseen: Vec<_> = unseen.map(|link| (link.name, &*link.said)).collect();
        verdict::well(&unseen)
    });
    Diagnosis {
        code: finding.code,
        outcome: finding.code.outcome(),
        cause: finding.cause,
        fix: finding.fix,
        links: walk.links,
        notes: walk.notes,
        took: clock.elapsed(),
    }
}

impl Walk<'_> {
    /// The path, with Kubernetes asked meanwhile, and then what it takes both for.
    async fn whole(&mut self) -> Result<(), Finding> {
        let mut seen = Seen::default();
        self.envoy(&mut seen).await?;
        let target = self.target;
        let discovery = self.discovery(&seen)?;
        let namespace = seen.namespace();
        let wanted = Wanted {
            pilot: discovery
                .service()
                .map(|(name, of)| (name.to_owned(), of.unwrap_or(&namespace).to_owned())),
            service: target.service.as_ref().map(|service| {
                let of = service.namespace.clone().unwrap_or_else(|| namespace.clone());
                (service.name.clone(), of)
            }),
        };
        seen.discovery = Some(discovery);
        let (since, limit) = (Instant::now(), self.clock.aside());
        let ask = async {
            match target.kubernetes {
                true => Some(kubernetes::look(target.context.as_deref(), &wanted, limit).await),
                false => None,
            }
        };
        let (walked, asked) = tokio::join!(self.along(&mut seen), ask);
        if let Some(asked) = &asked {
            self.kubernetes(since, asked);
        }
        match walked {
            Err(found) => {
                let kubernetes = asked.as_ref().and_then(|asked| asked.as_ref().ok());
                // Nothing here says that this place should reach a control plane.
                let outside =
                    !target.envoy_expected && seen.envoy.is_none() && target.discovery.is_none();
                Err(match (kubernetes, outside) {
                    (None, false) => found,
                    (None, true) => verdict::outside(&found),
                    (Some(kubernetes), false) => explain::explain(found, kubernetes, &seen),
                    (Some(kubernetes), true) => explain::from_outside(&found, kubernetes, &seen),
                })
            }
            Ok(()) => {
                if let (Some(service), Some((_, namespace))) = (&target.service, &wanted.service) {
                    self.service(service, namespace, asked.as_ref(), &seen).await?;
                }
                let kubernetes = asked.as_ref().and_then(|asked| asked.as_ref().ok());
                kubernetes.and_then(explain::replica).map_or(Ok(()), Err)
            }
        }
    }

    fn discovery(&self, seen: &Seen) -> Result<HostPort, Finding> {
        let of_envoy = seen.envoy.as_ref().and_then(|envoy| envoy.discovery.clone());
        if let Some(known) = self.target.discovery.clone().or(of_envoy) {
            return Ok(known);
        }
        DEFAULT_DISCOVERY.parse().map_err(|error: super::PlaceError| {
            Finding::new(Code::NameNotFound, error.to_string(), "give --discovery-address")
        })
    }

    async fn along(&mut self, seen: &mut Seen) -> Result<(), Finding> {
        let discovery = self.discovery(seen)?;
        match discovery.address() {
            Some(address) => seen.addresses = vec![address],
            None => self.name(&discovery, seen).await?,
        }
        let stream = self.tcp(&discovery, &seen.addresses).await?;
        let address = stream.peer_addr().map_err(|error| {
            Finding::new(Code::AddressUnreachable, error.to_string(), "try again")
        })?;
        seen.reached = Some(address);
        let in_bootstrap = seen.envoy.as_ref().is_some_and(|envoy| envoy.tls);
        if self.target.tls.unwrap_or(in_bootstrap) {
            return self.tls(stream, address).await;
        }
        self.http2(stream, address).await?;
        let connection = self.grpc(address).await?;
        let stale = self.readiness(address).await?;
        self.ads(&connection, address, seen.envoy.as_ref()).await?;
        if let Some(envoy) = &seen.envoy {
            self.view(address, envoy).await?;
            self.acceptance(envoy)?;
            self.capture(envoy).await?;
        }
        match stale {
            Some(stale) => Err(stale),
            None => Ok(()),
        }
    }

    /// Notes how a link is.
    fn note(&mut self, name: &'static str, since: Instant, state: LinkState, said: String) {
        self.links.push(Link { name, state, said, took: since.elapsed() });
    }

    fn well(&mut self, name: &'static str, since: Instant, said: impl Into<String>) {
        self.note(name, since, LinkState::Well, said.into());
    }

    fn unknown(&mut self, name: &'static str, since: Instant, said: impl Into<String>) {
        self.note(name, since, LinkState::Unknown, said.into());
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
        self.note(name, since, state, said.into());
        finding
    }

    async fn envoy(&mut self, seen: &mut Seen) -> Result<(), Finding> {
        let Some(address) = self.target.admin else { return Ok(()) };
        let since = Instant::now();
        match admin::look(address, self.clock.step()?).await {
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

    /// resolv.conf, its name servers, and the name.
    async fn name(&mut self, discovery: &HostPort, seen: &mut Seen) -> Result<(), Finding> {
        let since = Instant::now();
        let hosts = std::fs::read_to_string(&self.target.hosts).unwrap_or_default();
        let found = hosts::lookup(&hosts, &discovery.host);
        if !found.is_empty() {
            let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
            let said = format!(
                "{} is {}, without a name server ({})",
                discovery.host,
                listed.join(", "),
                self.target.hosts.display()
            );
            self.well("name", since, said);
            seen.addresses = found;
            return Ok(());
        }
        let path = self.target.resolv_conf.display();
        let text = std::fs::read_to_string(&self.target.resolv_conf).unwrap_or_default();
        let conf = ResolvConf::parse(&text);
        if conf.servers.is_empty() {
            let finding = Finding::new(
                Code::ResolvConfUnreadable,
                format!("{path} cannot be read or names no name server"),
                "set the pod's dnsPolicy to ClusterFirst, or give it a dnsConfig",
            );
            return Err(self.broken("name server", since, path.to_string(), finding));
        }
        seen.servers.clone_from(&conf.servers);
        let with_port = |server: &IpAddr| SocketAddr::new(*server, self.target.dns_port);
        let servers: Vec<SocketAddr> = conf.servers.iter().map(with_port).collect();
        let names = conf.candidates(&discovery.host);
        let first = names.first().map_or(&*discovery.host, String::as_str);
        let replies = dns::ask_each(&servers, first, self.clock.step()?).await;
        let said: Vec<String> = replies
            .iter()
            .map(|(server, reply)| match reply {
                Ok(Reply::Error(code)) => format!("{}: {code}", server.ip()),
                Ok(_) => format!("{} answers", server.ip()),
                Err(trouble) => format!("{}: {trouble}", server.ip()),
            })
            .collect();
        let said = said.join("; ");
        let useful = replies
            .iter()
            .find(|(_, reply)| matches!(reply, Ok(Reply::Addresses(_) | Reply::NoSuchName)));
        let Some((server, _)) = useful else {
            let finding = mute(&replies, &self.target.resolv_conf.display().to_string());
            return Err(self.broken("name server", since, said, finding));
        };
        let server = *server;
        self.well("name server", since, said.clone());
        if replies.iter().any(|(_, reply)| reply.is_err()) {
            self.notes.push(format!(
                "not every name server of {path} answers, which makes lookups slow ({said})"
            ));
        }

        let since = Instant::now();
        let is_service = discovery.service().is_some();
        match dns::lookup(server, &conf, &discovery.host, is_service, self.clock.step()?).await {
            Lookup::Found { name, addresses } => {
                let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                self.well("name", since, format!("{name} is {}", listed.join(", ")));
                seen.addresses = addresses;
                Ok(())
            }
            Lookup::NotFound { asked, outside } => {
                let finding = no_such_name(discovery, server.ip(), &asked, outside.as_ref());
                let said = format!("{} does not exist", discovery.host);
                Err(self.broken("name", since, said, finding))
            }
            Lookup::Failed { name, why } => {
                let finding = Finding::new(
                    Code::NameServerFailed,
                    format!(
                        "name server {} answers, but could not answer for {name}: {why}",
                        server.ip()
                    ),
                    "look into its log (kubectl -n kube-system logs -l k8s-app=kube-dns): most \
                     often it cannot reach the API server, or the name server behind it",
                );
                Err(self.broken("name", since, format!("{name}: {why}"), finding))
            }
        }
    }

    async fn tcp(
        &mut self,
        discovery: &HostPort,
        addresses: &[IpAddr],
    ) -> Result<TcpStream, Finding> {
        let since = Instant::now();
        let limit = self.clock.step()?;
        let mut troubles = Vec::new();
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
                Err(trouble) => troubles.push((address, trouble)),
            }
        }
        let (said, finding) = no_connection(discovery, &troubles, limit);
        Err(self.broken("TCP", since, said, finding))
    }

    async fn tls(&mut self, stream: TcpStream, address: SocketAddr) -> Result<(), Finding> {
        let since = Instant::now();
        let limit = self.clock.step()?;
        // A plaintext port may answer in TLS too, to say that it has none: with an alert.
        if connect::speaks_tls(stream, address, limit).await
            && !connect::speaks_http2(address, limit).await
        {
            let finding = Finding::new(
                Code::TlsNotExamined,
                format!("{address} speaks TLS as it should; what is inside is not looked at"),
                "compare certificates by hand (openssl s_client -connect)",
            );
            return Err(self.broken("TLS", since, format!("{address} speaks TLS"), finding));
        }
        let finding = Finding::new(
            Code::TlsToPlaintext,
            format!("Envoy speaks TLS to {address}, which is plaintext"),
            "take transport_socket away from the control plane's cluster in Envoy's bootstrap, or \
             use the control plane's TLS port: 15010 is plaintext",
        );
        Err(self.broken("TLS", since, format!("{address} speaks no TLS"), finding))
    }

    async fn http2(&mut self, stream: TcpStream, address: SocketAddr) -> Result<(), Finding> {
        let since = Instant::now();
        let limit = self.clock.step()?;
        let speech = connect::speech(stream, address, limit).await;
        match misspeech(&speech, address, limit) {
            None => {
                self.well("HTTP/2", since, "SETTINGS received");
                Ok(())
            }
            Some((said, finding)) => Err(self.broken("HTTP/2", since, said, finding)),
        }
    }

    async fn grpc(&mut self, address: SocketAddr) -> Result<Connection, Finding> {
        let since = Instant::now();
        let limit = self.clock.step()?;
        let opened = async {
            let mut connection =
                Connection::open(address).await.map_err(|error| connect::chain(&*error))?;
            connection.speaks_grpc().await.map(|()| connection)
        };
        let said = match timeout(limit, opened).await {
            Ok(Ok(connection)) => {
                self.well("gRPC", since, "a gRPC server answers");
                return Ok(connection);
            }
            Ok(Err(said)) => said,
            Err(_) => {
                let (said, finding) = silent(address, "HTTP/2 begins, but no request", limit);
                return Err(self.broken("gRPC", since, said, finding));
            }
        };
        let finding = Finding::new(
            Code::NotGrpc,
            format!("{address} speaks HTTP/2 but not gRPC: it answers {said}"),
            "correct the discovery address: Pilot serves ADS on port 15010",
        );
        Err(self.broken("gRPC", since, said, finding))
    }

    /// The monitoring port. Its staleness is a fault to be told last: proxies are served all the
    /// same.
    async fn readiness(&mut self, address: SocketAddr) -> Result<Option<Finding>, Finding> {
        let since = Instant::now();
        let port = SocketAddr::new(address.ip(), pilot::MONITORING_PORT);
        let monitoring = self.target.monitoring.unwrap_or(port);
        match pilot::monitoring(monitoring, self.clock.aside()).await {
            Ok(Ok(ready)) => {
                self.well("Pilot", since, ready.summary());
                Ok(ready.stale())
            }
            Ok(Err(finding)) => Err(self.broken("Pilot", since, "not ready", finding)),
            Err(why) => {
                self.unknown("Pilot", since, format!("could not look: {why}"));
                Ok(None)
            }
        }
    }

    async fn ads(
        &mut self,
        connection: &Connection,
        address: SocketAddr,
        envoy: Option<&Envoy>,
    ) -> Result<(), Finding> {
        let since = Instant::now();
        let limit = self.clock.step()?;
        let nothing = serde_json::Value::Null;
        let of_envoy = envoy.map_or(&nothing, |envoy| &envoy.node);
        let id = self.target.node_id.as_deref().or_else(|| of_envoy["id"].as_str());
        let made_up =
            format!("sidecar~127.0.0.1~doctor.default~default.svc.{}", self.target.domain);
        let id = id.unwrap_or(&made_up);
        let node = ads::node(of_envoy, id, self.target.asker);
        match timeout(limit, ads::probe(connection, node)).await {
            Ok(Ok(ads::Served { clusters, listeners })) => {
                let said = format!("{clusters} clusters and {listeners} listeners for {id}");
                self.well("ADS", since, said);
                Ok(())
            }
            Ok(Err(status)) => {
                let said = format!("{:?}", status.code());
                Err(self.broken("ADS", since, said, ads::refusal(address, id, &status)))
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

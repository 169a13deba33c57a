//! The walk: link after link in the order in which a proxy needs them, up to the first that is
//! broken.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::admin::{self, Envoy};
use super::ads;
use super::clock::Clock;
use super::connect::{self, Connection, NoTcp, Speech};
use super::dns::{self, Lookup, Reply, Trouble};
use super::finding::{Code, Diagnosis, Finding, Link, LinkState};
use super::pilot;
use super::place::HostPort;
use super::resolv::ResolvConf;
use super::{DEFAULT_DISCOVERY, Target};

/// Ports of the control plane that are found by its address.
const MONITORING_PORT: u16 = 15014;
const DEBUG_PORT: u16 = 8080;

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
}

pub(super) async fn walk(target: &Target, clock: Clock) -> Diagnosis {
    let mut walk = Walk { target, clock, links: Vec::new(), notes: Vec::new() };
    let mut seen = Seen::default();
    // Each step has a limit; this one holds whatever those forgot.
    let walked = timeout(clock.left(), walk.along(&mut seen)).await;
    let broken = walked.unwrap_or_else(|_| Err(clock.out_of_time())).err();
    let finding = broken.unwrap_or_else(|| {
        Finding::new(Code::AllWell, "every link from Envoy to Pilot and back is sound", "")
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
    async fn along(&mut self, seen: &mut Seen) -> Result<(), Finding> {
        self.envoy(seen).await?;
        let of_envoy = seen.envoy.as_ref().and_then(|envoy| envoy.discovery.clone());
        let discovery = self.target.discovery.clone().or(of_envoy);
        let discovery = match discovery {
            Some(discovery) => discovery,
            None => DEFAULT_DISCOVERY.parse().map_err(|error: super::PlaceError| {
                Finding::new(Code::NameNotFound, error.to_string(), "")
            })?,
        };
        seen.discovery = Some(discovery.clone());
        match discovery.address() {
            Some(address) => seen.addresses = vec![address],
            None => self.name(&discovery, seen).await?,
        }
        let stream = self.tcp(&discovery, &seen.addresses).await?;
        let address = stream.peer_addr().map_err(|error| {
            Finding::new(Code::AddressUnreachable, error.to_string(), "try again")
        })?;
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
        match dns::lookup(server, &conf, &discovery.host, self.clock.step()?).await {
            Lookup::Found { name, addresses } => {
                let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                self.well("name", since, format!("{name} is {}", listed.join(", ")));
                seen.addresses = addresses;
                Ok(())
            }
            Lookup::NotFound { asked } => {
                let finding = no_such_name(discovery, server.ip(), &asked);
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
        if connect::speaks_tls(stream, address, limit).await {
            let finding = Finding::new(
                Code::TlsNotExamined,
                format!("{address} speaks TLS as it should; what is inside is not looked at"),
                "compare certificates by hand (openssl s_client -connect)",
            );
            return Err(self.broken("TLS", since, format!("{address} speaks TLS"), finding));
        }
        let finding = Finding::new(
            Code::TlsToPlaintext,
            format!("Envoy speaks TLS to {address}, which does not speak TLS"),
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
        let port = SocketAddr::new(address.ip(), MONITORING_PORT);
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
        let node = ads::node(of_envoy, id);
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

    /// How the control plane sees the proxy: a NACK is in its own words there.
    async fn view(&mut self, address: SocketAddr, envoy: &Envoy) -> Result<(), Finding> {
        let since = Instant::now();
        let debug = self.target.debug.unwrap_or(SocketAddr::new(address.ip(), DEBUG_PORT));
        let id = envoy.node["id"].as_str().unwrap_or_default();
        // On loopback unless it was opened: silence must not cost much.
        let limit = self.clock.aside().min(self.clock.limit() / 10);
        match pilot::sync(debug, id, limit).await {
            Ok(Some(pilot::Seen { errors })) => match errors.first() {
                None => self.well("Pilot's view", since, "no rejection by this proxy"),
                Some((kind, error)) => {
                    let finding = rejected(&format!("a {}", kind.to_lowercase()), error);
                    return Err(self.broken("Pilot's view", since, error.clone(), finding));
                }
            },
            Ok(None) => {
                self.unknown("Pilot's view", since, "not connected to this replica of Pilot");
            }
            Err(why) => self.unknown("Pilot's view", since, format!("could not look: {why}")),
        }
        Ok(())
    }

    /// What Envoy made of what it got.
    fn acceptance(&mut self, envoy: &Envoy) -> Result<(), Finding> {
        let since = Instant::now();
        match unaccepted(envoy) {
            None => {
                self.well("configuration", since, "accepted and in use");
                Ok(())
            }
            Some((said, finding)) => Err(self.broken("configuration", since, said, finding)),
        }
    }
}

/// No name server is of use.
fn mute(replies: &[(SocketAddr, Result<Reply, Trouble>)], path: &str) -> Finding {
    let of = |wanted: fn(&Result<Reply, Trouble>) -> bool| -> Vec<String> {
        let fitting = replies.iter().filter(|(_, reply)| wanted(reply));
        fitting.map(|(server, _)| server.ip().to_string()).collect()
    };
    let failed = replies.iter().find_map(|(server, reply)| match reply {
        Ok(Reply::Error(code)) => Some((server.ip(), *code)),
        _ => None,
    });
    if let Some((server, code)) = failed {
        return Finding::new(
            Code::NameServerFailed,
            format!("name server {server} of {path} answers every question with {code}"),
            "look into its log (kubectl -n kube-system logs -l k8s-app=kube-dns) and its \
             configuration",
        );
    }
    let refused = of(|reply| matches!(reply, Err(Trouble::Refused)));
    if !refused.is_empty() {
        return Finding::new(
            Code::NameServerRefused,
            format!(
                "name server {} of {path} is refused: nothing listens on its port",
                refused.join(", ")
            ),
            "see whether kube-dns has pods that are ready (kubectl -n kube-system get pods -l \
             k8s-app=kube-dns) and whether the address is its Service's",
        );
    }
    let unreachable =
        of(|reply| matches!(reply, Err(Trouble::Unreachable(_) | Trouble::Garbled(_))));
    if !unreachable.is_empty() {
        let why: Vec<String> = replies
            .iter()
            .filter_map(|(_, reply)| reply.as_ref().err())
            .map(ToString::to_string)
            .collect();
        return Finding::new(
            Code::NameServerUnreachable,
            format!("name server {} of {path}: {}", unreachable.join(", "), why.join("; ")),
            "see whether the address is that of the Service kube-dns (kubectl -n kube-system get \
             service kube-dns) and whether kube-proxy runs on this node",
        );
    }
    Finding::new(
        Code::NameServerSilent,
        format!(
            "name server {} of {path} does not answer",
            of(|reply| matches!(reply, Err(Trouble::Silent))).join(", ")
        ),
        "compare the address with the Service's (kubectl -n kube-system get service kube-dns); if \
         it is the same, look at kube-dns' pods, at kube-proxy and at NetworkPolicies",
    )
}

fn no_such_name(discovery: &HostPort, server: IpAddr, asked: &[String]) -> Finding {
    let place = match discovery.service() {
        Some((name, Some(namespace))) => {
            format!("there is no Service {name} in namespace {namespace}, as far as DNS knows")
        }
        _ => "no such name is known".to_owned(),
    };
    Finding::new(
        Code::NameNotFound,
        format!(
            "name server {server} says that {} does not exist (asked for {}): {place}",
            discovery.host,
            asked.join(", ")
        ),
        "install Pilot (kubectl apply -k manifests), or correct the discovery address: the name is \
         SERVICE.NAMESPACE (kubectl get services -A | grep pilot)",
    )
}

fn no_connection(
    discovery: &HostPort,
    troubles: &[(SocketAddr, NoTcp)],
    limit: Duration,
) -> (String, Finding) {
    let of = |wanted: fn(&NoTcp) -> bool| {
        troubles.iter().find(|(_, trouble)| wanted(trouble)).map(|(address, _)| *address)
    };
    let named = |address: SocketAddr| match discovery.address() {
        Some(_) => address.to_string(),
        None => format!("{address} ({})", discovery.host),
    };
    if let Some(address) = of(|trouble| matches!(trouble, NoTcp::Refused)) {
        let finding = Finding::new(
            Code::ConnectionRefused,
            format!("{} refuses the connection: nothing listens on that port", named(address)),
            "see whether Pilot's pods are ready (kubectl -n istio-system get pods -l istio=pilot) \
             and whether the port is its ADS port, 15010",
        );
        return (format!("{address}: connection refused"), finding);
    }
    let unreachable = troubles.iter().find_map(|(address, trouble)| match trouble {
        NoTcp::Unreachable(why) => Some((*address, why)),
        _ => None,
    });
    if let Some((address, why)) = unreachable {
        let finding = Finding::new(
            Code::AddressUnreachable,
            format!("nobody is at {}: {why}", named(address)),
            "correct the address, or the Service and the DNS entry that it comes from; if it is \
             right, see whether kube-proxy runs on this node",
        );
        return (format!("{address}: {why}"), finding);
    }
    let address = of(|trouble| matches!(trouble, NoTcp::Dropped));
    let address = address.map(named).unwrap_or_else(|| discovery.to_string());
    let finding = Finding::new(
        Code::PacketsDropped,
        format!("packets to {address} are dropped: nothing came back within {limit:?}"),
        "look for a NetworkPolicy or firewall between the pod and Pilot, and see whether the \
         address is still Pilot's",
    );
    (format!("{address}: nothing comes back"), finding)
}

fn silent(address: SocketAddr, seen: &str, limit: Duration) -> (String, Finding) {
    let finding = Finding::new(
        Code::PilotSilent,
        format!("Pilot hangs: {seen} is answered by {address} within {limit:?}"),
        "see whether its process is stopped or starved of CPU (kubectl -n istio-system top pods), \
         and restart it if it stays so",
    );
    ("no answer".to_owned(), finding)
}

fn misspeech(speech: &Speech, address: SocketAddr, limit: Duration) -> Option<(String, Finding)> {
    let (code, said, fix) = match speech {
        Speech::Http2 => return None,
        Speech::Nothing => {
            return Some(silent(address, "connections are taken, but nothing", limit));
        }
        Speech::Http1 => (
            Code::PortSpeaksHttp1,
            "HTTP/1, not HTTP/2".to_owned(),
            "correct the port of the discovery address: Pilot serves ADS on 15010 (8080 and 15014 \
             are its pages); a proxy in between must pass HTTP/2 on",
        ),
        Speech::Tls => (
            Code::PlaintextToTls,
            "TLS, and is spoken to in plaintext".to_owned(),
            "use the plaintext port (15010), or give the control plane's cluster in Envoy's \
             bootstrap a TLS transport_socket",
        ),
        Speech::Other(other) => (
            Code::PortSpeaksOther,
            format!("neither HTTP nor TLS: {other}"),
            "correct the discovery address: something else than Pilot listens there",
        ),
    };
    Some((said.clone(), Finding::new(code, format!("{address} speaks {said}"), fix)))
}

fn rejected(what: &str, details: &str) -> Finding {
    Finding::new(
        Code::ConfigRejected,
        format!("Envoy rejects {what} that Pilot sends: {}", details.trim()),
        "change what Envoy complains of (the Service it comes from, or what else takes the port or \
         name); Envoy goes on with what it had",
    )
}

/// What is wrong with an Envoy whose path to the control plane is sound.
fn unaccepted(envoy: &Envoy) -> Option<(String, Finding)> {
    if let Some(one) = envoy.rejections.first() {
        let what = format!("the {} {}", one.kind, one.name);
        return Some((format!("{what} is rejected"), rejected(&what, &one.details)));
    }
    for (kind, updates) in [("cluster", envoy.cds), ("listener", envoy.lds)] {
        if updates.rejected > 0 && updates.successful == 0 {
            let finding = rejected(
                &format!("every {kind} update"),
                "its log, and Pilot's /debug/syncz, have the reason",
            );
            return Some((format!("{kind}s are rejected"), finding));
        }
    }
    if !envoy.connected {
        let finding = Finding::new(
            Code::EnvoyNotConnected,
            "the path to Pilot is sound, but Envoy has no stream: it tries again with growing \
             pauses, or tries another address",
            "wait half a minute; if it stays so, compare the control plane's cluster in Envoy's \
             bootstrap with the discovery address, and look into Envoy's log",
        );
        return Some(("Envoy has no stream to Pilot".to_owned(), finding));
    }
    if !envoy.workers_started {
        let waits = match envoy.waits_for.as_slice() {
            [] if envoy.state == "PRE_INITIALIZING" => {
                "the first configuration of its clusters (state PRE_INITIALIZING)".to_owned()
            }
            [] => format!("something that it does not name (state {})", envoy.state),
            targets => targets.join(", "),
        };
        let finding = Finding::new(
            Code::WorkersNotStarted,
            format!("Envoy runs but serves nothing, because its start waits for {waits}"),
            "see to it that what it waits for is served: a source of configuration that its \
             bootstrap names must answer, or have an initial_fetch_timeout",
        );
        return Some((format!("waits for {waits}"), finding));
    }
    None
}

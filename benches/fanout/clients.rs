//! Simulated sidecars: subscribe as Envoys do, ACK everything, note when things arrive.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use pilothouse::names::ResourceType;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;

use crate::http2::{self, Reader, Response};
use crate::tls::{self, read_some};
use crate::{Arrival, Cold, Options, mesh, now, process, say};

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// What is being waited for.
const NOTHING: usize = 0;
const ENDPOINT: usize = 1;
const SERVICE: usize = 2;

/// Connections in the making at a time: more than the kernel's queue holds would be lost and tried
/// again after a second, which says nothing about the server.
const CONNECTING: usize = 1000;

/// The same over TLS: all come from one address here, of which the server has no more handshakes begun than 512.
const CONNECTING_TLS: usize = 400;

/// What all sidecars share.
struct Fleet {
    options: Options,
    awaited: AtomicUsize,
    bytes: AtomicUsize,
    messages: AtomicUsize,
    arrived: Mutex<Vec<f64>>,
    /// How many arrivals are waited for.
    target: AtomicUsize,
    more: Condvar,
    connecting: Semaphore,
    tls: Option<TlsConnector>,
    /// Names of all clusters, encoded as the subscription of both variants (field 3).
    names: Vec<u8>,
    stall: watch::Receiver<bool>,
    /// For the curve: every EDS response of every stream.
    recording: AtomicBool,
    recorded: Mutex<Vec<Arrival>>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    process::raise_files(options.streams)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stall, stalled) = watch::channel(false);
    let names = (0..options.services).map(mesh::cluster).collect();
    let fleet = Arc::new(Fleet {
        options: options.clone(),
        awaited: AtomicUsize::new(NOTHING),
        bytes: AtomicUsize::new(0),
        messages: AtomicUsize::new(0),
        arrived: Mutex::new(Vec::new()),
        target: AtomicUsize::new(options.streams),
        more: Condvar::new(),
        connecting: Semaphore::new(match options.certificates {
            Some(_) => CONNECTING_TLS,
            None => CONNECTING,
        }),
        tls: options.certificates.as_deref().map(tls::connector).transpose()?,
        names: DiscoveryRequest { resource_names: names, ..Default::default() }.encode_to_vec(),
        stall: stalled,
        recording: AtomicBool::new(false),
        recorded: Mutex::new(Vec::new()),
    });
    let begun = now();
    for number in 0..options.streams {
        let fleet = fleet.clone();
        runtime.spawn(async move {
            if let Err(problem) = sidecar(&fleet, number).await {
                eprintln!("sidecar {number}: {problem:#}");
                std::process::exit(1);
            }
        });
    }
    let at = fleet.wait();
    let took = at.iter().map(|at| (at - begun) * 1000.0).collect();
    let bytes = fleet.bytes.load(Ordering::Relaxed) as u64;
    say("cold", serde_json::to_string(&Cold { took, bytes })?);

    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "stall" => {
                stall.send_replace(true);
                fleet.target.store(options.streams - options.stalled, Ordering::SeqCst);
                say("stalled", "");
            }
            "settle" => {
                fleet.settle();
                say("settled", fleet.bytes.load(Ordering::Relaxed));
            }
            "record" => {
                fleet.recording.store(true, Ordering::SeqCst);
                say("recording", "");
            }
            "recorded" => {
                fleet.recording.store(false, Ordering::SeqCst);
                let all = fleet.recorded.lock().map(|mut all| std::mem::take(&mut *all));
                say("recorded", serde_json::to_string(&all.unwrap_or_default())?);
            }
            what => {
                let awaited = if what == "await service" { SERVICE } else { ENDPOINT };
                fleet.awaited.store(awaited, Ordering::SeqCst);
                say("awaiting", "");
                let at = fleet.wait();
                fleet.awaited.store(NOTHING, Ordering::SeqCst);
                say("arrived", serde_json::to_string(&at)?);
            }
        }
    }
    Ok(())
}

impl Fleet {
    fn arrive(&self) {
        if let Ok(mut arrived) = self.arrived.lock() {
            arrived.push(now());
            if arrived.len() == self.target.load(Ordering::Relaxed) {
                self.more.notify_all();
            }
        }
    }

    /// The times at which all that read have what is awaited.
    fn wait(&self) -> Vec<f64> {
        let Ok(mut arrived) = self.arrived.lock() else { return Vec::new() };
        while arrived.len() < self.target.load(Ordering::Relaxed) {
            match self.more.wait(arrived) {
                Ok(again) => arrived = again,
                Err(_) => return Vec::new(),
            }
        }
        std::mem::take(&mut arrived)
    }

    /// Returns once nothing has come for a while.
    fn settle(&self) {
        let mut before = usize::MAX;
        loop {
            let messages = self.messages.load(Ordering::Relaxed);
            if messages == before {
                return;
            }
            before = messages;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What one sidecar knows.
#[derive(Default)]
struct Sidecar {
    number: usize,
    delta: bool,
    got: [usize; 4],
    /// Of what is awaited.
    got_now: [bool; 4],
    eds_nonce: String,
    in_sync: bool,
    /// Clusters that came later.
    extra: usize,
}

async fn sidecar(fleet: &Fleet, number: usize) -> anyhow::Result<()> {
    let turn = fleet.connecting.acquire().await?;
    let socket = connect(fleet.options.port).await?;
    match &fleet.tls {
        Some(tls) => {
            let socket = tls.connect(tls::SERVER_NAME.try_into()?, socket).await?;
            drop(turn);
            converse(fleet, number, socket).await
        }
        None => {
            drop(turn);
            converse(fleet, number, socket).await
        }
    }
}

async fn converse(
    fleet: &Fleet,
    number: usize,
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let delta = fleet.options.delta;
    let mut stall = fleet.stall.clone();
    let mut one = Sidecar { number, delta, ..Sidecar::default() };
    let mut out = http2::opening(if delta { DELTA } else { SOTW });
    http2::message(&mut out, &[&first(number, delta)]);
    socket.write_all(&out).await?;
    socket.flush().await?;
    let mut reader = Reader::default();
    loop {
        let mut out = Vec::new();
        let receive = |bytes: &[u8]| {
            reader
                .receive(bytes, &mut out, |response, out| one.handle_response(fleet, response, out))
        };
        tokio::select! {
            read = read_some(&mut socket, receive) => read?.context("cut by the server")??,
            () = stalled(&mut stall), if number < fleet.options.stalled => {
                return std::future::pending().await;
            }
        }
        if !out.is_empty() && !fleet.options.mute {
            socket.write_all(&out).await?;
            socket.flush().await?;
        }
    }
}

async fn stalled(stall: &mut watch::Receiver<bool>) {
    // The guard must not outlive this function.
    let _ = stall.wait_for(|on| *on).await;
}

impl Sidecar {
    fn handle_response(
        &mut self,
        fleet: &Fleet,
        got: Response,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        use ResourceType::{Cluster, Endpoint, Listener, Route};
        fleet.bytes.fetch_add(got.bytes, Ordering::Relaxed);
        fleet.messages.fetch_add(1, Ordering::Relaxed);
        let of = got.of.context("a response without a type")?;
        if of == Endpoint && fleet.recording.load(Ordering::Relaxed) {
            let arrival = Arrival { stream: self.number, version: got.version, at: now() };
            fleet.recorded.lock().map(|mut all| all.push(arrival)).ok();
        }
        let again = self.got[of.index()] > 0;
        self.got[of.index()] += 1;
        let names: &[u8] = if of == Endpoint && !self.delta { &fleet.names } else { &[] };
        if of == Endpoint {
            self.eds_nonce.clone_from(&got.nonce);
        }
        let extra = self.extra_names(fleet, of);
        http2::message(out, &[names, &extra, &self.request(of, &got.nonce)]);
        match of {
            Cluster if !again => {
                http2::message(out, &[&fleet.names, &self.request(Endpoint, "")]);
                http2::message(out, &[&self.request(Listener, "")]);
            }
            Cluster => {
                self.extra += 1;
                if self.delta {
                    let name = mesh::cluster(fleet.options.services + self.extra - 1);
                    let name = field(3, name.as_bytes());
                    http2::message(out, &[&name, &self.request(Endpoint, "")]);
                } else {
                    let extra = self.extra_names(fleet, Endpoint);
                    let request = self.request(Endpoint, &self.eds_nonce);
                    http2::message(out, &[&fleet.names, &extra, &request]);
                }
            }
            Listener if !again => {
                let name = field(3, mesh::PORT.to_string().as_bytes());
                http2::message(out, &[&name, &self.request(Route, "")]);
            }
            _ => {}
        }
        self.arrive(fleet, of);
        Ok(())
    }

    fn arrive(&mut self, fleet: &Fleet, of: ResourceType) {
        if !self.in_sync {
            if self.got.iter().all(|count| *count > 0) {
                self.in_sync = true;
                fleet.arrive();
            }
            return;
        }
        match fleet.awaited.load(Ordering::SeqCst) {
            ENDPOINT if of == ResourceType::Endpoint => fleet.arrive(),
            SERVICE => {
                self.got_now[of.index()] = true;
                if self.got_now == [true, true, false, true] {
                    self.got_now = [false; 4];
                    fleet.arrive();
                }
            }
            _ => {}
        }
    }

    /// Names beside those of the start that a state-of-the-world request repeats.
    fn extra_names(&self, fleet: &Fleet, of: ResourceType) -> Vec<u8> {
        match of {
            ResourceType::Route if !self.delta => field(3, mesh::PORT.to_string().as_bytes()),
            ResourceType::Endpoint if !self.delta => {
                let later = (0..self.extra).map(|at| mesh::cluster(fleet.options.services + at));
                later.flat_map(|name| field(3, name.as_bytes())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A request without its names.
    fn request(&self, of: ResourceType, nonce: &str) -> Vec<u8> {
        let (type_url, response_nonce) = (of.type_url().to_owned(), nonce.to_owned());
        if self.delta {
            DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }.encode_to_vec()
        } else {
            DiscoveryRequest { type_url, response_nonce, ..Default::default() }.encode_to_vec()
        }
    }
}

fn first(number: usize, delta: bool) -> Vec<u8> {
    let id = format!(
        "sidecar~10.{}.{}.{}~pod-{number}.default~default.svc.cluster.local",
        number >> 16 & 255,
        number >> 8 & 255,
        number & 255
    );
    let node = Some(Node { id, cluster: "bench".to_owned(), ..Default::default() });
    let type_url = ResourceType::Cluster.type_url().to_owned();
    if delta {
        DeltaDiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec()
    } else {
        DiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec()
    }
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// The kernel's backlog may be full while thousands connect at once.
async fn connect(port: u16) -> anyhow::Result<TcpStream> {
    for _ in 0..200 {
        if let Ok(socket) = TcpStream::connect(("127.0.0.1", port)).await {
            socket.set_nodelay(true)?;
            return Ok(socket);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("cannot connect to port {port}")
}

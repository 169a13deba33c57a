//! Simulated sidecars: subscribe as Envoys do, ACK everything, note when things arrive.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use pilothouse::names::ResourceType;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;

use crate::http2::{self, Reader, Response};
use crate::tls::{self, read_some};
use crate::{Arrival, Cold, Options, Shape, now, process, say};

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// What is being waited for.
const NOTHING: usize = 0;
const ENDPOINT: usize = 1;
const SERVICE: usize = 2;

/// Connections in the making at a time over TLS: all come from one address here, of which the server has no more handshakes begun than 512.
const CONNECTING_TLS: usize = 400;

/// Envoy's pauses before it connects again, of which it takes a random part.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What all sidecars share.
struct Fleet {
    options: Options,
    shape: Shape,
    awaited: AtomicUsize,
    bytes: AtomicUsize,
    messages: AtomicUsize,
    resets: AtomicUsize,
    /// All were in sync once; and each of them.
    in_sync: AtomicBool,
    came: Vec<AtomicBool>,
    arrived: Mutex<Vec<f64>>,
    /// How many arrivals are waited for.
    target: AtomicUsize,
    more: Condvar,
    connecting: Semaphore,
    tls: Option<TlsConnector>,
    /// Names of the clusters that all see, and of the route tables, encoded as the subscription of both
    /// variants (field 3).
    names: Vec<u8>,
    tables: Vec<u8>,
    stall: watch::Receiver<bool>,
    /// For the curve: every EDS response of every stream.
    recording: AtomicBool,
    recorded: Mutex<Vec<Arrival>>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    process::raise_files(options.streams)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stall, stalled) = watch::channel(false);
    let shape = Shape::new(options);
    let public = if options.on_demand { Vec::new() } else { shape.public_clusters() };
    let (names, tables) = (fields(&public), fields(&shape.tables()));
    let fleet = Arc::new(Fleet {
        options: options.clone(),
        awaited: AtomicUsize::new(NOTHING),
        bytes: AtomicUsize::new(0),
        messages: AtomicUsize::new(0),
        resets: AtomicUsize::new(0),
        in_sync: AtomicBool::new(false),
        came: (0..options.streams).map(|_| AtomicBool::new(false)).collect(),
        shape,
        arrived: Mutex::new(Vec::new()),
        target: AtomicUsize::new(options.streams),
        more: Condvar::new(),
        connecting: Semaphore::new(match options.certificates {
            Some(_) => CONNECTING_TLS,
            None => options.connecting,
        }),
        tls: options.certificates.as_deref().map(tls::connector).transpose()?,
        names,
        tables,
        stall: stalled,
        recording: AtomicBool::new(false),
        recorded: Mutex::new(Vec::new()),
    });
    let begun = now();
    for number in 0..options.streams {
        let fleet = fleet.clone();
        runtime.spawn(async move {
            let mut pause = FIRST_PAUSE;
            while let Err(problem) = sidecar(&fleet, number).await {
                // As an Envoy: it tries again. Later, a connection that is cut is an error of the run.
                let io = problem.downcast_ref::<io::Error>().map(io::Error::kind);
                let is_reset = io == Some(io::ErrorKind::ConnectionReset);
                let may_be_cut = fleet.options.peer_memory > 0;
                if fleet.in_sync.load(Ordering::SeqCst) || !is_reset && !may_be_cut {
                    eprintln!("sidecar {number}: {problem:#}");
                    std::process::exit(1);
                }
                let resets = fleet.resets.fetch_add(1, Ordering::Relaxed);
                if !is_reset {
                    let part = xxhash_rust::xxh3::xxh3_64(&resets.to_le_bytes()) % 1000;
                    tokio::time::sleep(pause.mul_f64(part as f64 / 1000.0)).await;
                    pause = MAX_PAUSE.min(2 * pause);
                }
            }
        });
    }
    let at = fleet.wait();
    fleet.in_sync.store(true, Ordering::SeqCst);
    if options.on_demand {
        fleet.target.store(options.users, Ordering::SeqCst);
    }
    let took = at.iter().map(|at| (at - begun) * 1000.0).collect();
    let bytes = fleet.bytes.load(Ordering::Relaxed) as u64;
    let resets = fleet.resets.load(Ordering::Relaxed);
    say("cold", serde_json::to_string(&Cold { took, bytes, resets })?);

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
    /// Names of the clusters that others do not see, encoded.
    own_names: Vec<u8>,
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
    let own_names = match fleet.options.on_demand {
        true => fields(&fleet.shape.used_clusters(number)),
        false => fields(&fleet.shape.own_clusters(number)),
    };
    let mut one = Sidecar { number, delta, own_names, ..Sidecar::default() };
    let mut out = http2::opening(if delta { DELTA } else { SOTW });
    // On demand, the wildcard and what it does not cover.
    let named = match fleet.options.on_demand {
        true => [fields(&["*".to_owned()]), one.own_names.clone()].concat(),
        false => Vec::new(),
    };
    http2::message(&mut out, &[&named, &first(fleet, number)]);
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
        let [names, own] = match of == Endpoint && !self.delta {
            true => [&*fleet.names, &*self.own_names],
            false => [&[][..]; 2],
        };
        if of == Endpoint {
            self.eds_nonce.clone_from(&got.nonce);
        }
        let extra = self.extra_names(fleet, of);
        http2::message(out, &[names, own, &extra, &self.request(of, &got.nonce)]);
        match of {
            Cluster if !again => {
                let request = self.request(Endpoint, "");
                http2::message(out, &[&fleet.names, &self.own_names, &request]);
                http2::message(out, &[&self.request(Listener, "")]);
            }
            Cluster => {
                self.extra += 1;
                if self.delta {
                    let added = fleet.options.services + self.extra - 1;
                    let names = fields(&fleet.shape.clusters(added));
                    http2::message(out, &[&names, &self.request(Endpoint, "")]);
                } else {
                    let extra = self.extra_names(fleet, Endpoint);
                    let request = self.request(Endpoint, &self.eds_nonce);
                    http2::message(out, &[&fleet.names, &self.own_names, &extra, &request]);
                }
            }
            Listener if !again && !fleet.tables.is_empty() => {
                http2::message(out, &[&fleet.tables, &self.request(Route, "")]);
            }
            _ => {}
        }
        self.arrive(fleet, of);
        Ok(())
    }

    fn arrive(&mut self, fleet: &Fleet, of: ResourceType) {
        if !self.in_sync {
            // Without tables there is nothing of the last type, the routes.
            let wanted = if fleet.tables.is_empty() { 3 } else { 4 };
            if self.got.iter().take(wanted).all(|count| *count > 0) {
                self.in_sync = true;
                if !fleet.came[self.number].swap(true, Ordering::SeqCst) {
                    fleet.arrive();
                }
            }
            return;
        }
        match fleet.awaited.load(Ordering::SeqCst) {
            ENDPOINT if of == ResourceType::Endpoint => fleet.arrive(),
            SERVICE => {
                self.got_now[of.index()] = true;
                if self.got_now[0]
                    && self.got_now[1]
                    && (self.got_now[3] || fleet.tables.is_empty())
                {
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
            ResourceType::Route if !self.delta => fleet.tables.clone(),
            ResourceType::Endpoint if !self.delta => {
                let later = (0..self.extra).map(|at| fleet.options.services + at);
                later.flat_map(|added| fields(&fleet.shape.clusters(added))).collect()
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

fn first(fleet: &Fleet, number: usize) -> Vec<u8> {
    let node = Some(fleet.shape.node(number));
    let type_url = ResourceType::Cluster.type_url().to_owned();
    if fleet.options.delta {
        DeltaDiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec()
    } else {
        DiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec()
    }
}

/// Names as a request repeats them: field 3 in both variants.
fn fields(names: &[String]) -> Vec<u8> {
    let resource_names = names.to_vec();
    DiscoveryRequest { resource_names, ..Default::default() }.encode_to_vec()
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

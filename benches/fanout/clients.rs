//! Simulated sidecars: subscribe as Envoys do, ACK everything, note when things arrive.

use std::io::BufRead;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use anyhow::{Context, bail};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use pilothouse::names::ResourceType;
use prost::Message;
use prost::encoding::{decode_key, decode_varint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::http2::{self, Event, Reader};
use crate::{Cold, Options, mesh, now, say};

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// What is being waited for.
const NOTHING: usize = 0;
const ENDPOINT: usize = 1;
const SERVICE: usize = 2;

/// What all sidecars share.
struct Fleet {
    options: Options,
    port: u16,
    awaited: AtomicUsize,
    bytes: AtomicUsize,
    arrived: Mutex<Vec<f64>>,
    more: Condvar,
    /// Names of all clusters, encoded as the subscription of both variants (field 3).
    names: Bytes,
    stall: watch::Receiver<bool>,
}

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stall, stalled) = watch::channel(false);
    let names = (0..options.services).map(mesh::cluster).collect();
    let names = DiscoveryRequest { resource_names: names, ..Default::default() };
    let fleet = Arc::new(Fleet {
        options: options.clone(),
        port: options.port,
        awaited: AtomicUsize::new(NOTHING),
        bytes: AtomicUsize::new(0),
        arrived: Mutex::new(Vec::new()),
        more: Condvar::new(),
        names: names.encode_to_vec().into(),
        stall: stalled,
    });
    let begun = now();
    for number in 0..options.streams {
        let fleet = fleet.clone();
        runtime.spawn(async move {
            let run = if fleet.options.raw {
                raw(&fleet, number).await
            } else {
                sidecar(&fleet, number).await
            };
            if let Err(problem) = run {
                eprintln!("sidecar {number}: {problem:#}");
                std::process::exit(1);
            }
        });
    }
    let at = fleet.wait(options.streams);
    let last = at.iter().copied().fold(0.0, f64::max);
    let bytes = fleet.bytes.load(Ordering::Relaxed) as u64;
    say("cold", serde_json::to_string(&Cold { ms: (last - begun) * 1000.0, bytes })?);

    let mut reading = options.streams;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "stall" => {
                stall.send_replace(true);
                reading = options.streams - options.stalled;
                say("stalled", "");
            }
            what => {
                let awaited = if what == "await service" { SERVICE } else { ENDPOINT };
                fleet.awaited.store(awaited, Ordering::SeqCst);
                say("awaiting", "");
                let at = fleet.wait(reading);
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
        }
        self.more.notify_all();
    }

    /// The times of the next `count` arrivals.
    fn wait(&self, count: usize) -> Vec<f64> {
        let Ok(mut arrived) = self.arrived.lock() else { return Vec::new() };
        while arrived.len() < count {
            match self.more.wait(arrived) {
                Ok(again) => arrived = again,
                Err(_) => return Vec::new(),
            }
        }
        std::mem::take(&mut arrived)
    }
}

/// Reads length-prefixed messages: four of them are the start, each further one a change.
async fn raw(fleet: &Fleet, number: usize) -> anyhow::Result<()> {
    let mut socket = connect(fleet.port).await?;
    let mut stall = fleet.stall.clone();
    let mut messages = 0;
    let mut content = Vec::new();
    loop {
        let mut len = [0; 4];
        tokio::select! {
            read = socket.read_exact(&mut len) => { read?; }
            () = stalled(&mut stall), if number < fleet.options.stalled => {
                return std::future::pending().await;
            }
        }
        content.resize(u32::from_be_bytes(len) as usize, 0);
        socket.read_exact(&mut content).await?;
        messages += 1;
        fleet.bytes.fetch_add(content.len(), Ordering::Relaxed);
        if messages >= 4 {
            fleet.arrive();
        }
    }
}

async fn stalled(stall: &mut watch::Receiver<bool>) {
    // The guard must not outlive this function.
    let _ = stall.wait_for(|on| *on).await;
}

/// What one sidecar knows.
#[derive(Default)]
struct Sidecar {
    delta: bool,
    /// Responses of each type, and since something is awaited.
    got: [usize; 4],
    got_now: [bool; 4],
    eds_nonce: Bytes,
    in_sync: bool,
    extra: usize,
}

async fn sidecar(fleet: &Fleet, number: usize) -> anyhow::Result<()> {
    let delta = fleet.options.delta;
    let mut socket = connect(fleet.port).await?;
    let mut stall = fleet.stall.clone();
    let mut one = Sidecar { delta, ..Sidecar::default() };
    let mut out = http2::opening(if delta { DELTA } else { SOTW });
    http2::message(&mut out, &[&first(number, delta)]);
    let mut reader = Reader::default();
    loop {
        if !out.is_empty() {
            socket.write_all(&out).await?;
            out.clear();
        }
        reader.raw.reserve(64 << 10);
        tokio::select! {
            read = socket.read_buf(&mut reader.raw) => {
                if read? == 0 {
                    bail!("cut by the server");
                }
            }
            () = stalled(&mut stall), if number < fleet.options.stalled => {
                return std::future::pending().await;
            }
        }
        while let Some(event) = reader.next() {
            match event {
                Event::Message(message) => one.take(fleet, message, &mut out)?,
                Event::Reply(reply) => out.extend_from_slice(&reply),
                Event::Ended(why) => bail!(why),
            }
        }
    }
}

impl Sidecar {
    fn take(&mut self, fleet: &Fleet, message: Bytes, out: &mut Vec<u8>) -> anyhow::Result<()> {
        use ResourceType::{Cluster, Endpoint, Listener, Route};
        fleet.bytes.fetch_add(message.len(), Ordering::Relaxed);
        let (of, nonce) = head(message)?;
        let again = self.got[of.index()] > 0;
        self.got[of.index()] += 1;
        let names: &[u8] = if of == Endpoint && !self.delta { &fleet.names } else { &[] };
        if of == Endpoint {
            self.eds_nonce = nonce.clone();
        }
        let extra = self.extra_names(fleet, of);
        http2::message(out, &[names, &extra, &self.request(of, &nonce)]);
        match of {
            Cluster if !again => {
                http2::message(out, &[&fleet.names, &self.request(Endpoint, b"")]);
                http2::message(out, &[&self.request(Listener, b"")]);
            }
            Cluster => {
                self.extra += 1;
                let extra = self.extra_names(fleet, Endpoint);
                let names: &[u8] = if self.delta { &[] } else { &fleet.names };
                let nonce = if self.delta { Bytes::new() } else { self.eds_nonce.clone() };
                http2::message(out, &[names, &extra, &self.request(Endpoint, &nonce)]);
            }
            Listener if !again => {
                let mut request = self.request(Route, b"");
                request.extend_from_slice(&field(3, mesh::PORT.to_string().as_bytes()));
                http2::message(out, &[&request]);
            }
            _ => {}
        }

        let awaited = fleet.awaited.load(Ordering::SeqCst);
        if !self.in_sync {
            if self.got.iter().all(|count| *count > 0) {
                self.in_sync = true;
                fleet.arrive();
            }
        } else if awaited == ENDPOINT && of == Endpoint {
            fleet.arrive();
        } else if awaited == SERVICE {
            self.got_now[of.index()] = true;
            if self.got_now == [true, true, false, true] {
                self.got_now = [false; 4];
                fleet.arrive();
            }
        }
        Ok(())
    }

    /// Clusters that came later, as names of an EDS request.
    fn extra_names(&self, fleet: &Fleet, of: ResourceType) -> Vec<u8> {
        if of != ResourceType::Endpoint || (self.delta && self.extra == 0) {
            // RDS repeats its one name in SotW.
            let rds = of == ResourceType::Route && !self.delta;
            return if rds { field(3, mesh::PORT.to_string().as_bytes()) } else { Vec::new() };
        }
        let later = (0..self.extra).map(|at| mesh::cluster(fleet.options.services + at));
        later.flat_map(|name| field(3, name.as_bytes())).collect()
    }

    /// Type and nonce, in the variant's field numbers.
    fn request(&self, of: ResourceType, nonce: &[u8]) -> Vec<u8> {
        let (type_field, nonce_field) = if self.delta { (2, 6) } else { (4, 5) };
        let mut out = field(type_field, of.type_url().as_bytes());
        if !nonce.is_empty() {
            out.extend_from_slice(&field(nonce_field, nonce));
        }
        out
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

/// Type and nonce of a response: fields 4 and 5 in both variants.
fn head(mut message: Bytes) -> anyhow::Result<(ResourceType, Bytes)> {
    let (mut of, mut nonce) = (None, Bytes::new());
    while !message.is_empty() {
        let (number, _) = decode_key(&mut message)?;
        let len = decode_varint(&mut message)? as usize;
        let content = message.split_to(len);
        match number {
            4 => of = ResourceType::from_type_url(std::str::from_utf8(&content)?),
            5 => nonce = content,
            _ => {}
        }
    }
    Ok((of.context("a response without a type")?, nonce))
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
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bail!("cannot connect to port {port}")
}

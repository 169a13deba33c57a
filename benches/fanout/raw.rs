//! The limit: one task a socket, writing bytes that all share. No decisions: the messages are those
//! that the real server sends, framed before anybody connects, and what clients say is read and
//! thrown away.

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use pilothouse::model::{Change, Dirty, Model, Scope};
use pilothouse::names::ResourceType;
use pilothouse::publish::SnapshotBuilder;
use pilothouse_xds::FrameBuilder;
use pilothouse_xds::{Resource, TypeSet, View};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use crate::tls::{self, read_some};
use crate::{Options, Shape, bare, http2, now, process, say};

/// How the messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By itself, in frames that are made before anybody connects.
    Hand,
    /// By hyper (`bare`).
    Hyper,
}

impl By {
    fn framed(self, messages: &[u8]) -> Bytes {
        match self {
            Self::Hand => {
                let mut out = Vec::new();
                http2::data(&mut out, messages);
                out.into()
            }
            Self::Hyper => Bytes::copy_from_slice(messages),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: S,
        start: Bytes,
        changes: broadcast::Receiver<Bytes>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Hand => Ok(serve(socket, start, changes).await?),
            Self::Hyper => bare::serve(socket, start, changes).await,
        }
    }
}

pub(crate) fn main(options: &Options, by: By) -> anyhow::Result<()> {
    process::raise_files(options.streams)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut mesh = Mesh::new(options);
    let mut start = Vec::new();
    for of in ResourceType::IN_ORDER {
        let set = mesh.view().set(of).clone();
        let all: Vec<&Resource> =
            set.iter().map(|one| &**one).filter(|one| mesh.wants(of, one)).collect();
        start.extend(mesh.message(of, &all));
    }
    let start = by.framed(&start);
    let first = mesh.view().set(ResourceType::Endpoint).clone();
    let first: Vec<&Resource> =
        first.get(&mesh.changed_cluster()).into_iter().map(|one| &**one).collect();
    let change = by.framed(&mesh.message(ResourceType::Endpoint, &first));

    let (send, _) = broadcast::channel::<Bytes>(64);
    let sender = send.clone();
    let (listening, port) = runtime.block_on(async {
        let listener = process::listen()?;
        let port = listener.local_addr()?.port();
        anyhow::Ok((listener, port))
    })?;
    let acceptor = options.certificates.as_deref().map(tls::acceptor).transpose()?;
    runtime.spawn(async move {
        while let Ok((socket, _)) = listening.accept().await {
            let (start, changes) = (start.clone(), sender.subscribe());
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                match acceptor {
                    Some(tls) => by.serve(tls.accept(socket).await?, start, changes).await,
                    None => by.serve::<TcpStream>(socket, start, changes).await,
                }
            });
        }
    });
    say("port", port);
    for line in io::stdin().lock().lines() {
        let bytes = if line?.starts_with("service") {
            by.framed(&mesh.add_service())
        } else {
            change.clone()
        };
        say("begun", now());
        send.send(bytes)?;
    }
    Ok(())
}

async fn serve(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    start: Bytes,
    mut changes: broadcast::Receiver<Bytes>,
) -> io::Result<()> {
    socket.write_all(&http2::greeting()).await?;
    if !write_reading(&mut socket, &start).await? {
        return Ok(());
    }
    drop(start);
    loop {
        tokio::select! {
            message = changes.recv() => {
                let Ok(message) = message else { return Ok(()) };
                socket.write_all(&message).await?;
                socket.flush().await?;
            }
            read = read_some(&mut socket, |_| ()) => if read?.is_none() {
                return Ok(());
            }
        }
    }
}

/// Writes while it reads: the names of 10,000 clusters are more than a socket's buffer, so a client that says them
/// would wait for this to be read, and this for the client. False if the client has ended.
async fn write_reading(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<bool> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut write = pin!(async {
        writer.write_all(bytes).await?;
        // Over TLS what is written may still be in the session.
        writer.flush().await
    });
    loop {
        tokio::select! {
            written = &mut write => return written.map(|()| true),
            read = read_some(&mut reader, |_| ()) => if read?.is_none() {
                return Ok(false);
            }
        }
    }
}

/// The mesh as the real builder makes it, and the messages that tell of it.
pub(crate) struct Mesh {
    model: Model,
    builder: SnapshotBuilder,
    view: Arc<View>,
    frames: FrameBuilder,
    delta: bool,
    shape: Shape,
    services: usize,
}

impl Mesh {
    pub(crate) fn new(options: &Options) -> Self {
        let mut mesh = Self {
            model: Model::default(),
            builder: SnapshotBuilder::new("cluster.local"),
            view: Arc::new(View::new(ResourceType::IN_ORDER.map(|_| Arc::default()))),
            frames: FrameBuilder::new("bench"),
            delta: options.delta,
            shape: Shape::new(options),
            services: options.services,
        };
        let shape = mesh.shape.clone();
        let services = (0..options.services).map(|at| Arc::new(shape.service(at))).collect();
        let slices = (0..options.services).map(|at| Arc::new(shape.slice(at, 0))).collect();
        mesh.apply([Change::Services(Scope::All, services), Change::Slices(Scope::All, slices)]);
        mesh
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut dirty = Dirty::default();
        for change in changes {
            self.model.apply(change, &mut dirty);
        }
        self.builder.update(&self.model, &dirty);
        let key = self.shape.view(0);
        let snapshot = self.builder.snapshot(&BTreeSet::from([key.clone()]));
        self.view = snapshot.views[&key].clone();
    }

    /// A sidecar asks for these route tables only.
    fn wants(&self, of: ResourceType, resource: &Resource) -> bool {
        of != ResourceType::Route
            || self.shape.tables().iter().any(|table| **table == *resource.name)
    }

    /// A cluster that all sidecars have.
    pub(crate) fn changed_cluster(&self) -> String {
        self.shape.clusters(self.shape.public(0)).swap_remove(0)
    }

    /// What the first sidecar gets, and all with it: they differ in few bytes.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// One service more; what differs by it.
    pub(crate) fn add(&mut self) -> Vec<(ResourceType, Vec<Arc<Resource>>)> {
        let before = self.view.clone();
        let number = self.services;
        self.services += 1;
        self.apply([
            Change::Service(self.shape.service(number)),
            Change::Slice(self.shape.slice(number, 0)),
        ]);
        let told = |of: ResourceType| {
            let set: &TypeSet = self.view.set(of);
            let all = of.is_full_state() && !self.delta;
            let diff = before.set(of).diff(set);
            let told: Vec<_> = if all { set.iter().cloned().collect() } else { diff.changed };
            (of, told.into_iter().filter(|one| self.wants(of, one)).collect())
        };
        use ResourceType::{Cluster, Endpoint, Route};
        [Cluster, Endpoint, Route].map(told).into()
    }

    fn add_service(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for (of, told) in self.add() {
            let told: Vec<&Resource> = told.iter().map(|one| &**one).collect();
            out.extend(self.message(of, &told));
        }
        out
    }

    /// A gRPC message as the real server makes it.
    fn message(&self, of: ResourceType, all: &[&Resource]) -> Vec<u8> {
        let version = pilothouse_xds::Version::default();
        let frame = if self.delta {
            self.frames.delta(of.type_url(), version, all, &[])
        } else {
            self.frames.sotw(of.type_url(), version, all)
        };
        frame.to_bytes(1)
    }
}

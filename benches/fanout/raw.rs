//! The limit: one task a socket, writing bytes that all share. No decisions: the messages are those
//! that the real server sends, framed before anybody connects, and what clients say is read and
//! thrown away.

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::sync::Arc;

use bytes::Bytes;
use pilothouse::model::{Change, Model, Scope};
use pilothouse::names::ResourceType;
use pilothouse::publish::SnapshotBuilder;
use pilothouse::view::ViewKey;
use pilothouse_xds::FrameBuilder;
use pilothouse_xds::{Resource, TypeSet, View};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use crate::tls::{self, read_some};
use crate::{Options, bare, http2, mesh, now, process, say};

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
            set.iter().map(|one| &**one).filter(|one| wanted(of, one)).collect();
        start.extend(mesh.message(of, &all));
    }
    let start = by.framed(&start);
    let first = mesh.view().set(ResourceType::Endpoint).clone();
    let first: Vec<&Resource> =
        first.get(&mesh::cluster(0)).into_iter().map(|one| &**one).collect();
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
    socket.write_all(&start).await?;
    // Over TLS what is written may still be in the session.
    socket.flush().await?;
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

/// The mesh as the real builder makes it, and the messages that tell of it.
pub(crate) struct Mesh {
    model: Model,
    builder: SnapshotBuilder,
    view: Arc<View>,
    frames: FrameBuilder,
    delta: bool,
    services: usize,
    endpoints: usize,
}

impl Mesh {
    pub(crate) fn new(options: &Options) -> Self {
        let mut mesh = Self {
            model: Model::default(),
            builder: SnapshotBuilder::new("cluster.local"),
            view: Arc::new(View::new(ResourceType::IN_ORDER.map(|_| Arc::default()))),
            frames: FrameBuilder::new("bench"),
            delta: options.delta,
            services: options.services,
            endpoints: options.endpoints,
        };
        let services = (0..options.services).map(mesh::service).map(Arc::new).collect();
        let slices = (0..options.services).map(|at| mesh::slice(at, options.endpoints, 0));
        let slices = slices.map(Arc::new).collect();
        mesh.apply([Change::Services(Scope::All, services), Change::Slices(Scope::All, slices)]);
        mesh
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut dirty = BTreeSet::new();
        for change in changes {
            self.model.apply(change, &mut dirty);
        }
        self.builder.update(&self.model, &dirty);
        let key: ViewKey = mesh::view();
        let snapshot = self.builder.snapshot(&BTreeSet::from([key.clone()]));
        self.view = snapshot.views[&key].clone();
    }

    /// What the sidecars get.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// One service more; what differs by it.
    pub(crate) fn add(&mut self) -> Vec<(ResourceType, Vec<Arc<Resource>>)> {
        let before = self.view.clone();
        let number = self.services;
        self.services += 1;
        self.apply([
            Change::Service(mesh::service(number)),
            Change::Slice(mesh::slice(number, self.endpoints, 0)),
        ]);
        let told = |of: ResourceType| {
            let set: &TypeSet = self.view.set(of);
            let all = of.is_full_state() && !self.delta;
            let diff = before.set(of).diff(set);
            let told: Vec<_> = if all { set.iter().cloned().collect() } else { diff.changed };
            (of, told.into_iter().filter(|one| wanted(of, one)).collect())
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

/// A sidecar asks for one route table only.
fn wanted(of: ResourceType, resource: &Resource) -> bool {
    of != ResourceType::Route || *resource.name == *mesh::PORT.to_string()
}

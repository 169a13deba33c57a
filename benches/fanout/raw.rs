//! The limit: one task a socket, writing bytes that all share. No protocol, no ACKs, no decisions;
//! the messages are those that the real server sends.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::sync::Arc;

use bytes::Bytes;
use pilothouse::model::{Change, Model, Scope};
use pilothouse::names::ResourceType;
use pilothouse::publish::Builder;
use pilothouse::snapshot::encode::{Frame, FrameBuilder};
use pilothouse::snapshot::{Resource, View};
use pilothouse::view::{ProxyKind, ViewKey};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

use crate::{Options, mesh, now, say};

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let view = view(options);
    let frames = FrameBuilder::new("bench");
    let messages: Vec<Bytes> = ResourceType::IN_ORDER
        .into_iter()
        .map(|of| {
            let mut all: Vec<&Resource> = view.set(of).iter().map(|one| &**one).collect();
            // A sidecar asks for the clusters that have endpoints, and one route table.
            if of == ResourceType::Route {
                all.retain(|one| *one.name == *mesh::PORT.to_string());
            }
            message(&encode(&frames, options.delta, of, &all))
        })
        .collect();
    let first = mesh::cluster(0);
    let changed = view.set(ResourceType::Endpoint).get(&first);
    let changed: Vec<&Resource> = changed.into_iter().map(|one| &**one).collect();
    let change = message(&encode(&frames, options.delta, ResourceType::Endpoint, &changed));

    let (send, _) = broadcast::channel::<Bytes>(64);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port();
    let (messages, sender) = (Arc::new(messages), send.clone());
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(write(socket, messages.clone(), sender.subscribe()));
        }
    });
    say("port", port);
    for line in std::io::stdin().lock().lines() {
        line?;
        say("begun", now());
        send.send(change.clone())?;
    }
    Ok(())
}

async fn write(
    mut socket: TcpStream,
    start: Arc<Vec<Bytes>>,
    mut changes: broadcast::Receiver<Bytes>,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    for message in start.iter() {
        socket.write_all(message).await?;
    }
    while let Ok(message) = changes.recv().await {
        socket.write_all(&message).await?;
    }
    Ok(())
}

/// The sidecars' view of the mesh.
pub(crate) fn view(options: &Options) -> Arc<View> {
    let mut model = Model::default();
    let mut dirty = BTreeSet::new();
    let services = (0..options.services).map(mesh::service).collect();
    let slices = (0..options.services).map(|at| mesh::slice(at, options.endpoints, 0)).collect();
    model.apply(Change::Services(Scope::All, services), &mut dirty);
    model.apply(Change::Slices(Scope::All, slices), &mut dirty);
    let mut builder = Builder::new("cluster.local");
    builder.update(&model, &dirty);
    let key = ViewKey::new(ProxyKind::Sidecar, Some("default"));
    let snapshot = builder.snapshot(&BTreeSet::from([key.clone()]));
    snapshot.views[&key].clone()
}

fn encode(frames: &FrameBuilder, delta: bool, of: ResourceType, all: &[&Resource]) -> Frame {
    let version = pilothouse::snapshot::Version::default();
    if delta {
        frames.delta(of.type_url(), version, all, &[])
    } else {
        frames.sotw(of.type_url(), version, all)
    }
}

/// Length and content; the content is as long as a frame with its tail.
fn message(frame: &Frame) -> Bytes {
    let mut out = Vec::with_capacity(frame.len() + 4);
    out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    out.extend_from_slice(&frame.head);
    out.extend_from_slice(&Frame::tail(1));
    out.into()
}

//! What the stand-in has stored, and what it was told to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::events::Events;
use super::{Cut, HTTP_ROUTES, SERVICES, SLICES, Streaming};

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) version: u64,
    pub(crate) objects: BTreeMap<(&'static str, String), Value>,
    /// In the order of their versions.
    history: Vec<Event>,
    /// Watches cannot resume, nor lists go on, from before this version.
    pub(crate) floor: u64,
    /// Answered to every request of the kind (or of any).
    pub(crate) refused: Option<(Option<&'static str>, u16)>,
    /// What refusals say of when to come again, in seconds.
    pub(crate) retry_after: u32,
    /// When requests were refused.
    pub(crate) refusals: Vec<Instant>,
    pub(crate) streaming: Streaming,
    pub(crate) down: bool,
    pub(crate) lists: BTreeMap<String, usize>,
    /// The watches that can be cut, by kind.
    pub(crate) open: BTreeMap<&'static str, usize>,
    pub(crate) events: Events,
    /// The kinds of the Gateway API that there are, with the version that is served.
    pub(crate) crds: BTreeMap<&'static str, &'static str>,
    pub(crate) discoveries: usize,
}

#[derive(Debug)]
struct Event {
    version: u64,
    kind: &'static str,
    line: Bytes,
}

impl World {
    /// The lines that tell of the changes of a kind since a version.
    pub(crate) fn news(&self, kind: &str, since: u64) -> Vec<Bytes> {
        let first = self.history.partition_point(|event| event.version <= since);
        let news = self.history.iter().skip(first).filter(|event| event.kind == kind);
        news.map(|event| event.line.clone()).collect()
    }

    /// In the order of their names.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Value> {
        let all = self.objects.iter().filter(|((of, _), _)| *of == kind);
        all.map(|(_, object)| object).collect()
    }

    pub(crate) fn count_list(&mut self, kind: impl Into<String>) {
        *self.lists.entry(kind.into()).or_default() += 1;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    world: Arc<Mutex<World>>,
    /// Moves whenever there is something to look at.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) cut: watch::Sender<Cut>,
    /// Later pages of lists wait while this is set.
    pub(crate) pages_held: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        // Version 0 means "any" to clients.
        let world = World { version: 1, ..World::default() };
        Self {
            world: Arc::new(Mutex::new(world)),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(Cut::End),
            pages_held: watch::Sender::new(false),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cut_all(&self, cut: Cut) {
        self.cut.send_replace(cut);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Changes of one moment.
#[derive(Debug)]
pub struct Changes<'a> {
    pub(crate) world: MutexGuard<'a, World>,
}

impl Changes<'_> {
    /// Restored from a backup: other objects, and a history that is shorter than what watches know.
    pub fn restore(&mut self) {
        self.world.objects.clear();
        self.world.history.clear();
        self.world.version = 1;
    }

    /// A service of one HTTP port, and a slice with these endpoints.
    pub fn service(&mut self, name: &str, addresses: &[&str]) {
        self.put(
            SERVICES,
            json!({ "metadata": { "name": name, "namespace": "default" },
                "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        );
        self.slice(name, addresses);
    }

    /// An HTTPRoute of this name that leads from one service to another.
    pub fn route(&mut self, name: &str, from: &str, to: &str) {
        self.put(
            HTTP_ROUTES,
            json!({ "metadata": { "name": name, "namespace": "default", "generation": 1 },
                "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": from }],
                    "rules": [{ "backendRefs": [{ "name": to, "port": 80 }] }] } }),
        );
    }

    pub fn slice(&mut self, name: &str, addresses: &[&str]) {
        self.slice_at(name, addresses, 8080);
    }

    /// With endpoints that listen on another port.
    pub fn slice_at(&mut self, name: &str, addresses: &[&str], port: u16) {
        let endpoints: Vec<_> =
            addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        self.put(
            SLICES,
            json!({ "metadata": { "name": format!("{name}-1"), "namespace": "default",
                    "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "ports": [{ "name": "http", "port": port }],
                "endpoints": endpoints }),
        );
    }

    pub fn put(&mut self, kind: &'static str, mut object: Value) {
        let world = &mut *self.world;
        world.version += 1;
        object["metadata"]["resourceVersion"] = world.version.to_string().into();
        object["metadata"]["creationTimestamp"] = "2060-01-01T00:00:00Z".into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let known = world.objects.contains_key(&(kind, name.clone()));
        let line = line(if known { "MODIFIED" } else { "ADDED" }, &object);
        world.objects.insert((kind, name), object);
        world.history.push(Event { version: world.version, kind, line });
    }

    pub fn delete(&mut self, kind: &'static str, name: &str) {
        let world = &mut *self.world;
        world.version += 1;
        let mut object = world.objects.remove(&(kind, name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = world.version.to_string().into();
        let line = line("DELETED", &object);
        world.history.push(Event { version: world.version, kind, line });
    }

    pub fn delete_service(&mut self, name: &str) {
        self.delete(SERVICES, name);
        self.delete(SLICES, &format!("{name}-1"));
    }
}

pub(crate) fn line(what: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": what, "object": object })).into()
}

//! Real Envoys, one in each variant of the protocol, under constant load while the API server fails:
//! no request is lost, and what changed meanwhile arrives.
//!
//! Nothing that serves ever goes away here, and nothing is tried twice by Envoy, so a single answer
//! that is not a backend's means that configuration was lost.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::response::Json;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::api::{Api, Changes, Cut, SERVICES, SLICES, Streaming};
use crate::line::Line;
use crate::pilot::Pilot;
use pilothouse_testkit::envoy::Wire;
use pilothouse_testkit::loaded_envoy::LoadedEnvoy;
use pilothouse_testkit::until;

/// The first address of the backends; the others follow it.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const BACKENDS: usize = 3;

/// A service whose endpoints are two of three real servers, and others that come and go beside it.
struct Mesh {
    port: u16,
    turn: usize,
    _serving: JoinSet<()>,
}

fn address(of: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits() + u32::try_from(of % BACKENDS).unwrap())
}

impl Mesh {
    /// Each server is at an address of its own, all at one port, and says its address.
    async fn start() -> Self {
        let listeners = until("a port that is free at every address", async || {
            let first = TcpListener::bind((FIRST, 0)).await.map_err(|error| error.to_string())?;
            let port = first.local_addr().unwrap().port();
            let mut all = vec![first];
            for of in 1..BACKENDS {
                let other = TcpListener::bind((address(of), port)).await;
                all.push(other.map_err(|error| error.to_string())?);
            }
            Ok(all)
        })
        .await;
        let port = listeners[0].local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        for listener in listeners {
            let answer = json!({ "pod": listener.local_addr().unwrap().ip() });
            let app = Router::new().fallback(async || Json(answer));
            serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
        Self { port, turn: 0, _serving: serving }
    }

    fn endpoints(&self) -> [String; 2] {
        [address(self.turn).to_string(), address(self.turn + 1).to_string()]
    }

    fn write_to(&self, now: &mut Changes<'_>) {
        now.put(
            SERVICES,
            json!({ "metadata": { "name": "loaded", "namespace": "default",
                    "annotations": { "pilothouse.io/retries": "0" } },
                "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        );
        now.slice_at("loaded", &self.endpoints().each_ref().map(String::as_str), self.port);
        now.service(&format!("bystander-{}", self.turn), &["10.0.0.1"]);
    }

    /// One of the two endpoints goes, the third server comes instead; another service goes, and one
    /// comes.
    fn next(&mut self, now: &mut Changes<'_>) {
        now.delete_service(&format!("bystander-{}", self.turn));
        self.turn += 1;
        self.write_to(now);
    }
}

struct Loaded {
    api: Api,
    pilot: Pilot,
    mesh: Mesh,
    envoys: [LoadedEnvoy; 2],
}

impl Loaded {
    async fn start() -> Self {
        let api = Api::start().await;
        let at = api.address;
        Self::start_at(api, at).await
    }

    /// The API server is reached at another address than its own.
    async fn start_at(api: Api, reached_at: SocketAddr) -> Self {
        let mesh = Mesh::start().await;
        api.change(|now| mesh.write_to(now));
        let pilot = Pilot::start_at(reached_at).await;
        until("ready", async || pilot.ready().await).await;
        let grpc = pilot.grpc();
        let envoys = [
            LoadedEnvoy::start(grpc, Wire::Sotw, "loaded-sotw", "loaded/").await,
            LoadedEnvoy::start(grpc, Wire::Delta, "loaded-delta", "loaded/").await,
        ];
        let loaded = Self { api, pilot, mesh, envoys };
        loaded.is_as_told().await;
        loaded
    }

    /// What was told is there, and so is what is told from now on.
    async fn is_well(&mut self) {
        self.is_as_told().await;
        let Self { api, mesh, .. } = self;
        api.change(|now| mesh.next(now));
        self.is_as_told().await;
    }

    /// Waits until all requests of both Envoys are answered by the endpoints of now.
    async fn is_as_told(&self) {
        for envoy in &self.envoys {
            envoy.is_answered_by(&self.mesh.endpoints()).await;
            envoy.met_no_failure();
        }
        self.pilot.ready().await.unwrap();
    }

    /// A fault of the watches, and a change that none of them tells.
    async fn survives(&mut self, cut: Cut) {
        println!("{cut:?}");
        let Self { api, mesh, .. } = self;
        api.cut(cut, |now| mesh.next(now)).await;
        self.is_well().await;
    }

    /// A change while nothing can be heard of it, and load meanwhile.
    async fn is_cut_off(&mut self) {
        for watch in [SERVICES, SLICES] {
            self.pilot.complains(watch, "").await;
        }
        let Self { api, mesh, .. } = self;
        api.change(|now| mesh.next(now));
        for envoy in &self.envoys {
            envoy.carries(200).await;
            envoy.met_no_failure();
        }
    }
}

#[tokio::test]
async fn whatever_befalls_the_watches_no_request_is_lost() {
    let mut loaded = Loaded::start().await;
    for cut in [
        Cut::Hang,
        Cut::Gone,
        Cut::Forget,
        Cut::HalfThenBreak,
        Cut::HalfThenEnd,
        Cut::NoNewline,
        Cut::Garbage,
        Cut::End,
    ] {
        loaded.survives(cut).await;
    }
}

#[tokio::test]
async fn whatever_befalls_a_streamed_list_no_request_is_lost() {
    let mut loaded = Loaded::start().await;
    for streaming in [
        Streaming::Whole,
        Streaming::HalfThenHang,
        Streaming::HalfThenBreak,
        Streaming::Endless,
        Streaming::Unmarked,
    ] {
        println!("{streaming:?}");
        loaded.api.streams(streaming);
        loaded.survives(Cut::Gone).await;
    }
}

#[tokio::test]
async fn whatever_befalls_the_api_server_no_request_is_lost() {
    let mut loaded = Loaded::start().await;
    for status in [503, 429, 401, 403] {
        loaded.api.refuse(None, status);
        loaded.is_cut_off().await;
        loaded.api.be_well();
        loaded.is_well().await;
    }
    loaded.api.go_down();
    loaded.is_cut_off().await;
    loaded.api.be_well();
    loaded.is_well().await;

    // Restored from a backup, in which the mesh is what it was but for what changed.
    for cut in [Cut::Hang, Cut::HalfThenBreak] {
        println!("restored, {cut:?}");
        let Loaded { api, mesh, .. } = &mut loaded;
        mesh.turn += 1;
        api.cut(cut, |now| {
            now.restore();
            mesh.write_to(now);
        })
        .await;
        loaded.is_well().await;
    }
}

#[tokio::test]
async fn connections_that_are_reset_lose_no_request() {
    let api = Api::start().await;
    let line = Line::to(api.address).await;
    let mut loaded = Loaded::start_at(api, line.address).await;
    for _ in 0..3 {
        loaded.api.is_watched().await;
        line.stall();
        let Loaded { api, mesh, .. } = &mut loaded;
        api.change(|now| mesh.next(now));
        line.reset();
        loaded.is_well().await;
    }
}

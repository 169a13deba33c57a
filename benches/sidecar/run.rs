//! One Envoy after the other in the same mesh.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilothouse_testkit::kube_control_plane::Pilot;
use pilothouse_testkit::spread::Spread;
use pilothouse_testkit::{namespace, places, until};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use crate::calls::{Workloads, call};
use crate::mesh::{Kind, Mesh, Service};
use crate::proxy::Proxy;
use crate::{Mode, Options};

/// One Envoy's. Memory and bytes are bytes, times milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) mode: Mode,
    pub(crate) ready_after: f64,
    pub(crate) at_ready: Held,
    pub(crate) after_calls: Held,
    pub(crate) at_rest: Calls,
    pub(crate) under_changes: Calls,
    /// While changes went on, each second.
    pub(crate) changes: f64,
    pub(crate) received: f64,
    /// Of a core.
    pub(crate) envoy_cpu: f64,
    pub(crate) control_cpu: f64,
    /// After everything.
    pub(crate) at_end: Held,
    /// Of all calls.
    pub(crate) calls: usize,
    pub(crate) failures: Vec<String>,
}

/// What an Envoy has at some moment.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) clusters: u64,
    pub(crate) memory: usize,
    /// Since its start.
    pub(crate) received: u64,
}

impl Held {
    async fn by(proxy: &Proxy, settle: Duration) -> Self {
        tokio::time::sleep(settle).await;
        Self {
            clusters: proxy.clusters().await,
            memory: proxy.memory(),
            received: proxy.received().await,
        }
    }
}

/// First calls of services, and the second ones, of HTTP and gRPC together and of TCP.
#[derive(Debug, Serialize)]
pub(crate) struct Calls {
    pub(crate) first: Spread,
    pub(crate) second: Spread,
    pub(crate) first_tcp: Spread,
    pub(crate) second_tcp: Spread,
}

/// Measures each mode.
pub(crate) async fn all(options: &Options) -> Vec<Figures> {
    namespace::take_in("10.0.0.0/8");
    let application = places::address();
    namespace::capture_outbound(application);
    let _workloads = Workloads::start().await;
    let mesh = Arc::new(Mesh::start(options).await);
    let pilot = Pilot::start_with(mesh.address(), &[]).await;
    until("the program to be ready", async || pilot.ready().await).await;
    let page = pilot.sourcez().await.unwrap();
    assert_eq!(page["services"], options.services, "{page}");
    let mut figures = Vec::new();
    for mode in &options.modes {
        figures.push(one(options, *mode, application, &mesh, &pilot).await);
    }
    figures
}

async fn one(
    options: &Options,
    mode: Mode,
    from: IpAddr,
    mesh: &Arc<Mesh>,
    pilot: &Pilot,
) -> Figures {
    let settle = options.settle();
    let order = mesh.in_order();
    let (called, others) = order.split_at(options.calls);
    let (at_rest, others) = others.split_at(options.samples);
    let under_changes = &others[..options.samples];
    let uses: Vec<String> = called.iter().map(|service| mesh.host(*service)).collect();

    let proxy = Proxy::start(options, mode, pilot.grpc(), &uses.join(" ")).await;
    let ready_after = millis(proxy.ready_after);
    let at_ready = Held::by(&proxy, settle).await;
    let mut caller = Caller { from, mesh, pause: options.pause(), calls: 0, failures: Vec::new() };
    caller.time(called).await;
    let after_calls = Held::by(&proxy, settle).await;
    let at_rest = caller.time(at_rest).await;

    let (changing, rate) = (mesh.clone(), options.rate);
    let changing = AbortOnDropHandle::new(tokio::spawn(async move { changing.change(rate).await }));
    tokio::time::sleep(settle).await;
    let before =
        (mesh.changes(), proxy.received().await, proxy.process.cpu(), pilot.process().cpu());
    let begun = Instant::now();
    let under_changes = caller.time(under_changes).await;
    let seconds = begun.elapsed().as_secs_f64();
    let changes = f64::from(mesh.changes() - before.0) / seconds;
    let received = (proxy.received().await - before.1) as f64 / seconds;
    let envoy_cpu = (proxy.process.cpu() - before.2) / seconds;
    let control_cpu = (pilot.process().cpu() - before.3) / seconds;
    drop(changing);
    Figures {
        mode,
        ready_after,
        at_ready,
        after_calls,
        at_rest,
        under_changes,
        changes,
        received,
        envoy_cpu,
        control_cpu,
        at_end: Held::by(&proxy, settle).await,
        calls: caller.calls,
        failures: caller.failures,
    }
}

struct Caller<'a> {
    from: IpAddr,
    mesh: &'a Mesh,
    pause: Duration,
    calls: usize,
    failures: Vec<String>,
}

impl Caller<'_> {
    /// Calls each of the services twice.
    async fn time(&mut self, services: &[Service]) -> Calls {
        let mut requests = [Vec::new(), Vec::new()];
        let mut connections = [Vec::new(), Vec::new()];
        for service in services {
            tokio::time::sleep(self.pause).await;
            let of = if service.kind() == Kind::Tcp { &mut connections } else { &mut requests };
            for (at, took) in of.iter_mut().enumerate() {
                self.calls += 1;
                match call(self.from, self.mesh, *service).await {
                    Ok(time) => took.push(millis(time)),
                    Err(error) => {
                        let host = self.mesh.host(*service);
                        self.failures.push(format!("call {} of {host}: {error}", at + 1));
                    }
                }
            }
        }
        let [first, second] = requests.map(|took| Spread::from_samples(&took));
        let [first_tcp, second_tcp] = connections.map(|took| Spread::from_samples(&took));
        Calls { first, second, first_tcp, second_tcp }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

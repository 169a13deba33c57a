//! Manifests, control plane and Envoy, together.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::control_plane::ControlPlane;
use crate::dump::Config;
use crate::envoy::{Discovery, Envoy, Sample, Wire};
use crate::manifests::{Manifests, Service};
use crate::{DEADLINE, VISIBLE, eventually, same};

/// Requests after which every one of a handful of endpoints has surely had one.
const ROUND: usize = 24;

#[derive(Debug)]
pub struct Lab {
    pub envoy: Envoy,
    pub control: ControlPlane,
    pub manifests: Manifests,
}

impl Lab {
    /// All of it on these services; Envoy is live.
    pub async fn start(sample: Sample, wire: Wire, services: &[Service]) -> Self {
        Self::start_with(&[], sample, wire, Discovery::All, services).await
    }

    /// The same with these flags of the control plane, and an Envoy that asks for what `discovery` says.
    pub async fn start_with(
        flags: &[&str],
        sample: Sample,
        wire: Wire,
        discovery: Discovery,
        services: &[Service],
    ) -> Self {
        let manifests = Manifests::new(services);
        let folder = manifests.path().to_str().expect("a path in UTF-8");
        let arguments = [&["--manifests", folder], flags].concat();
        let control = ControlPlane::start_with(&arguments, &[]).await;
        control.becomes_ready().await;
        let envoy = Envoy::start_with(sample, wire, control.grpc, discovery.pieces()).await;
        Self { envoy, control, manifests }
    }

    /// Waits until requests for `host` through the standalone listener are answered by these
    /// workloads, all of them and no other.
    pub async fn answered_by(&self, host: &str, workloads: &[&str]) {
        self.answered_at(self.envoy.listener, host, workloads).await;
    }

    /// The same through the listener at `at`.
    pub async fn answered_at(&self, at: SocketAddr, host: &str, workloads: &[&str]) {
        let wanted: BTreeSet<String> = workloads.iter().map(|name| (*name).to_owned()).collect();
        let what = format!("{host} to be answered by {workloads:?}");
        eventually(VISIBLE, &what, async || {
            let mut seen = BTreeSet::new();
            for _ in 0..ROUND {
                let answer = self.envoy.fetch_at(at, host).await?;
                if answer.status != 200 {
                    return Err(format!("{answer:?}"));
                }
                seen.insert(answer.body.split(' ').next().unwrap_or_default().to_owned());
            }
            same(&seen, &wanted)
        })
        .await;
    }

    /// Waits until requests for `host` through the standalone listener get this status.
    pub async fn answers(&self, host: &str, status: u16) {
        let what = format!("{host} to be answered by {status}");
        eventually(VISIBLE, &what, async || {
            let answer = self.envoy.fetch(host).await?;
            same(answer.status, status).map_err(|_| format!("{answer:?}"))
        })
        .await;
    }

    /// Waits until syncz shows these types accepted, and nothing ever rejected.
    pub async fn is_synced(&self, types: &[&str]) {
        eventually(DEADLINE, "syncz to show all synced", async || {
            self.control.sync().await?.is_synced(types)
        })
        .await;
    }

    /// Waits until Envoy's own pages say what the control plane's say.
    pub async fn agrees(&self) {
        eventually(DEADLINE, "Envoy's dump to agree with the control plane's", async || {
            let proxy = self.control.sync().await?;
            let proxy = proxy.0["connection_id"].as_str().expect("syncz names it").to_owned();
            let page = format!("config_dump?include_eds=true&proxyID={proxy}");
            let sent = self.control.debug(&page).await?;
            let own = self.envoy.config_dump().await?;
            let waiting = Config::waiting(&own);
            same(waiting, Vec::new()).map_err(|seen| format!("not used yet: {seen}"))?;
            let (sent, own) = (Config::read(&sent), Config::read(&own));
            own.agrees(&sent)?;
            // Envoy finds the endpoints of names outside by itself.
            let mut used = self.envoy.clusters().await?;
            used.retain(|name, _| own.endpoints.contains_key(name));
            same(&used, &own.endpoints)
        })
        .await;
    }

    /// What must be true of every Envoy at the end of a test in which nothing was to go wrong.
    pub async fn assert_untroubled(&self) {
        self.is_synced(&["cds", "lds"]).await;
        self.envoy.assert_untroubled().await;
    }
}

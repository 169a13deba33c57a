//! Many who ask for debug pages at once: the server stays small, and proxies are served meanwhile.

use crate::debug_types::{SYNCZ, request};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::xds_client::{CDS, connect, open_sotw, sotw};
use pilothouse_testkit::{DEADLINE, eventually, same};

/// Streams that ask, and requests on each; what is answered is not read.
const STREAMS: usize = 100;
const REQUESTS: usize = 40;

#[tokio::test]
async fn thousands_of_debug_requests_cost_little_memory_and_no_proxy_its_response() {
    let services: Vec<_> =
        (0..50).map(|number| Service::new(&format!("web-{number}"), "http", 80)).collect();
    let manifests = Manifests::new(&services);
    let control = ControlPlane::start(manifests.path()).await;
    let mut proxies = Vec::new();
    for _ in 0..50 {
        let mut proxy = open_sotw(connect(control.grpc).await).await;
        proxy.say(sotw(CDS, &[])).await;
        proxy.response().await;
        proxies.push(proxy);
    }
    let before = control.process.memory("VmRSS");
    let long = "x".repeat(1 << 20);
    let mut attackers = Vec::new();
    for number in 0..STREAMS {
        let stream = open_sotw(connect(control.grpc).await).await;
        let (send, long) = (stream.send.clone(), long.clone());
        let flood = tokio::spawn(async move {
            for _ in 0..REQUESTS {
                let asked = match number % 3 {
                    0 => request(SYNCZ, &[]),
                    1 => request("istio.io/debug", &["adsz"]),
                    _ => request("istio.io/debug/config_dump", &[&long]),
                };
                if send.send(asked).await.is_err() {
                    return;
                }
            }
        });
        attackers.push((stream, flood));
    }
    for _ in 0..20 {
        let mut proxy = open_sotw(connect(control.grpc).await).await;
        proxy.say(sotw(CDS, &[])).await;
        assert!(!proxy.response().await.resources.is_empty());
        assert!(control.process.memory("VmRSS") < before + (256 << 20));
    }
    for (_, flood) in &attackers {
        flood.abort();
    }
    drop(attackers);
    eventually(DEADLINE, "the streams that asked to be gone", async || {
        let all = control.debug("connections").await?;
        same(all["totalClients"].as_u64().is_some_and(|open| open <= 50 + 20), true)
            .map_err(|_| all["totalClients"].to_string())
    })
    .await;
    let hwm = control.process.memory("VmHWM");
    assert!(hwm < before + (256 << 20), "{} MiB before, {} at most", before >> 20, hwm >> 20);
}

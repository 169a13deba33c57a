//! A thousand handshakes a second by strangers, beside a mesh that changes and proxies that come by TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use pilothouse_testkit::certificates::{Authority, Issued, SecretVolume};
use pilothouse_testkit::xds_client::{self, CDS, EDS, PILOT, ack, delta};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::good::Bystanders;
use crate::victim::Victim;

/// Strangers' addresses, and handshakes that each of them begins a second.
const STRANGERS: u8 = 10;
const PER_SECOND: u32 = 100;

/// How long a stranger stays that says nothing more.
const STAYS: Duration = Duration::from_secs(1);

/// Connections that one stranger has open, at most: this process has a limit of open files too.
const OPEN: usize = 300;

type Stream = xds_client::Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

const PROXY: &str = "spiffe://cluster.local/ns/default/sa/default";

const FOLLOWED: &str = "outbound|80||followed.default.svc.cluster.local";

/// The first bytes of a client: for these the server makes a key, agrees on a secret and signs, and the
/// stranger has made them once.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let name = ServerName::try_from(PILOT).unwrap();
    let mut client = ClientConnection::new(authority.client_config(None), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Every stranger begins handshakes; one half goes at once, the other stays and says no more. Ends when
/// dropped.
fn flood(at: SocketAddr, hello: Vec<u8>, begun: Arc<AtomicUsize>) -> JoinSet<()> {
    let (hello, mut strangers) = (Arc::<[u8]>::from(hello), JoinSet::new());
    for stranger in 0..STRANGERS {
        let (hello, begun) = (hello.clone(), begun.clone());
        strangers.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut open = JoinSet::new();
            for number in 0_u64.. {
                ticks.tick().await;
                while open.try_join_next().is_some() {}
                if open.len() >= OPEN {
                    open.join_next().await;
                }
                let (hello, begun) = (hello.clone(), begun.clone());
                open.spawn(async move {
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_reuseaddr(true).unwrap();
                    let from = Ipv4Addr::new(127, 0, 7, stranger + 1);
                    socket.bind((from, 0).into()).unwrap();
                    let Ok(mut socket) = socket.connect(at).await else { return };
                    if socket.write_all(&hello).await.is_ok() {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                    if number % 2 == 0 {
                        sleep(STAYS).await;
                    }
                });
            }
        });
    }
    strangers
}

/// A proxy that connects by TLS now, is sent what it asks for, and how long that took.
async fn comes(victim: &Victim, authority: &Authority, own: &Issued) -> Duration {
    let started = Instant::now();
    let secure = victim.secure_grpc.unwrap();
    let channel = xds_client::connect_by_tls(secure, &authority.pem(), Some(own)).await.unwrap();
    let mut stream = xds_client::open_delta(channel).await;
    stream.say(delta(CDS, &[])).await;
    assert!(!stream.response().await.resources.is_empty());
    started.elapsed()
}

/// The next response, acknowledged.
async fn accepts(stream: &mut Stream) {
    let response = stream.response().await;
    stream.say(ack(&response)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_handshakes_a_second_by_strangers_delay_nobody() {
    pilothouse::door::descriptors::raise_limit();
    let authority = Authority::new("test CA");
    let volume = SecretVolume::new(&authority.server(&[PILOT]), &authority.pem());
    let [certificate, key, ca] = volume.flags();
    let arguments = ["--secure-grpc-addr=127.0.0.1:0", &certificate, &key, &ca];
    let victim = Victim::start(100, &arguments).await;
    let own = authority.client(PROXY);
    let mut good = Bystanders::start(&victim).await;
    let secure = victim.secure_grpc.unwrap();
    let channel = xds_client::connect_by_tls(secure, &authority.pem(), Some(&own)).await.unwrap();
    let mut follower = xds_client::open_delta(channel).await;
    follower.say(delta(EDS, &[FOLLOWED])).await;
    accepts(&mut follower).await;
    let before = victim.resident();

    let mut figures = Vec::new();
    let begun = Arc::<AtomicUsize>::default();
    let mut flooding = None;
    for round in 0..10 {
        if round == 5 {
            flooding = Some(flood(secure, client_hello(&authority), begun.clone()));
            sleep(STAYS).await;
        }
        let started = Instant::now();
        victim.write("followed", &format!("10.201.0.{round}"), 80);
        accepts(&mut follower).await;
        let change = started.elapsed();
        figures.push((round >= 5, change, comes(&victim, &authority, &own).await));
        good.are_served(&victim).await;
        // The change that they made.
        accepts(&mut follower).await;
    }
    for (flooded, change, newcomer) in &figures {
        println!("flooded: {flooded}; a change in {change:?}; a newcomer in {newcomer:?}");
    }
    let peak = victim.resident();
    println!(
        "{} handshakes begun; {} MiB before, {} MiB now",
        begun.load(Ordering::Relaxed),
        before >> 20,
        peak >> 20
    );
    assert!(begun.load(Ordering::Relaxed) > 1000, "there was no flood");
    drop(flooding);
    victim.is_idle().await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, 60 << 20).await;
}

//! Replicas come and go, and streams spread over those that are there.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use pilothouse::names::ResourceType;
use tokio::net::{TcpListener, TcpStream};

use crate::views::pilot::{Mesh, Pilot};
use crate::views::proxy::{Proxy, Role};
use pilothouse_testkit::until;

const PROXIES: usize = 300;

/// What kube-proxy does: each new connection goes to the next replica.
async fn relay(replicas: Arc<Mutex<Vec<u16>>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let replica = {
                let replicas = replicas.lock().unwrap();
                replicas[number % replicas.len()]
            };
            tokio::spawn(async move {
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, replica)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    port
}

async fn streams(replica: &Pilot) -> f64 {
    replica.metric("pilothouse_proxies{kind=\"sidecar\"}").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_replica_spread_over_those_that_come_and_miss_nothing() {
    let mesh = Mesh { services: 8, endpoints: 2, namespaces: 2 };
    let flags = ["--max-connection-age=4s"];
    let mut pilots = vec![Pilot::start(&mesh, &flags).await];
    let replicas = Arc::new(Mutex::new(vec![pilots[0].grpc]));
    let door = relay(replicas.clone()).await;
    let proxies: Vec<Proxy> = (0..PROXIES)
        .map(|number| Proxy::start_steady(door, Role::sidecar(number, number % 2), &mesh))
        .collect();
    pilots[0].reaches("pilothouse_proxies{kind=\"sidecar\"}", PROXIES as f64).await;

    for _ in 0..2 {
        let pilot = Pilot::start(&mesh, &flags).await;
        replicas.lock().unwrap().push(pilot.grpc);
        pilots.push(pilot);
    }
    until("streams to spread over three replicas", async || {
        let mut counts = Vec::new();
        for pilot in &pilots {
            counts.push(streams(pilot).await);
        }
        let spread = counts.iter().all(|count| *count >= PROXIES as f64 / 6.0);
        if spread { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    assert!(proxies.iter().filter(|one| one.reconnects() > 0).count() > PROXIES / 3);

    // A change while they go from one to the other.
    for pilot in &pilots {
        pilot.add_service("new");
    }
    let before = proxies[0].version(ResourceType::Cluster);
    let fresh = until("the change to be served", async || {
        let fresh = Proxy::start(pilots[0].grpc, Role::sidecar(0, 0), &mesh);
        fresh.in_sync().await;
        let version = fresh.version(ResourceType::Cluster);
        if version == before { Err(version) } else { Ok(version) }
    })
    .await;
    for proxy in &proxies {
        proxy.comes_to(ResourceType::Cluster, &fresh).await;
    }
    let mut aged = 0.0;
    for pilot in &pilots {
        aged += pilot.metric("pilothouse_aged_connections_total").await.unwrap();
    }
    assert!(aged > 0.0);
}

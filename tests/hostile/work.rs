//! Little is said, and much is to be done for it.

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::attacker::{Connection, EDS, HOSTILE, first};
use crate::good::Bystanders;
use crate::victim::{SERVICES, Victim};

/// As many as one subscription may nearly have.
const NAMES: usize = 99_000;

fn change(number: usize) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: EDS.to_owned(),
        resource_names_subscribe: vec![format!("another-{number}")],
        resource_names_unsubscribe: vec![format!("name-{number}")],
        ..Default::default()
    }
}

/// D1: two streams, and no push to anybody for 30 s; both workers busy after they had left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_one_name_among_99_000_holds_nobody_up() {
    let victim = Victim::start(SERVICES, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(&victim, HOSTILE).await;
        let mut stream = connection.stream().await;
        let names = (0..NAMES).map(|number| format!("name-{number}")).collect();
        let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..first(EDS) };
        assert!(stream.send_request(&request).await);
        connections.push((connection, stream));
    }
    // In a burst, as many as the limit of requests lets through.
    let bursts = connections.iter_mut().map(async |(_, stream)| {
        for number in 0..4_900 {
            if !stream.send_request(&change(number)).await {
                return number;
            }
        }
        4_900
    });
    let served = async {
        for _ in 0..3 {
            good.are_served(&victim).await;
        }
    };
    let (sent, ()) = tokio::join!(futures::future::join_all(bursts), served);
    assert_eq!(sent, [4_900, 4_900], "it is not refused, so nothing of this was tested");
    good.are_served(&victim).await;
    drop(connections);
    victim.is_idle().await;
    good.were_always_served(&victim).await;
    victim.gives_back(before, 40 << 20).await;
}

/// The same kind: what is sent is large, and read, sorted and compared over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_subscriptions_that_change_all_the_time_hold_nobody_up() {
    let victim = Victim::start(SERVICES, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let mut attackers = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(&victim, HOSTILE).await;
        let mut stream = connection.stream().await;
        attackers.push(tokio::spawn(async move {
            let mut request = first(EDS);
            let mut sent = 0;
            for round in 0..1_000_usize {
                request.resource_names_unsubscribe =
                    std::mem::take(&mut request.resource_names_subscribe);
                request.resource_names_subscribe =
                    (0..40_000).map(|number| format!("name-{round}-{number}")).collect();
                if !stream.send_request(&request).await {
                    break;
                }
                sent += 1;
                request.node = None;
            }
            drop(connection);
            sent
        }));
    }
    for _ in 0..3 {
        good.are_served(&victim).await;
    }
    for attacker in attackers {
        attacker.abort();
        let _ = attacker.await;
    }
    victim.is_idle().await;
    good.were_always_served(&victim).await;
}

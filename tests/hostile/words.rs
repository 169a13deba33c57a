//! What a peer says, and what is kept, logged and echoed of it.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc::Status;

use crate::attacker::{CDS, Connection, HOSTILE, first, node};
use crate::good::Bystanders;
use crate::victim::Victim;

fn with_metadata(key: &str, value: &str) -> DeltaDiscoveryRequest {
    let value = Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let metadata = Struct { fields: [(key.to_owned(), value)].into() };
    DeltaDiscoveryRequest { node: Some(Node { metadata: Some(metadata), ..node() }), ..first(CDS) }
}

/// D5: a trailer of 37.8 MB, a log line of 21 MB, and 414 MiB kept after the peer had left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_megabytes_of_control_characters_are_answered_and_logged_in_a_line() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    // Longer than a node may be, longer than a value may be, and as long as that.
    for len in [4_000_000, 200_000, 1024] {
        let mut connection = Connection::open(&victim, HOSTILE).await;
        let mut stream = connection.stream().await;
        stream.send_request(&with_metadata("LISTEN_ADDRESS", &"\u{1}".repeat(len))).await;
        let (code, text) = stream.refusal().await;
        assert_eq!(code, "3", "{text}");
        assert!(text.len() < 4096, "{len}: {} bytes", text.len());
    }
    good.are_served(&victim).await;
    let log = victim.log();
    assert!(
        log.lines().all(|line| line.len() < 8192),
        "a line of {:?} bytes",
        log.lines().map(str::len).max()
    );
    good.were_always_served(&victim).await;
    victim.gives_back(before, 48 << 20).await;
}

/// D8: 84 million lines of log in 3 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nacks_of_megabytes_are_cut_and_few_of_them_are_logged() {
    let victim = Victim::start(10, &[]).await;
    let mut good = Bystanders::start(&victim).await;
    let before = victim.resident();
    let mut connection = Connection::open(&victim, HOSTILE).await;
    let mut stream = connection.stream().await;
    stream.send_request(&first(CDS)).await;
    let mut nack = DeltaDiscoveryRequest { type_url: CDS.to_owned(), ..Default::default() };
    nack.response_nonce = stream.response().await.nonce;
    let message = "no\n".repeat(1_000_000);
    nack.error_detail = Some(Status { code: 13, message, details: vec![] });
    for _ in 0..50 {
        if !stream.send_request(&nack).await {
            break;
        }
    }
    good.are_served(&victim).await;
    let log = victim.log();
    assert!(log.contains("rejected: no"), "{log}");
    assert!(log.len() < 1 << 20, "{} bytes of log", log.len());
    good.were_always_served(&victim).await;
    victim.gives_back(before, 48 << 20).await;
}

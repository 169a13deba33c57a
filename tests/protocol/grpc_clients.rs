//! What the rules say of gRPC clients, with a real one.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pilothouse::names::ResourceType;
use prost::Message;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::c_core::{CCore, Outcome};
use crate::harness::{CDS, EDS, LDS, RDS, Server, delta, eventually, sotw};
use crate::scripted::{Change, Scripted, bad_cluster, cluster, endpoints, listener, routes};

const TARGET: &str = "xds:///shop";

/// A server and a client, and two workloads of the client's own.
struct Shop {
    server: Scripted,
    client: CCore,
    ports: [u16; 2],
}

impl Shop {
    /// Nothing is known yet.
    async fn closed() -> Self {
        let server = Scripted::start().await;
        let client = CCore::start(server.grpc);
        let ports = [client.serve("one").await, client.serve("two").await];
        Self { server, client, ports }
    }

    /// Two clusters, each with a workload.
    fn all_changes(&self) -> [Change; 6] {
        let [one, two] = self.ports;
        [
            listener("shop"),
            routes("shop", &["one", "two"]),
            cluster("one"),
            cluster("two"),
            endpoints("one", one),
            endpoints("two", two),
        ]
    }

    /// All is served, and accepted.
    async fn open() -> Self {
        let shop = Self::closed().await;
        shop.server.publish(shop.all_changes());
        shop.answered("one").await;
        shop.answered("two").await;
        for of in ResourceType::IN_ORDER {
            shop.accepted(of).await;
        }
        shop
    }

    async fn call(&self, cluster: &str) -> Outcome {
        self.client.call(TARGET, &format!("/{cluster}/Who"), b"").await
    }

    /// Waits until calls for the cluster are answered by its own workload.
    async fn answered(&self, cluster: &str) {
        self.answered_by(cluster, cluster).await;
    }

    /// Waits until calls for the cluster are answered by this workload.
    async fn answered_by(&self, cluster: &str, workload: &str) {
        eventually(&format!("{workload} to answer for {cluster}"), async || {
            match self.call(cluster).await.who() {
                Ok(who) if who == workload => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    async fn fails(&self, cluster: &str) {
        eventually(&format!("calls for {cluster} to fail"), async || {
            match self.call(cluster).await {
                Outcome::Error(code, _) if code == "UNAVAILABLE" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until the last response of a type is ACKed.
    async fn accepted(&self, of: ResourceType) {
        eventually(&format!("{} to be accepted", of.short()), async || {
            let status = self.server.status(of)?;
            let accepted = status.nonce_sent == status.nonce_acked && status.last_error.is_none();
            if accepted { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn rule_15_a_grpc_client_names_its_node_once_and_is_served_all_types() {
    let shop = Shop::open().await;
    let all = shop.server.proxies.all();
    let identity = all[0].status().identity.unwrap();
    assert_eq!(&*identity.node_id, "grpc-client");
    assert!(identity.user_agent.contains("gRPC"), "{}", identity.user_agent);
    // An endpoint that moves is followed, and costs no other type anything.
    let sent = |of| shop.server.status(of).unwrap().sent;
    let before = [CDS, LDS, RDS].map(sent);
    shop.server.publish([endpoints("one", shop.ports[1])]);
    shop.answered_by("one", "two").await;
    assert_eq!([CDS, LDS, RDS].map(sent), before);
}

#[tokio::test]
async fn rule_02_and_03_a_grpc_client_rejects_one_cluster_and_uses_the_other() {
    let shop = Shop::closed().await;
    shop.server.publish(shop.all_changes());
    shop.server.publish([bad_cluster("two")]);
    // The valid ones of a rejected response are used.
    shop.answered("one").await;
    shop.fails("two").await;
    let rejected = shop.server.status(CDS).unwrap();
    assert!(rejected.nacks > 0);
    let error = rejected.last_error.expect("its own words");
    assert!(error.contains("two") && error.contains("eds_config"), "{error}");

    // Nothing is said again while nothing changes, whatever else goes on.
    shop.server.publish([endpoints("one", shop.ports[1])]);
    shop.answered_by("one", "two").await;
    let now = shop.server.status(CDS).unwrap();
    assert_eq!((now.sent, now.nacks), (rejected.sent, rejected.nacks));

    shop.server.publish([cluster("two")]);
    shop.answered("two").await;
    shop.accepted(CDS).await;
}

#[tokio::test]
async fn rule_05_a_cluster_that_vanishes_and_returns_serves_a_grpc_client_again() {
    let shop = Shop::open().await;
    for _ in 0..3 {
        // It forgets the endpoints with their cluster, and asks for them again with the version
        // and nonce of before.
        shop.server.publish([Change::gone(CDS, "two")]);
        shop.fails("two").await;
        shop.answered("one").await;
        shop.server.publish([cluster("two")]);
        shop.answered("two").await;
    }
    shop.accepted(EDS).await;
}

#[tokio::test]
async fn rule_07_for_a_grpc_client_absence_deletes() {
    let shop = Shop::open().await;
    // It is in use: calls fail as soon as it is gone.
    shop.server.publish([Change::gone(LDS, "shop")]);
    shop.fails("one").await;
    shop.server.publish([listener("shop")]);
    shop.answered("one").await;
    // Endpoints cannot be taken away but with their cluster: leaving them out is no change.
    let before = shop.server.status(EDS).unwrap().sent;
    shop.server.publish([Change::gone(EDS, "one"), endpoints("two", shop.ports[0])]);
    shop.answered_by("two", "one").await;
    assert!(shop.server.status(EDS).unwrap().sent > before);
    shop.answered("one").await;
}

#[tokio::test]
async fn rule_08_what_a_grpc_client_waits_for_is_sent_when_it_is_created() {
    // It gives up after 15 s.
    let patience = Duration::from_secs(14);
    for missing in [LDS, RDS, CDS, EDS] {
        let shop = Shop::closed().await;
        let [mut now, mut later] = [Vec::new(), Vec::new()];
        for change in shop.all_changes() {
            if change.is(missing) { later.push(change) } else { now.push(change) }
        }
        shop.server.publish(now);
        let call = shop.client.call_when_ready(TARGET, "/one/Who", patience);
        let create = async {
            eventually("it to ask", async || {
                let asked = shop.server.status(missing)?.subscription;
                asked.filter(|names| !names.is_empty()).map(drop).ok_or("not yet".to_owned())
            })
            .await;
            shop.server.publish(later);
        };
        let (answer, ()) = tokio::join!(call, create);
        assert_eq!(answer.who(), Ok("one"), "without {} at first", missing.short());
    }
}

#[tokio::test]
async fn rule_22_a_grpc_client_goes_on_and_finds_the_control_plane_again() {
    let mut shop = Shop::open().await;
    shop.server = shop.server.restart().await;
    shop.answered("one").await;
    // Nothing is served before everything is known; then it follows changes again.
    shop.server.publish(shop.all_changes());
    shop.server.publish([endpoints("one", shop.ports[1])]);
    shop.answered_by("one", "two").await;
    shop.answered("two").await;
}

const AGGREGATED: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService";

#[tokio::test]
async fn c_core_understands_how_streams_end() {
    let server = Server::with(|config| {
        config.limits.session.names = 3;
        config.limits.request_bytes = 10_000;
        config.limits.first_request = Duration::from_millis(300);
    })
    .await;
    server.ready().await;
    let target = server.grpc().to_string();
    let client = CCore::start(server.grpc());
    let (stream, delta_stream) = (
        format!("{AGGREGATED}/StreamAggregatedResources"),
        format!("{AGGREGATED}/DeltaAggregatedResources"),
    );

    let unnamed = DiscoveryRequest { node: None, ..sotw(CDS, &[]) }.encode_to_vec();
    let greedy = sotw(EDS, &["a", "b", "c", "d"]).encode_to_vec();
    let huge = sotw(EDS, &[&"x".repeat(20_000)]).encode_to_vec();
    for (messages, code, word) in [
        (vec![unnamed], "INVALID_ARGUMENT", "missing node information"),
        (vec![vec![0xff; 3]], "INVALID_ARGUMENT", "not a valid discovery request"),
        (vec![greedy], "RESOURCE_EXHAUSTED", "--max-names"),
        (vec![huge], "OUT_OF_RANGE", "--max-request-bytes"),
        (vec![], "DEADLINE_EXCEEDED", "--first-request-timeout"),
    ] {
        let end = client.stream(&target, &stream, &messages, 1).await;
        assert_eq!(end.code, code, "{end:?}");
        assert!(end.details.contains(word) && end.answers.is_empty(), "{end:?}");
    }
    // After an answer the status comes in trailers.
    let good = sotw(CDS, &[]).encode_to_vec();
    let bad = DiscoveryRequest { type_url: String::new(), ..sotw(CDS, &[]) }.encode_to_vec();
    let end = client.stream(&target, &stream, &[good.clone(), bad], 2).await;
    assert_eq!((end.answers.len(), &*end.code), (1, "INVALID_ARGUMENT"), "{end:?}");
    assert!(end.details.contains("type_url is empty"), "{end:?}");

    let end = client.stream(&target, &stream, &[good], 1).await;
    assert_eq!((end.answers.len(), &*end.code), (1, "OK"), "{end:?}");
    let response = DiscoveryResponse::decode(&*end.answers[0]).unwrap();
    assert!(!response.resources.is_empty());
    let end = client.stream(&target, &delta_stream, &[delta(CDS, &[]).encode_to_vec()], 1).await;
    assert_eq!((end.answers.len(), &*end.code), (1, "OK"), "{end:?}");
    let response = DeltaDiscoveryResponse::decode(&*end.answers[0]).unwrap();
    assert!(!response.resources.is_empty());

    for (method, word) in [
        ("/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters", "open StreamClusters"),
        ("/envoy.service.cluster.v3.ClusterDiscoveryService/None", "there is no method"),
    ] {
        let Outcome::Error(code, details) = client.call(&target, method, b"").await else {
            panic!("{method} was answered")
        };
        assert_eq!(code, "UNIMPLEMENTED", "{details}");
        assert!(details.contains(word), "{details}");
    }
}

#[tokio::test]
async fn c_core_uses_health_and_reflection() {
    let server = Server::start().await;
    server.ready().await;
    let target = server.grpc().to_string();
    let client = CCore::start(server.grpc());

    let request = HealthCheckRequest::default().encode_to_vec();
    let answer = client.call(&target, "/grpc.health.v1.Health/Check", &request).await;
    let Outcome::Answer(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(HealthCheckResponse::decode(&*answer).unwrap().status, 1, "serving");

    for version in ["v1", "v1alpha"] {
        let method = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let ask = |message| {
            let request =
                ServerReflectionRequest { host: String::new(), message_request: Some(message) };
            request.encode_to_vec()
        };
        let messages = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(AGGREGATED[1..].to_owned())),
        ];
        let end = client.stream(&target, &method, &messages, 2).await;
        assert_eq!((end.answers.len(), &*end.code), (2, "OK"), "{end:?}");
        let read = |at: usize| {
            ServerReflectionResponse::decode(&*end.answers[at]).unwrap().message_response
        };
        let Some(MessageResponse::ListServicesResponse(list)) = read(0) else { panic!("a list") };
        assert!(list.service.iter().any(|one| one.name == AGGREGATED[1..]), "{list:?}");
        assert!(matches!(read(1), Some(MessageResponse::FileDescriptorResponse(_))));
    }
}

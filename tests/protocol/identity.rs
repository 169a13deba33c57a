//! Who a proxy is, over real TLS: every refusal by its status and sentence, and what counts by identity.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use pilothouse::app::IdentityConfig;
use pilothouse::identity::{ActFor, Readers};
use pilothouse_testkit::certificates::Issued;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::xds_client::{self, PILOT};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::harness::{CDS, Stream, delta, eventually, in_time, requests, sotw};
use crate::tls::Secure;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const TILL: &str = "spiffe://cluster.local/ns/bank/sa/till";
const OPS: &str = "spiffe://cluster.local/ns/ops/sa/doctor";

type Sotw = Stream<DiscoveryRequest, DiscoveryResponse>;

impl Secure {
    fn client(&self, uri: &str) -> Issued {
        self.authority.client(uri)
    }

    async fn channel_of(&self, own: Option<&Issued>) -> tonic::transport::Channel {
        let address = self.server.running.secure_grpc.unwrap();
        let pem = self.authority.pem();
        xds_client::connect_by_tls(address, &pem, own).await.unwrap()
    }

    /// A stream with a certificate and an `authorization` header, or without.
    async fn open(
        &self,
        own: Option<&Issued>,
        authorization: Option<&str>,
    ) -> Result<Sotw, Status> {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel_of(own).await);
        let (send, requests) = requests();
        let mut request = Request::new(requests);
        if let Some(value) = authorization {
            let value = MetadataValue::try_from(value).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let responses = client.stream_aggregated_resources(request).await?.into_inner();
        Ok(Stream { send, responses })
    }

    /// What a stream by this node is answered.
    async fn ask(&self, own: Option<&Issued>, node: Node) -> Result<DiscoveryResponse, Status> {
        let mut stream = self.open(own, None).await?;
        stream.say(by(node)).await;
        Ok(stream.next().await?.expect("a response"))
    }

    async fn refusal(&self, own: Option<&Issued>, node: Node) -> (Code, String) {
        let refused = self.ask(own, node).await.expect_err("a refusal");
        (refused.code(), refused.message().to_owned())
    }

    async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.server.running.monitoring);
        pilothouse_testkit::get(&url).await.unwrap().1
    }
}

fn by(node: Node) -> DiscoveryRequest {
    DiscoveryRequest { node: Some(node), ..sotw(CDS, &[]) }
}

fn sidecar(namespace: &str) -> Node {
    xds_client::node(&format!("sidecar~10.1.2.3~web-0.{namespace}~{namespace}.svc.cluster.local"))
}

/// A standalone proxy with this metadata.
fn standalone(metadata: &[(&str, &str)]) -> Node {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    Node { metadata: Some(Struct { fields }), ..xds_client::node("edge") }
}

/// The names of the clusters in a response.
fn clusters(response: &DiscoveryResponse) -> Vec<String> {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use prost::Message as _;
    let names = response.resources.iter();
    names.map(|one| Cluster::decode(&one.value[..]).unwrap().name).collect()
}

#[tokio::test]
async fn a_proxy_without_an_identity_is_refused_on_the_tls_port_and_told_how_to_get_one() {
    let secure = Secure::start().await;
    let how = "connect with a client certificate that names \
               spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
    let why = "this port serves only proxies that prove who they are (--require-identity)";
    assert_eq!(
        secure.refusal(None, sidecar("shop")).await,
        (
            Code::Unauthenticated,
            format!("{why}, and there is no client certificate and no token: {how}")
        )
    );
    let nameless = secure.authority.client_by_dns(&["example.com"]);
    assert_eq!(
        secure.refusal(Some(&nameless), sidecar("shop")).await,
        (
            Code::Unauthenticated,
            format!("{why}, and the client certificate has no name of a ServiceAccount: {how}")
        )
    );
    // The port without TLS is for those who have none.
    let mut stream = secure.server.sotw().await;
    stream.say(by(sidecar("shop"))).await;
    stream.response().await;
    let page = secure.metrics().await;
    for sample in ["{result=\"unauthenticated\"} 2", "{result=\"anonymous\"} 1"] {
        assert!(page.contains(&format!("pilothouse_authentications_total{sample}")), "{page}");
    }
}

#[tokio::test]
async fn where_no_identity_is_required_one_that_is_shown_holds_all_the_same() {
    let secure = Secure::with(|config| config.identity.required = false).await;
    secure.ask(None, sidecar("shop")).await.unwrap();
    let (code, _) = secure.refusal(Some(&secure.client(TILL)), sidecar("shop")).await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn a_proxy_claims_the_namespace_of_its_identity_and_no_other() {
    let secure = Secure::start().await;
    let web = secure.client(WEB);
    let by_dns = secure.authority.client_by_dns(&["web.shop.svc", "web.shop.svc.cluster.local"]);
    for own in [&web, &by_dns] {
        secure.ask(Some(own), sidecar("shop")).await.unwrap();
        let account = [("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "web")];
        secure.ask(Some(own), standalone(&account)).await.unwrap();
        secure.ask(Some(own), standalone(&[])).await.unwrap();
        let identity = format!("its identity {WEB} is of the namespace \"shop\"");
        let rule =
            "a proxy may only claim the namespace of its identity, unless --act-for names shop/web";
        assert_eq!(
            secure.refusal(Some(own), sidecar("bank")).await,
            (
                Code::PermissionDenied,
                format!(
                    "the proxy's node id claims the namespace \"bank\", and {identity}: {rule}"
                )
            )
        );
        assert_eq!(
            secure.refusal(Some(own), standalone(&[("NAMESPACE", "bank")])).await,
            (
                Code::PermissionDenied,
                format!(
                    "the proxy's metadata NAMESPACE claims the namespace \"bank\", and {identity}: {rule}"
                )
            )
        );
        assert_eq!(
            secure.refusal(Some(own), standalone(&[("SERVICE_ACCOUNT", "till")])).await,
            (
                Code::PermissionDenied,
                format!(
                    "the proxy's metadata SERVICE_ACCOUNT claims the account \"till\", and its identity is {WEB}: \
                     a proxy may only claim the ServiceAccount of its identity, unless --act-for names shop/web"
                )
            )
        );
    }
    let page = secure.metrics().await;
    assert!(page.contains("pilothouse_authentications_total{result=\"denied\"} 6"), "{page}");
    assert!(!page.contains("spiffe"), "an identity is no label");
}

#[tokio::test]
async fn every_method_asks_who_it_is() {
    let secure = Secure::start().await;
    let web = secure.client(WEB);
    let mut stream = xds_client::open_delta(secure.channel_of(Some(&web)).await).await;
    let request = delta(CDS, &[]);
    let node = Some(sidecar("bank"));
    stream
        .say(envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest {
            node,
            ..request
        })
        .await;
    assert_eq!(stream.refusal().await.0, Code::PermissionDenied);
    for (own, code) in [(None, Code::Unauthenticated), (Some(&web), Code::PermissionDenied)] {
        let mut client = ClusterDiscoveryServiceClient::new(secure.channel_of(own).await);
        let (send, requests) = requests();
        let responses = client.stream_clusters(requests).await.unwrap().into_inner();
        let mut stream = Stream { send, responses };
        stream.say(by(sidecar("bank"))).await;
        assert_eq!(stream.refusal().await.0, code);
        // A stream that asks for what is no resource is no way around it.
        let mut stream = secure.open(own, None).await.unwrap();
        let type_url = "istio.io/debug/syncz".to_owned();
        stream.say(DiscoveryRequest { type_url, ..by(sidecar("shop")) }).await;
        match own {
            None => assert_eq!(stream.refusal().await.0, Code::Unauthenticated),
            // It is on loopback.
            Some(_) => _ = stream.response().await,
        }
    }
}

#[tokio::test]
async fn those_who_act_for_others_claim_any_namespace() {
    let secure = Secure::with(|config| {
        config.identity.act_for = ActFor::new(vec!["ops/doctor".parse().unwrap()]);
    })
    .await;
    let ops = secure.client(OPS);
    for namespace in ["shop", "bank", "ops"] {
        secure.ask(Some(&ops), sidecar(namespace)).await.unwrap();
    }
    let others = secure.client("spiffe://cluster.local/ns/ops/sa/other");
    assert_eq!(secure.refusal(Some(&others), sidecar("shop")).await.0, Code::PermissionDenied);
}

#[tokio::test]
async fn names_that_say_nobody_of_ours_are_refused() {
    let secure = Secure::start().await;
    for (uri, sentence) in [
        (
            "spiffe://elsewhere/ns/shop/sa/web",
            "the client certificate's URI name \"spiffe://elsewhere/ns/shop/sa/web\" is of the trust domain \
             \"elsewhere\", and this control plane's is \"cluster.local\" (--trust-domain)",
        ),
        (
            "spiffe://cluster.local/ns/shop",
            "the client certificate's URI name \"spiffe://cluster.local/ns/shop\" is no identity of a \
             ServiceAccount: it must be spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
        ),
    ] {
        let refusal = secure.refusal(Some(&secure.client(uri)), sidecar("shop")).await;
        assert_eq!(refusal, (Code::Unauthenticated, sentence.to_owned()));
    }
}

#[tokio::test]
async fn an_authorization_header_that_is_no_token_is_refused_without_being_repeated() {
    let secure = Secure::start().await;
    for value in ["Basic c2VjcmV0", "Bearer", "Bearer se cret"] {
        let refused = secure.open(Some(&secure.client(WEB)), Some(value)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(
            refused.message(),
            "the authorization header must be `Bearer TOKEN`, once, with a token of at most 16384 bytes"
        );
    }
    // No token is verified here, so one says nothing.
    let mut stream = secure.open(None, Some("Bearer secret")).await.unwrap();
    stream.say(by(sidecar("shop"))).await;
    let (code, text) = stream.refusal().await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(text.contains("--token-verification is off") && !text.contains("secret"), "{text}");
    let mut stream = secure.open(Some(&secure.client(WEB)), Some("Bearer secret")).await.unwrap();
    stream.say(by(sidecar("shop"))).await;
    stream.response().await;
}

/// What is exported to one namespace only is not to be had by claiming to be of it.
#[tokio::test]
async fn what_is_exported_to_a_namespace_is_seen_by_its_identities_alone() {
    let services = ["shop", "bank"].map(|namespace| {
        Service::new("vault", "http", 80)
            .in_namespace(namespace)
            .with_annotation("networking.istio.io/exportTo", ".")
    });
    let folder = pilothouse_testkit::manifests::Manifests::new(&services);
    let secure = Secure::with(|config| {
        let files = pilothouse::source::files::FileSourceConfig {
            paths: vec![folder.path().to_owned()],
            namespaces: Vec::new(),
        };
        config.source = pilothouse::app::SourceConfig::Files(files);
    })
    .await;
    let [web, till] = [WEB, TILL].map(|uri| secure.client(uri));
    let [shops, banks] = services.map(|service| service.cluster());
    for (own, namespace, seen, hidden) in
        [(&web, "shop", &shops, &banks), (&till, "bank", &banks, &shops)]
    {
        let names = clusters(&secure.ask(Some(own), sidecar(namespace)).await.unwrap());
        assert!(names.contains(seen) && !names.contains(hidden), "{namespace}: {names:?}");
        // One that claims no namespace sees nobody's.
        let names = clusters(&secure.ask(Some(own), standalone(&[])).await.unwrap());
        assert!(!names.contains(hidden), "{names:?}");
        let other = if namespace == "shop" { "bank" } else { "shop" };
        for node in [sidecar(other), standalone(&[("NAMESPACE", other)])] {
            assert_eq!(secure.refusal(Some(own), node).await.0, Code::PermissionDenied);
        }
    }
}

/// Many behind one address do not share an account, and one identity has one, however many its connections.
#[tokio::test]
async fn streams_are_counted_by_identity() {
    let secure = Secure::with(|config| config.limits.streams_per_peer = 1).await;
    let mut open = Vec::new();
    for uri in [WEB, TILL, OPS] {
        let namespace = uri.split('/').nth(4).unwrap();
        // The handshake's own place, by address, is given back with the first response of the one before.
        let mut stream = secure.open(Some(&secure.client(uri)), None).await.unwrap();
        stream.say(by(sidecar(namespace))).await;
        stream.response().await;
        open.push(stream);
    }
    let refused = secure.refusal(Some(&secure.client(WEB)), sidecar("shop")).await;
    let sentence = format!("{WEB} has 1 streams open, which is the limit (--max-streams-per-peer)");
    assert_eq!(refused, (Code::ResourceExhausted, sentence));
    // Whoever goes gives its place back.
    drop(open.remove(0));
    eventually("the place of the stream that has ended", async || {
        let answered = secure.ask(Some(&secure.client(WEB)), sidecar("shop")).await;
        answered.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test]
async fn views_are_counted_by_identity() {
    let secure = Secure::with(|config| config.view_limits.per_peer = 1).await;
    let listening = |port: &str| standalone(&[("LISTEN_PORT", port)]);
    let (web, till) = (secure.client(WEB), secure.client(TILL));
    let mut first = secure.open(Some(&web), None).await.unwrap();
    first.say(by(listening("8001"))).await;
    first.response().await;
    let (code, text) = secure.refusal(Some(&web), listening("8002")).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(
        text.contains(&format!("the proxies with the identity {WEB} have 1 different ones")),
        "{text}"
    );
    secure.ask(Some(&till), listening("8002")).await.unwrap();
}

#[tokio::test]
async fn an_identity_is_shown_on_the_debug_pages() {
    let secure = Secure::start().await;
    let mut stream = secure.open(Some(&secure.client(WEB)), None).await.unwrap();
    stream.say(by(sidecar("shop"))).await;
    stream.response().await;
    let url = |page: &str| format!("http://{}{page}", secure.server.running.http);
    let syncz = pilothouse_testkit::json(&url("/debug/syncz")).await.unwrap();
    assert_eq!(syncz[0]["identity"], WEB);
    let rows = pilothouse_testkit::json(&url("/debug/proxies")).await.unwrap();
    assert_eq!(rows["proxies"][0]["identity"], WEB);
}

/// The debug pages by TLS, as a client with this certificate and header gets them: status and text.
async fn page(
    secure: &Secure,
    own: Option<&Issued>,
    path: &str,
    authorization: &str,
) -> (u16, String) {
    let address: SocketAddr = secure.server.running.secure_http.unwrap();
    let mut config = (*secure.authority.client_config(own)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let ask = async {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(PILOT).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {PILOT}\r\nconnection: close\r\n{authorization}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = in_time("a page", ask).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[tokio::test]
async fn debug_pages_beyond_loopback_are_for_those_who_are_named() {
    let secure = Secure::with(|config| {
        config.secure_http_addr = Some(([127, 0, 0, 1], 0).into());
        config.identity = IdentityConfig {
            readers: Readers::new(vec![
                "ops/doctor".parse().unwrap(),
                "system:serviceaccounts:audit".parse().unwrap(),
            ]),
            ..IdentityConfig::default()
        };
    })
    .await;
    let paths = ["/debug/syncz", "/debug/config_dump?proxyID=x", "/debug/registryz", "/", "/debug"];
    for path in paths {
        let (status, text) = page(&secure, None, path, "").await;
        assert_eq!(status, 401, "{text}");
        assert!(
            text.contains("www-authenticate: Bearer") && text.contains("--debug-identities"),
            "{text}"
        );
        let (status, text) = page(&secure, Some(&secure.client(WEB)), path, "").await;
        assert_eq!(status, 403);
        let sentence = format!(
            "{WEB} may not read the debug pages: --debug-identities does not name shop/web.\n"
        );
        assert!(text.ends_with(&sentence), "{text}");
        let basic = "authorization: Basic c2VjcmV0\r\n";
        let (status, text) = page(&secure, Some(&secure.client(OPS)), path, basic).await;
        assert!(status == 401 && !text.contains("c2VjcmV0"), "{text}");
    }
    let auditor = "spiffe://cluster.local/ns/audit/sa/anybody";
    for uri in [OPS, auditor] {
        let (status, text) = page(&secure, Some(&secure.client(uri)), "/debug/registryz", "").await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("web.default.svc.cluster.local"), "{text}");
    }
    // By gRPC it is the same.
    let address = secure.server.running.secure_http.unwrap();
    for (uri, code) in [(OPS, Code::Ok), (WEB, Code::PermissionDenied)] {
        let own = secure.client(uri);
        let channel =
            xds_client::connect_by_tls(address, &secure.authority.pem(), Some(&own)).await.unwrap();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let checked = health.check(tonic_health::pb::HealthCheckRequest::default()).await;
        assert_eq!(checked.map_or_else(|status| status.code(), |_| Code::Ok), code);
    }
    // The monitoring port says nothing of configuration, whoever asks.
    for path in ["/metrics", "/version", "/ready", "/live", "/debug", "/debug/syncz", "/"] {
        let url = format!("http://{}{path}", secure.server.running.monitoring);
        let (_, text) = pilothouse_testkit::get(&url).await.unwrap();
        for word in ["web.default", "10.0.0.1", "spiffe", "outbound|"] {
            assert!(!text.contains(word), "{path}: {text}");
        }
    }
}

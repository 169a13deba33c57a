//! ServiceAccount tokens as the real API server makes them, over TLS, and both ways to verify them.

use std::net::{Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pilothouse_testkit::certificates::{Authority, SecretVolume};
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::xds_client::{CDS, PILOT, Stream, connect_by_tls, delta, node, requests};
use pilothouse_testkit::{http, in_time, repository, until};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::ApiServer;

type Delta = Stream<
    envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest,
    envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse,
>;

impl ApiServer {
    /// The ServiceAccount `shop/web`, and the same name elsewhere.
    async fn accounts(&self) {
        for namespace in ["shop", "other"] {
            self.admin.run(&["create", "namespace", namespace]).await;
            self.admin.run(&["-n", namespace, "create", "serviceaccount", "web"]).await;
        }
    }

    /// A token of `shop/web` for an audience, by TokenRequest.
    async fn token(&self, audience: &str, more: &[&str]) -> String {
        let base =
            ["-n", "shop", "create", "token", "web", "--duration=10m", "--audience", audience];
        self.admin.run(&[&base[..], more].concat()).await.trim().to_owned()
    }

    /// A token of `shop/web` that is bound to this pod, as the kubelet projects it.
    async fn token_of_pod(&self, name: &str) -> String {
        let pod = self.admin.json(&["-n", "shop", "get", "pod", name]).await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let bound =
            ["--bound-object-kind=Pod", "--bound-object-name", name, "--bound-object-uid", uid];
        self.token("istio-ca", &bound).await
    }

    async fn pod(&self, name: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "serviceAccountName": "web", "containers": [{ "name": "app", "image": "app" }] },
        });
        self.admin.apply(&[pod]).await;
    }

    async fn allow_keys(&self) {
        let role = "--clusterrole=system:service-account-issuer-discovery";
        self.admin.run(&["create", "clusterrolebinding", "keys", role, "--user=pilot"]).await;
    }

    /// What manifests/secure/token-review allows.
    async fn allow_reviews(&self) {
        let path = repository().join("manifests/secure/token-review/cluster-role.yaml");
        self.admin.run(&["apply", "-f", &path.display().to_string()]).await;
        let patch = json!([{ "op": "replace", "path": "/subjects",
            "value": [{ "kind": "User", "name": "pilot", "apiGroup": "rbac.authorization.k8s.io" }] }]);
        let role = "istio-pilot-token-review-istio-system";
        let patch = patch.to_string();
        self.admin.run(&["patch", "clusterrolebinding", role, "--type=json", "-p", &patch]).await;
    }
}

/// One stream by C-core with a token as its call credentials.
const C_CORE: &str = r#"
import os, sys, threading
import grpc
address, name, token, request = sys.argv[1:]
tls = grpc.ssl_channel_credentials(root_certificates=os.environ["AUTHORITY"].encode())
both = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(token))
ended = threading.Event()
def requests():
    yield bytes.fromhex(request)
    ended.wait()
service = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
with grpc.secure_channel(address, both, [("grpc.ssl_target_name_override", name)]) as channel:
    call = channel.stream_stream(service)(requests(), timeout=60)
    try:
        print("OK" if len(next(call)) > 0 else "an empty response")
    except grpc.RpcError as error:
        print(error.code().name, error.details())
    ended.set()
    call.cancel()
"#;

/// A control plane that serves over TLS whoever has a token.
struct Secured {
    control: ControlPlane,
    authority: Authority,
    _files: SecretVolume,
}

impl Secured {
    async fn start(server: &ApiServer, verification: &str) -> Self {
        let authority = Authority::new("tokens");
        let files = SecretVolume::new(&authority.server(&[PILOT]), &authority.pem());
        let file = |name: &str| files.path(name).display().to_string();
        let mut command = pilothouse(&["serve", "--source", "kube"]);
        command.args(["--secure-grpc-addr", "127.0.0.1:0", "--token-verification", verification]);
        command.args(["--tls-cert", &file("tls.crt"), "--tls-key", &file("tls.key")]);
        command.env("KUBECONFIG", server.kubeconfig("pilot"));
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let control = ControlPlane::start_command(command, any).await;
        control.becomes_ready().await;
        Self { control, authority, _files: files }
    }

    /// A stream of `web-0` in `namespace` with this token, once it has been answered.
    async fn open(&self, token: &str, namespace: &str) -> Result<Delta, (Code, String)> {
        let address = self.control.secure_grpc.expect("--secure-grpc-addr is given");
        let channel = connect_by_tls(address, &self.authority.pem(), None).await.unwrap();
        let (send, stream) = requests();
        let mut first = delta(CDS, &["*"]);
        let id = format!("sidecar~10.1.0.1~web-0.{namespace}~{namespace}.svc.cluster.local");
        first.node = Some(node(&id));
        send.send(first).await.unwrap();
        let mut request = Request::new(stream);
        let bearer: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let told = |status: tonic::Status| (status.code(), status.message().to_owned());
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(request)
            .await;
        let mut stream = Stream { send, responses: responses.map_err(told)?.into_inner() };
        match stream.next().await.map_err(told)? {
            Some(_) => Ok(stream),
            None => panic!("the stream ended without a word"),
        }
    }

    /// The refusal of this token.
    async fn refusal(&self, token: &str, namespace: &str) -> (Code, String) {
        match self.open(token, namespace).await {
            Err(refusal) => refusal,
            Ok(_) => panic!("the token is accepted"),
        }
    }

    /// Waits until the token is accepted.
    async fn accepts(&self, token: &str) -> Delta {
        let mut stream = None;
        until("the token to be accepted", async || {
            stream = Some(self.open(token, "shop").await.map_err(|error| format!("{error:?}"))?);
            Ok(())
        })
        .await;
        stream.unwrap()
    }

    /// What C-core is answered with this token: `OK`, or the status and its sentence.
    async fn tell_c_core(&self, token: &str, namespace: &str) -> String {
        let address = self.control.secure_grpc.expect("--secure-grpc-addr is given").to_string();
        let mut first = delta(CDS, &["*"]);
        let id = format!("sidecar~10.1.0.1~web-0.{namespace}~{namespace}.svc.cluster.local");
        first.node = Some(node(&id));
        let request: String =
            first.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut python = Command::new(repository().join(".tools/venv/bin/python"));
        python.args(["-c", C_CORE, &address, PILOT, token, &request]);
        let output = python.env("AUTHORITY", self.authority.pem()).kill_on_drop(true).output();
        let output = in_time("an answer of C-core", output).await.expect("python runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn tokens(&self) -> Value {
        self.control.debug("sourcez").await.unwrap()["tokens"].clone()
    }

    async fn count(&self, result: &str) -> f64 {
        let sample = format!("pilothouse_token_verifications_total{{result=\"{result}\"}}");
        self.control.metric(&sample).await.unwrap()
    }

    /// What is refused whichever way tokens are verified.
    async fn refuses_what_is_not_for_it(&self, server: &ApiServer) {
        let (code, said) = self.refusal(&server.token("vault", &[]).await, "shop").await;
        assert_eq!(code, Code::Unauthenticated, "{said}");
        assert!(said.contains("the audience \"vault\", and \"istio-ca\" is wanted"), "{said}");
        let (code, said) = self.refusal("admin-token", "shop").await;
        assert!(code == Code::Unauthenticated && said.contains("no JSON Web Token"), "{said}");
        let (code, said) = self.refusal(&server.token("istio-ca", &[]).await, "other").await;
        assert!(code == Code::PermissionDenied, "{code:?}: {said}");
        assert!(said.contains("other") && said.contains("shop"), "{said}");
    }
}

/// The same token with claims of somebody else.
fn forged(token: &str, other: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let claims = other.split('.').nth(1).unwrap();
    format!("{}.{claims}.{}", parts[0], parts[2])
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn tokens_are_verified_by_the_api_servers_published_keys() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.accounts().await;
    let pilot = Secured::start(&server, "keys").await;
    let token = server.token("istio-ca", &[]).await;

    // The right to read the keys is missing.
    let mut said = (Code::Ok, String::new());
    until("the missing right to be named", async || {
        said = pilot.refusal(&token, "shop").await;
        if said.1.contains("403") { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    assert_eq!(said.0, Code::Unavailable);
    assert!(said.1.contains("system:service-account-issuer-discovery"), "{}", said.1);
    let shown = pilot.tokens().await;
    assert!(shown["lastError"].as_str().unwrap().contains("403"), "{shown}");
    assert_eq!(shown["keys"], json!([]));

    server.allow_keys().await;
    let _stream = pilot.accepts(&token).await;
    let shown = pilot.tokens().await;
    assert_eq!(shown["verification"], "keys");
    assert_eq!(shown["audiences"], json!(["istio-ca"]));
    assert_eq!(shown["issuer"], "https://kubernetes.default.svc");
    assert_eq!(shown["keys"].as_array().unwrap().len(), 1, "{shown}");
    assert!(shown["ageSeconds"].as_f64().is_some() && shown.get("lastError").is_none(), "{shown}");
    let url = format!("http://{}/debug/syncz", pilot.control.http);
    let page = http::get(&url, None).await.unwrap().body;
    assert!(page.contains("spiffe://cluster.local/ns/shop/sa/web"), "{page}");
    assert!(pilot.count("valid").await >= 1.0);

    pilot.refuses_what_is_not_for_it(&server).await;
    assert_eq!(pilot.count("audience").await, 1.0);
    assert_eq!(pilot.tell_c_core(&token, "shop").await, "OK");
    let said = pilot.tell_c_core(&server.token("vault", &[]).await, "shop").await;
    assert!(said.starts_with("UNAUTHENTICATED") && said.contains("\"vault\""), "{said}");
    let said = pilot.tell_c_core(&token, "other").await;
    assert!(said.starts_with("PERMISSION_DENIED") && said.contains("other"), "{said}");
    let others = ["-n", "other", "create", "token", "web", "--duration=10m", "--audience=istio-ca"];
    let other = server.admin.run(&others).await;
    let (code, said) = pilot.refusal(&forged(&token, other.trim()), "other").await;
    assert!(code == Code::Unauthenticated && said.contains("was altered"), "{said}");

    // Signatures say nothing of a pod that is gone: the token counts until it expires.
    server.pod("web-0").await;
    let of_pod = server.token_of_pod("web-0").await;
    server.admin.run(&["-n", "shop", "delete", "pod", "web-0", "--force"]).await;
    assert!(pilot.open(&of_pod, "shop").await.is_ok());
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn tokens_are_reviewed_by_the_api_server() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.accounts().await;
    let pilot = Secured::start(&server, "review").await;
    let token = server.token("istio-ca", &[]).await;

    let (code, said) = pilot.refusal(&token, "shop").await;
    assert_eq!(code, Code::Unavailable, "{said}");
    assert!(said.contains("403") && said.contains("to create tokenreviews"), "{said}");
    let shown = pilot.tokens().await;
    assert_eq!(shown["verification"], "review");
    assert!(shown["lastError"].as_str().unwrap().contains("tokenreviews"), "{shown}");

    server.allow_reviews().await;
    drop(pilot.accepts(&token).await);
    assert!(pilot.tokens().await.get("lastError").is_none());
    pilot.refuses_what_is_not_for_it(&server).await;
    let others = ["-n", "other", "create", "token", "web", "--duration=10m", "--audience=istio-ca"];
    let other = server.admin.run(&others).await;
    let (code, said) = pilot.refusal(&forged(&token, other.trim()), "other").await;
    assert!(code == Code::Unauthenticated && said.contains("does not accept"), "{said}");

    // The API server knows that a pod is gone.
    server.pod("web-0").await;
    let before = server.token_of_pod("web-0").await;
    // Each is asked about once: an answer is believed for a while.
    let mut after = Vec::new();
    for _ in 0..20 {
        after.push(server.token_of_pod("web-0").await);
    }
    assert!(pilot.open(&before, "shop").await.is_ok());
    server.admin.run(&["-n", "shop", "delete", "pod", "web-0", "--force"]).await;
    let mut said = (Code::Ok, String::new());
    until("the token of a pod that is gone to be refused", async || {
        let one = after.pop().expect("one of twenty is refused");
        said = pilot.open(&one, "shop").await.err().ok_or("it is accepted")?;
        Ok(())
    })
    .await;
    assert_eq!(said.0, Code::Unauthenticated, "{}", said.1);
    assert!(said.1.contains("does not accept"), "{}", said.1);
    assert!(pilot.count("rejected").await >= 2.0);
}

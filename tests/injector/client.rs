//! A running injector with files of its own, and the client of an API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pilothouse::sidecar::injector::{self, Injector, InjectorConfig};
use pilothouse_testkit::certificates::{Authority, SecretVolume};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The Service's name, by which an API server asks.
pub(crate) const NAME: &str = "pilothouse-injector.istio-system.svc";

/// Longer than anything here takes on a machine that is busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Running {
    pub(crate) injector: Injector,
    pub(crate) authority: Authority,
    pub(crate) volume: SecretVolume,
    pub(crate) folder: TempDir,
}

impl Running {
    /// Ready to answer by these settings.
    pub(crate) async fn new(settings: &str) -> Self {
        let running = Self::starting(settings).await;
        running.until_ready("ready\n").await;
        running
    }

    /// Started, with files that may be good for nothing.
    pub(crate) async fn starting(settings: &str) -> Self {
        let authority = Authority::new("injector");
        let volume = SecretVolume::new(&authority.server(&[NAME]), &authority.pem());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, settings).unwrap();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = InjectorConfig {
            address: any_port,
            monitoring_address: any_port,
            certificate: volume.path("tls.crt"),
            key: volume.path("tls.key"),
            settings: file,
            reload_interval: Duration::from_millis(20),
            drain: Duration::ZERO,
        };
        let injector = injector::start(config).await.unwrap();
        Self { injector, authority, volume, folder }
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// What `/ready` says once it contains this.
    pub(crate) async fn until_ready(&self, words: &str) -> String {
        self.until("/ready", |page| page.contains(words)).await
    }

    /// A page of the monitoring port, once it is as it should be.
    pub(crate) async fn until(&self, path: &str, is: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let page = self.page(path).await;
            if is(&page) {
                return page;
            }
            assert!(began.elapsed() < DEADLINE, "{path} still says: {page}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        let socket = TcpStream::connect(self.injector.monitoring).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, "injector");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body();
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// What a metric without labels, or with these in braces, says.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.injector.address, self.authority.client_config(None)).await.unwrap()
    }

    /// Asks once, on a connection of its own.
    pub(crate) async fn review(&self, review: &Value) -> Value {
        self.client().await.review(review).await
    }
}

/// One connection.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<Self, String> {
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(NAME).unwrap();
        let socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
        let socket = TokioIo::new(socket.map_err(|error| error.to_string())?);
        let (sender, connection) =
            http1::handshake(socket).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> (StatusCode, String) {
        let request =
            Request::post(path).header(header::HOST, NAME).header(header::CONTENT_TYPE, kind);
        let request = request.body(Full::new(body)).unwrap();
        self.0.ready().await.unwrap();
        let answer = self.0.send_request(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The response within the answer, which must be one.
    pub(crate) async fn review(&mut self, review: &Value) -> Value {
        let body = review.to_string().into();
        let (status, body) = self.post("/inject?timeout=10s", "application/json", body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["response"].clone()
    }
}

/// A review as an API server asks it.
pub(crate) fn review_of(pod: &Value, namespace: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": namespace, "operation": "CREATE",
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
            "object": pod, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// The pod that an API server makes of an answer.
pub(crate) fn patched(pod: &Value, response: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(patch) = response.get("patch") {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch: k8s_openapi::ByteString = serde_json::from_value(patch.clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
    }
    pod
}

pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "web-6d4-", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
    })
}

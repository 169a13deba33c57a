//! A real Envoy with route tables from files: one listener for each table.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{envoy, eventually, http, places};
use prost::{Message as _, Name as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outcome::{Headers, Request, append};

/// It compiles some ten thousand regular expressions.
const START: Duration = Duration::from_secs(60);

/// By this header a request finds its virtual host, so that its Host may be any.
const CASE: &str = "x-case";

pub(crate) struct TestEnvoy {
    process: Process,
    _folder: TempDir,
    admin: String,
    pub(crate) listeners: Vec<SocketAddr>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: String,
}

/// A table of these cases: the routes of the case with the number `n` answer to requests for it.
pub(crate) fn table(cases: Vec<Vec<Route>>) -> RouteConfiguration {
    let host = |(number, routes): (usize, _)| VirtualHost {
        name: format!("case-{number}"),
        domains: vec![number.to_string()],
        routes,
        ..Default::default()
    };
    RouteConfiguration {
        virtual_hosts: cases.into_iter().enumerate().map(host).collect(),
        validate_clusters: Some(BoolValue { value: false }),
        vhost_header: CASE.to_owned(),
        ..Default::default()
    }
}

impl TestEnvoy {
    /// Has taken, or rejected, all tables. Clusters by name, with the address of their one endpoint.
    pub(crate) async fn start(
        tables: Vec<RouteConfiguration>,
        clusters: &[(String, SocketAddr)],
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut listeners = Vec::new();
        let mut listener_configs = Vec::new();
        for (number, table) in tables.into_iter().enumerate() {
            let at = SocketAddr::new(places::address(), places::port());
            let name = format!("table-{number}");
            write_table(folder.path(), &name, table);
            listener_configs.push(listener(folder.path(), &name, at));
            listeners.push(at);
        }
        let clusters: Vec<_> = clusters.iter().map(|(name, at)| cluster(name, *at)).collect();
        let bootstrap = json!({
            "node": { "id": "test", "cluster": "test" },
            "admin": { "address": address("127.0.0.1:0".parse().unwrap()) },
            "static_resources": { "listeners": listener_configs, "clusters": clusters },
        });
        std::fs::write(folder.path().join("envoy.json"), bootstrap.to_string()).unwrap();
        let mut command = Command::new(envoy::program());
        command.current_dir(folder.path());
        command.args(["-c", "envoy.json", "--admin-address-path", "admin"]);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        let mut process = Process::start("envoy", &mut command);
        let file = folder.path().join("admin");
        let admin = eventually(START, "Envoy's admin address", async || {
            if let Some(status) = process.status() {
                panic!("Envoy ended with {status}");
            }
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            let admin: SocketAddr = text.parse().map_err(|_| format!("{text:?}"))?;
            let ready = http::get(&format!("http://{admin}/ready"), None).await?;
            if ready.status == 200 { Ok(admin) } else { Err(ready.body) }
        })
        .await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { process, _folder: folder, admin: format!("http://{admin}"), listeners, client }
    }

    /// It has taken every table.
    pub(crate) async fn assert_took_all(&self) {
        let url = format!(
            "{}/stats?format=json&filter=%5C.rds%5C..*update_(rejected|success)",
            self.admin
        );
        let page = http::json(&url).await.expect("its statistics");
        let count = |of: &str| {
            let all = page["stats"].as_array().unwrap().iter();
            let of = all.filter(|one| one["name"].as_str().unwrap().ends_with(of));
            of.map(|one| one["value"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let said: Vec<_> = self.process.lines().into_iter().take(5).collect();
        assert_eq!(count("update_rejected"), vec![0; self.listeners.len()], "{said:#?}");
        assert_eq!(count("update_success"), vec![1; self.listeners.len()], "{said:#?}");
    }

    /// Asks the first listener, for a case.
    pub(crate) async fn ask(&self, case: usize, request: &Request) -> Answer {
        let target = request.target(&request.path);
        let mut built = ::http::Request::builder()
            .method(&*request.method)
            .uri(format!("http://{}{target}", self.listeners[0]))
            .header("host", &request.host)
            .header(CASE, case.to_string());
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let response = self.client.request(built.body(Empty::new()).unwrap()).await.unwrap();
        let mut headers = Headers::new();
        for (name, value) in response.headers() {
            append(&mut headers, name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
    }
}

fn write_table(folder: &Path, name: &str, mut table: RouteConfiguration) {
    table.name = name.to_owned();
    let type_url = RouteConfiguration::type_url();
    let response = DiscoveryResponse {
        version_info: "1".to_owned(),
        resources: vec![Any { type_url: type_url.clone(), value: table.encode_to_vec() }],
        type_url,
        ..Default::default()
    };
    std::fs::write(folder.join(format!("{name}.pb")), response.encode_to_vec()).unwrap();
}

fn typed(name: &str, extension: &str) -> Value {
    let url = format!("type.googleapis.com/envoy.extensions.filters.{extension}");
    json!({ "name": name, "typed_config": { "@type": url } })
}

fn listener(folder: &Path, table: &str, at: SocketAddr) -> Value {
    let mut manager = typed("manager", "network.http_connection_manager.v3.HttpConnectionManager");
    let config = &mut manager["typed_config"];
    config["stat_prefix"] = json!(table);
    config["rds"] = json!({
        "route_config_name": table,
        "config_source": {
            "resource_api_version": "V3",
            "path_config_source": { "path": folder.join(format!("{table}.pb")) },
        },
    });
    config["http_filters"] = json!([
        typed("envoy.filters.http.cors", "http.cors.v3.Cors"),
        typed("envoy.filters.http.router", "http.router.v3.Router"),
    ]);
    json!({ "name": table, "address": address(at), "filter_chains": [{ "filters": [manager] }] })
}

fn cluster(name: &str, at: SocketAddr) -> Value {
    let endpoint = json!({ "endpoint": { "address": address(at) } });
    json!({
        "name": name,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}

//! Bookinfo on one machine or in one pod: six small workloads that call each other through an Envoy.
//!
//! `details`, `ratings`, `reviews` (v1 to v3) and `productpage` are Istio's well-known sample; paths
//! and texts are its own. Here each workload is a listener of one process, on a loopback address of
//! its own, the one that the manifests beside this file name as its endpoint. In a cluster the same
//! program plays one workload per pod (`--workload reviews-v2 --address 0.0.0.0`).
//!
//! Every call to another service goes to the Envoy at `--proxy` with the service's name as `Host`,
//! as a program behind a proxy does; without `--proxy` it goes to that name itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod page;
mod visitor;

/// A call that takes longer than this has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Handed on unchanged to every call that a visit leads to: who visits, by which routes may choose a version (Istio's
/// sample has the name from its login), and what tracing needs to see one visit as one.
const FORWARDED_HEADERS: [&str; 10] = [
    "end-user",
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The workloads and the addresses that the manifests beside this file give them.
const WORKLOADS: [(&str, Ipv4Addr); 6] = [
    ("details-v1", Ipv4Addr::new(127, 0, 1, 1)),
    ("ratings-v1", Ipv4Addr::new(127, 0, 1, 2)),
    ("productpage-v1", Ipv4Addr::new(127, 0, 1, 3)),
    ("reviews-v1", Ipv4Addr::new(127, 0, 1, 11)),
    ("reviews-v2", Ipv4Addr::new(127, 0, 1, 12)),
    ("reviews-v3", Ipv4Addr::new(127, 0, 1, 13)),
];

/// Plays bookinfo's workloads: details, ratings, reviews v1 to v3, productpage.
#[derive(Debug, Parser)]
struct Args {
    /// The Envoy that calls to other services go through, as HOST:PORT; without it they go to the
    /// services' own names
    #[arg(long, env = "BOOKINFO_PROXY")]
    proxy: Option<String>,

    /// Play only this workload (repeatable): details-v1, ratings-v1, productpage-v1, reviews-v1 to -v3
    #[arg(long = "workload", value_parser = WORKLOADS.map(|(name, _)| name))]
    workloads: Vec<String>,

    /// Listen on this address instead of each workload's own 127.0.1.x
    #[arg(long)]
    address: Option<IpAddr>,

    /// Port of every workload; the manifests' EndpointSlices must say the same
    #[arg(long, default_value_t = 9080)]
    port: u16,

    /// Port by which services are called, as their Services say
    #[arg(long, default_value_t = 9080)]
    service_port: u16,

    /// Instead of playing workloads, ask for SERVICE:PORT/PATH again and again (repeatable) and print
    /// one line of JSON for each answer
    #[arg(long, conflicts_with_all = ["workloads", "address"])]
    visit: Vec<String>,

    /// Visit as this user: the header end-user of every visit
    #[arg(long, requires = "visit")]
    user: Option<HeaderValue>,

    /// Pause between two visits, in milliseconds
    #[arg(long, default_value_t = 50)]
    every_ms: u64,

    /// Visit each place as often as this, then end
    #[arg(long, requires = "visit")]
    times: Option<usize>,

    /// Go on for as many seconds after SIGTERM, as an application does that finishes its work
    #[arg(long, default_value_t = 0)]
    linger: u64,

    /// Name to answer with, where there is a better one than the workload's
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
}

/// One running workload: who it is, and how it reaches the others.
#[derive(Debug)]
struct Workload {
    /// `reviews-v2`
    name: String,
    pod: String,
    client: Client<HttpConnector, Empty<Bytes>>,
    proxy: Option<String>,
    service_port: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let chosen = |name: &str| args.workloads.is_empty() || args.workloads.iter().any(|w| w == name);
    let client = Client::builder(TokioExecutor::new()).build_http();
    if !args.visit.is_empty() {
        let every = Duration::from_millis(args.every_ms);
        let end_user = args.user.map(|user| (HeaderName::from_static("end-user"), user));
        let headers = HeaderMap::from_iter(end_user);
        let proxy = args.proxy.as_deref();
        return visitor::run(&client, proxy, &args.visit, &headers, every, args.times).await;
    }

    // All addresses are bound before anything is served: a taken port ends it with nothing half up.
    let mut listeners = Vec::new();
    for (name, address) in WORKLOADS.into_iter().filter(|(name, _)| chosen(name)) {
        let address = SocketAddr::new(args.address.unwrap_or(IpAddr::V4(address)), args.port);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("{name} cannot listen on {address} (--port moves it, the EndpointSlices must follow)")
        })?;
        println!("bookinfo: {name} on http://{address}");
        let workload = Workload {
            name: name.to_owned(),
            pod: args.pod_name.clone().unwrap_or_else(|| name.to_owned()),
            client: client.clone(),
            proxy: args.proxy.clone(),
            service_port: args.service_port,
        };
        listeners.push((listener, router(Arc::new(workload))));
    }

    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    for (listener, router) in listeners {
        let stopped = stop.clone().cancelled_owned();
        servers.spawn(axum::serve(listener, router).with_graceful_shutdown(stopped).into_future());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => tokio::time::sleep(Duration::from_secs(args.linger)).await,
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.cancel();
    while let Some(served) = servers.join_next().await {
        served??;
    }
    Ok(())
}

/// The paths of this workload's service, which are those of Istio's sample.
fn router(workload: Arc<Workload>) -> Router {
    let paths = match workload.service() {
        "details" => Router::new().route("/details/{id}", get(details)),
        "ratings" => Router::new().route("/ratings/{id}", get(ratings)),
        "reviews" => Router::new().route("/reviews/{id}", get(reviews)),
        _ => Router::new()
            .route("/productpage", get(product_page))
            .route("/api/v1/products/{id}", get(product)),
    };
    paths.route("/health", get(health)).route("/slow/{seconds}", get(slow)).with_state(workload)
}

/// Work that takes its time.
async fn slow(me: State<Arc<Workload>>, Path(seconds): Path<u64>) -> Json<Value> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    health(me).await
}

async fn health(State(me): State<Arc<Workload>>) -> Json<Value> {
    Json(json!({ "status": "healthy", "workload": me.name, "pod": me.pod }))
}

async fn details(State(me): State<Arc<Workload>>, Path(id): Path<u32>) -> Json<Value> {
    Json(json!({
        "id": id, "workload": me.name, "pod": me.pod,
        "title": "The Comedy of Errors", "author": "William Shakespeare", "year": 1595,
        "type": "paperback", "pages": 200, "publisher": "PublisherA", "language": "English",
        "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
    }))
}

async fn ratings(State(me): State<Arc<Workload>>, Path(id): Path<u32>) -> Json<Value> {
    Json(json!({
        "id": id, "workload": me.name, "pod": me.pod,
        "ratings": { "Reviewer1": 5, "Reviewer2": 4 },
    }))
}

/// Reviews; v2 and v3 ask ratings for stars. Without an answer the reviews are shown all the same.
async fn reviews(
    State(me): State<Arc<Workload>>,
    Path(id): Path<u32>,
    headers: HeaderMap,
) -> Json<Value> {
    let color = match me.version() {
        "v2" => Some("black"),
        "v3" => Some("red"),
        _ => None,
    };
    let rated = match color {
        Some(_) => Some(me.call("ratings", &format!("/ratings/{id}"), &headers).await),
        None => None,
    };
    let stars = |reviewer: &str| match &rated {
        None => Value::Null,
        Some(Ok(rated)) => json!({ "stars": rated["ratings"][reviewer], "color": color }),
        Some(Err(error)) => json!({ "error": error }),
    };
    Json(json!({
        "id": id, "workload": me.name, "pod": me.pod,
        "ratings_from": rated.as_ref().and_then(|rated| rated.as_ref().ok()).map(|rated| &rated["pod"]),
        "reviews": [
            {
                "reviewer": "Reviewer1",
                "text": "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
                "rating": stars("Reviewer1"),
            },
            {
                "reviewer": "Reviewer2",
                "text": "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
                "rating": stars("Reviewer2"),
            },
        ],
    }))
}

/// The whole product as JSON: 502 if a part is missing, so that a script notices.
async fn product(
    State(me): State<Arc<Workload>>,
    Path(id): Path<u32>,
    headers: HeaderMap,
) -> (StatusCode, Json<Value>) {
    let (details, reviews) = me.parts(id, &headers).await;
    let status =
        if details.is_ok() && reviews.is_ok() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let part = |part: Result<Value, String>| part.unwrap_or_else(|error| json!({ "error": error }));
    let body = json!({
        "id": id, "workload": me.name, "pod": me.pod,
        "details": part(details), "reviews": part(reviews),
    });
    (status, Json(body))
}

/// The product as a page for people, who are told in it which part is missing.
async fn product_page(State(me): State<Arc<Workload>>, headers: HeaderMap) -> Html<String> {
    let (details, reviews) = me.parts(0, &headers).await;
    Html(page::render(&me.pod, details.as_ref(), reviews.as_ref()))
}

impl Workload {
    fn service(&self) -> &str {
        self.name.rsplit_once('-').map_or(self.name.as_str(), |(service, _)| service)
    }

    fn version(&self) -> &str {
        self.name.rsplit_once('-').map_or("", |(_, version)| version)
    }

    /// What productpage is made of, asked for at the same time.
    async fn parts(
        &self,
        id: u32,
        headers: &HeaderMap,
    ) -> (Result<Value, String>, Result<Value, String>) {
        let (details, reviews) = (format!("/details/{id}"), format!("/reviews/{id}"));
        tokio::join!(
            self.call("details", &details, headers),
            self.call("reviews", &reviews, headers)
        )
    }

    /// Another service's JSON answer to a GET, or why there is none.
    async fn call(&self, service: &str, path: &str, headers: &HeaderMap) -> Result<Value, String> {
        let host = format!("{service}:{}", self.service_port);
        let place = self.proxy.as_deref().unwrap_or(&host);
        let why = match ask(&self.client, place, &host, path, headers).await {
            Ok((status, body)) if status.is_success() => match serde_json::from_slice(&body) {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
            Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body)),
            Err(why) => why,
        };
        Err(format!("{host} by {place}: {why}"))
    }
}

/// The answer to one GET for `host`, sent to `place`, with those of `headers` that are forwarded.
async fn ask(
    client: &Client<HttpConnector, Empty<Bytes>>,
    place: &str,
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<(StatusCode, Bytes), String> {
    let mut request = Request::get(format!("http://{place}{path}")).header(header::HOST, host);
    for name in FORWARDED_HEADERS {
        for value in headers.get_all(name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let answered = async {
        let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(CALL_TIMEOUT, answered)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {} s", CALL_TIMEOUT.as_secs())))
}

//! Backends that answer with what they were asked.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::Request;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use pilothouse_testkit::places;

#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) at: SocketAddr,
    server: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start(name: String) -> Self {
        let at = SocketAddr::new(places::address(), places::port());
        let listener = TcpListener::bind(at).await.expect("the address is nobody else's");
        let answer = move |request: Request| {
            let body = Json(seen(&name, &request));
            std::future::ready(([("x-a", "backend"), ("x-b", "backend")], body))
        };
        let router = axum::Router::new().fallback(answer);
        let server = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Self { at, server }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn seen(name: &str, request: &Request) -> Value {
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]));
    json!({
        "backend": name,
        "target": request.uri().to_string(),
        "headers": headers.collect::<Vec<_>>(),
    })
}

//! Workloads: tiny servers on loopback addresses of their own that say who they are.

use std::net::IpAddr;
use std::sync::OnceLock;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::places;

/// The port that workloads listen on, each on its own address, as pods do.
pub fn target_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(places::port)
}

/// A workload that runs until dropped.
#[derive(Debug)]
pub struct Backend {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    server: JoinHandle<()>,
}

impl Backend {
    /// Answers every request with its name and the HTTP version that it was spoken to in; HTTP/1.1
    /// and HTTP/2 with prior knowledge both will do.
    pub async fn http(name: &str) -> Self {
        let (address, listener) = bind().await;
        let who = name.to_owned();
        let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
            std::future::ready(format!("{who} {:?}", request.version()))
        });
        let server = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Self { name: name.to_owned(), address, port: target_port(), server }
    }

    /// Says its name to whoever connects, and hangs up.
    pub async fn tcp(name: &str) -> Self {
        Self::tcp_at(name, places::address(), target_port()).await
    }

    /// The same in a place of the caller's choice.
    pub async fn tcp_at(name: &str, address: IpAddr, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).await.expect("it is nobody else's");
        let who = name.to_owned();
        let server = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                _ = connection.write_all(who.as_bytes()).await;
            }
        });
        Self { name: name.to_owned(), address, port, server }
    }

    /// Takes connections and never says a word.
    pub async fn silent(name: &str) -> Self {
        let (address, listener) = bind().await;
        let server = tokio::spawn(async move {
            // The kernel accepts them.
            let _listener = listener;
            std::future::pending().await
        });
        Self { name: name.to_owned(), address, port: target_port(), server }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn bind() -> (IpAddr, TcpListener) {
    let address = places::address();
    let listener = TcpListener::bind((address, target_port())).await;
    (address, listener.expect("the address is nobody else's"))
}

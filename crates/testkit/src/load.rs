//! Requests that go on while something happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

use crate::http::explain;
use crate::{DEADLINE, eventually};

/// Clients at the same time, and the rest each takes between two requests.
const CLIENTS: usize = 2;
const REST: Duration = Duration::from_millis(2);

/// Runs until dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Tally {
    done: usize,
    /// When it happened, and what it was.
    unexpected: Vec<(Duration, String)>,
}

impl Load {
    /// GETs of `host` through the listener at `at`, over kept connections; answers with another
    /// status than `expected` are failures.
    pub fn start(at: SocketAddr, host: &str, expected: &'static [u16]) -> Self {
        Self::start_from(None, at, host, expected)
    }

    /// The same by a client of this address, whose connections may be captured.
    pub fn start_from(
        client: Option<IpAddr>,
        at: SocketAddr,
        host: &str,
        expected: &'static [u16],
    ) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let start = Instant::now();
        let client = || {
            let (tally, host) = (tally.clone(), host.to_owned());
            tokio::spawn(async move {
                let mut connector = HttpConnector::new();
                connector.set_local_address(client);
                let client =
                    Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
                loop {
                    let request = http::Request::get(format!("http://{at}/"))
                        .header(http::header::HOST, &host)
                        .body(Empty::new())
                        .expect("a valid request");
                    let failed = async {
                        let response =
                            client.request(request).await.map_err(|error| explain(&error))?;
                        let status = response.status().as_u16();
                        let body = response.into_body().collect().await;
                        let body = body.map_err(|error| explain(&error))?.to_bytes();
                        if expected.contains(&status) {
                            return Ok(());
                        }
                        Err(format!("{status} {}", String::from_utf8_lossy(&body)))
                    };
                    let failed = failed.await;
                    {
                        let mut tally = tally.lock().expect("nobody panics here");
                        tally.done += 1;
                        if let Err(failed) = failed {
                            tally.unexpected.push((start.elapsed(), failed));
                        }
                    }
                    tokio::time::sleep(REST).await;
                }
            })
        };
        let clients = (0..CLIENTS).map(|_| client()).collect();
        Self { tally, clients }
    }

    /// Waits until this many more requests are done.
    pub async fn goes_on(&self, more: usize) {
        let wanted = self.done() + more;
        eventually(DEADLINE, &format!("{more} more requests"), async || {
            if self.done() >= wanted { Ok(()) } else { Err(format!("{}", self.done())) }
        })
        .await;
    }

    fn done(&self) -> usize {
        self.tally.lock().expect("nobody panics here").done
    }

    /// None has failed.
    pub fn assert_flawless(&self) {
        let tally = self.tally.lock().expect("nobody panics here");
        let some = &tally.unexpected[..tally.unexpected.len().min(10)];
        assert!(some.is_empty(), "{} of {}: {some:?}", tally.unexpected.len(), tally.done);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

//! What several kinds of tests need: waiting for what must become true, HTTP, processes that end with
//! the test, and Envoys under load (`load`).

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::process::{Child, Command};

#[allow(dead_code)] // few tests do that
pub(crate) mod listener;
pub(crate) mod load;

/// What takes seconds on an idle machine may take this long on a busy one.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Polls `check` until it gives a value; past the deadline panics with what it said last.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > DEADLINE => {
                panic!("waited {DEADLINE:?} for {what}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Status and body of a GET, or why there is no answer.
pub(crate) async fn get(url: &str) -> Result<(u16, String), String> {
    // A client of its own: a test's runtime takes its connections along when it ends.
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answered = async {
        let uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let response = client.get(uri).await.map_err(|error| format!("{url}: {error:?}"))?;
        let status = response.status().as_u16();
        let body =
            response.into_body().collect().await.map_err(|error| format!("{url}: {error}"))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| Err(format!("{url}: no answer")))
}

/// The JSON of a page that must answer 200.
pub(crate) async fn json(url: &str) -> Result<Value, String> {
    match get(url).await? {
        (200, body) => {
            serde_json::from_str(&body).map_err(|error| format!("{url}: {error}: {body}"))
        }
        (status, body) => Err(format!("{url}: {status} {body}")),
    }
}

/// A process of a test, its output in a file that a failure can show; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: std::path::PathBuf) -> Self {
        let file = std::fs::File::create(&log).expect("the log's folder exists");
        let error_file = file.try_clone().expect("a file can be shared");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(error_file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    /// Of the process; none if it has ended and that was noticed.
    #[allow(dead_code)] // benchmarks ask
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

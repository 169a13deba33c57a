//! The events of all replicas as one stream: a task a replica reads its own, for each page that listens.
//! All of it ends with the page's request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{Dashboard, merge};
use crate::operator::ask::{AskError, Replica};
use crate::operator::replicas::Failure;

/// How often the summaries are merged, and replicas are looked for.
const PERIOD: Duration = Duration::from_millis(200);
/// A page takes a server for lost from which it has heard nothing for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Until a replica is asked again that was lost.
const RETRY: Duration = Duration::from_secs(1);
/// Below the time after which `http_server` cuts a connection; the page opens its stream anew.
const MAX_AGE: Duration = Duration::from_secs(150);
/// Messages that wait for the page.
const QUEUED: usize = 64;
/// A message of a replica, at most.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// What a replica's reader has to say.
enum Said {
    Summary(Value),
    Traffic(Value),
    Lost(AskError),
}

pub(super) async fn events(State(dashboard): State<Dashboard>) -> Response {
    let Ok(slot) = dashboard.readers.clone().try_acquire_owned() else {
        let said = "Too many pages listen already; close one and try again.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, said).into_response();
    };
    let stream = async_stream::stream! {
        let _slot = slot;
        let mut readers: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
        let (sender, mut said) = mpsc::channel::<(String, Said)>(QUEUED);
        let mut merged = Merged::default();
        let mut ticks = interval(PERIOD);
        let end = Instant::now() + MAX_AGE;
        yield Ok::<_, Infallible>(Bytes::from_static(b"retry: 500\n\n"));
        while Instant::now() < end {
            tokio::select! {
                () = dashboard.stop.cancelled() => return,
                Some((replica, said)) = said.recv() => {
                    if let Some(message) = merged.take(&replica, said) {
                        yield Ok(message);
                    }
                }
                _ = ticks.tick() => {
                    follow(&dashboard, &mut readers, &sender, &mut merged);
                    if let Some(message) = merged.summary() {
                        yield Ok(message);
                    }
                }
            }
        }
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response()
}

/// A reader for each replica there is, and none for those that have gone.
fn follow(
    dashboard: &Dashboard,
    readers: &mut BTreeMap<String, AbortOnDropHandle<()>>,
    sender: &mpsc::Sender<(String, Said)>,
    merged: &mut Merged,
) {
    let Ok(replicas) = dashboard.replicas() else { return };
    let is_there = |name: &String| replicas.iter().any(|replica| replica.name == *name);
    readers.retain(|name, _| is_there(name));
    merged.summaries.retain(|name, _| is_there(name));
    merged.lost.retain(|name, _| is_there(name));
    for replica in replicas {
        let sender = sender.clone();
        readers.entry(replica.name.clone()).or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(async move { read(&replica, &sender).await }))
        });
    }
}

#[derive(Default)]
struct Merged {
    summaries: BTreeMap<String, Value>,
    lost: BTreeMap<String, String>,
    sent: Option<(Value, Instant)>,
}

impl Merged {
    /// Notes it; a message, if it is one that the page should have at once.
    fn take(&mut self, replica: &str, said: Said) -> Option<Bytes> {
        match said {
            Said::Summary(summary) => {
                self.lost.remove(replica);
                self.summaries.insert(replica.to_owned(), summary);
                None
            }
            Said::Traffic(items) => Some(message("traffic", &merge::traffic(items, replica))),
            Said::Lost(error) => {
                self.summaries.remove(replica);
                self.lost.insert(replica.to_owned(), error.to_string());
                None
            }
        }
    }

    /// The summary, if it differs from the last one, or that it lives, if that is long ago. Nothing while
    /// no replica has answered: the page says that it has lost its server.
    fn summary(&mut self) -> Option<Bytes> {
        if self.summaries.is_empty() {
            return None;
        }
        let lost = self.lost.iter();
        let lost: Vec<_> = lost
            .map(|(replica, error)| Failure { replica: replica.clone(), error: error.clone() })
            .collect();
        let summary = merge::summary(&self.summaries, &lost);
        match &mut self.sent {
            Some((sent, at)) if *sent == summary => {
                if at.elapsed() < KEEP_ALIVE {
                    return None;
                }
                *at = Instant::now();
                Some(Bytes::from_static(b"event: alive\ndata: {}\n\n"))
            }
            _ => {
                let text = message("summary", &summary);
                self.sent = Some((summary, Instant::now()));
                Some(text)
            }
        }
    }
}

/// JSON has no line breaks of its own, so it is one line of data.
fn message(event: &str, data: &Value) -> Bytes {
    format!("event: {event}\ndata: {data}\n\n").into()
}

/// Reads a replica's events for as long as somebody wants them.
async fn read(replica: &Replica, sender: &mpsc::Sender<(String, Said)>) {
    loop {
        let error = read_once(replica, sender).await;
        if let Some(error) = error
            && sender.send((replica.name.clone(), Said::Lost(error))).await.is_err()
        {
            return;
        }
        sleep(RETRY).await;
    }
}

/// Until the stream ends; it does now and then, which is no error.
async fn read_once(replica: &Replica, sender: &mpsc::Sender<(String, Said)>) -> Option<AskError> {
    let mut stream = match replica.stream("/debug/events").await {
        Ok(stream) => stream,
        Err(error) => return Some(error),
    };
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        match stream.next().await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
        while let Some(at) = buffer.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..at + 2).collect();
            let said = match parse(&String::from_utf8_lossy(&event)) {
                Ok(Some(said)) => said,
                Ok(None) => continue,
                Err(error) => return Some(AskError::Nonsense(error)),
            };
            if sender.send((replica.name.clone(), said)).await.is_err() {
                return None;
            }
        }
        if buffer.len() > MAX_MESSAGE_BYTES {
            return Some(AskError::TooLong);
        }
    }
}

/// `None` for what is of no use here.
fn parse(event: &str) -> Result<Option<Said>, String> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = || {
        let data = field("data:").unwrap_or_default();
        serde_json::from_str(data).map_err(|error| error.to_string())
    };
    Ok(match field("event:") {
        Some("summary") => Some(Said::Summary(data()?)),
        Some("traffic") => Some(Said::Traffic(data()?)),
        _ => None,
    })
}

//! A visitor that never tires: what users of the mesh see while it changes, one line per answer.
//!
//! The cluster tests run it as a client pod and read its log.

use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Visits each of `places` (`reviews:9080/reviews/0`) in turn, `times` each if that is said, else until
/// a signal ends it.
///
/// A line has `visit`, and `status` with `pod` (who answered, if it said so), or `error`.
pub(crate) async fn run(
    client: &Client<HttpConnector, Empty<Bytes>>,
    proxy: Option<&str>,
    places: &[String],
    headers: &HeaderMap,
    every: Duration,
    times: Option<usize>,
) -> Result<()> {
    let mut visits = Vec::new();
    for place in places {
        let (host, _) = place.split_once('/').with_context(|| {
            format!("--visit {place}: wanted SERVICE:PORT/PATH, as in reviews:9080/reviews/0")
        })?;
        visits.push((place, host, &place[host.len()..]));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut pace = tokio::time::interval(every);
    let visits_in_all = times.map_or(usize::MAX, |times| times.saturating_mul(visits.len()));
    for (place, host, path) in visits.into_iter().cycle().take(visits_in_all) {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = pace.tick() => {}
        }
        let answer = super::ask(client, proxy.unwrap_or(host), host, path, headers).await;
        let line = match answer {
            Ok((status, body)) => {
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                json!({ "visit": place, "status": status.as_u16(), "pod": body["pod"] })
            }
            Err(why) => json!({ "visit": place, "error": why }),
        };
        println!("{line}");
    }
    Ok(())
}

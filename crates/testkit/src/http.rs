//! One GET at a time, each over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longer than anything here takes, shorter than a deadline.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same where a deadline of minutes is around it.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// The answer to a GET of `url`, with another Host than the URL's if one is given.
pub async fn get(url: &str, host: Option<&str>) -> Result<Answer, String> {
    get_with(url, host.map(|host| ("host", host))).await
}

/// The same with any header.
pub async fn get_with(url: &str, header: Option<(&str, &str)>) -> Result<Answer, String> {
    get_within(PATIENCE, url, header).await
}

/// Status and body of a GET, or why there is no answer.
///
/// # Errors
/// Nobody answers within ten seconds, with the causes.
pub async fn page(url: &str) -> Result<(u16, String), String> {
    let answer = get_within(LONG_PATIENCE, url, None).await;
    let answer = answer.map_err(|error| format!("{url}: {error}"))?;
    Ok((answer.status, answer.body))
}

async fn get_within(
    limit: Duration,
    url: &str,
    header: Option<(&str, &str)>,
) -> Result<Answer, String> {
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http::<Empty<Bytes>>();
    let mut request = http::Request::get(url);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| format!("{url}: {error}"))?;
    let answer = async {
        let response = client.request(request).await.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { status, body })
    };
    let timed = tokio::time::timeout(limit, answer).await;
    timed.map_err(|_| format!("no answer in {limit:?}"))?
}

/// The JSON of a page that must be there.
pub async fn json(url: &str) -> Result<Value, String> {
    let answer = get_within(LONG_PATIENCE, url, None).await?;
    if answer.status != 200 {
        return Err(format!("{url}: {} {}", answer.status, answer.body));
    }
    serde_json::from_str(&answer.body).map_err(|error| format!("{url}: {error}: {}", answer.body))
}

/// With its causes: the error itself says "client error" and little else.
pub fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

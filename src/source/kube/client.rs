//! Finding the API server, and noticing each time it is heard from.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Resource;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::client::Body;
use kube::{Client, Error};
use tokio::sync::watch;
use tower::service_fn;

use super::super::health::Health;
use super::KubeSourceConfig;
use super::observed_body::ObservedBody;
use super::position;
use crate::causes::with_causes;
use crate::kubeconfig;

/// How long to wait for a connection to the API server.
const CONNECT: Duration = Duration::from_secs(10);

/// An API server that may or may not be there.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    /// For messages.
    pub(super) url: Arc<str>,
}

/// A client for the cluster that the operator means ([`kubeconfig::choose`]).
///
/// Fails with a sentence for people when there is no usable configuration; the server itself has
/// not been asked for anything yet.
pub(super) async fn connect(config: &KubeSourceConfig) -> Result<Server, String> {
    let context = config.context.as_deref();
    let problem = |error: &dyn std::error::Error| {
        format!("{}: {}", kubeconfig::describe(context), with_causes(error))
    };
    let mut settings = kubeconfig::choose(context).await.map_err(|error| problem(&error))?;
    settings.connect_timeout = Some(CONNECT);
    // The watcher notices a watch that fell silent, but nothing would notice a list that did.
    settings.read_timeout = Some(config.watch_timeout + Duration::from_secs(10));
    settings.reset_reader_on_write = true;
    // Watches are retried with their own backoff, and health is to see every failure.
    settings.default_retry = false;
    let url = settings.cluster_url.to_string().into();
    Client::try_from(settings).map(|client| Server { client, url }).map_err(|error| problem(&error))
}

pub(super) async fn has_endpoint_slices(client: &Client) -> Result<bool, Error> {
    match client.list_api_group_resources(EndpointSlice::API_VERSION).await {
        Ok(list) => {
            Ok(list.resources.iter().any(|one| one.name == EndpointSlice::URL_PATH_SEGMENT))
        }
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same client, telling `health` whenever the server answers or sends a piece of an answer, and
/// holding watches to the time that they were asked for ([`ObservedBody`]).
///
/// A healthy watch on which nothing happens emits no events, so freshness is measured here: the
/// watch is asked for anew at each timeout, and bookmarks come in between. `position` is told how far the
/// watch has got where no event says it.
pub(super) fn observed(
    client: &Client,
    health: Arc<Health>,
    name: Arc<str>,
    watch_timeout: Duration,
    position: watch::Sender<u64>,
) -> Client {
    let position = Arc::new(position);
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = service_fn(move |mut request: http::Request<Body>| {
        if let Some(newest) = newest(request.uri()) {
            *request.uri_mut() = newest;
        }
        let (client, health, name) = (client.clone(), health.clone(), name.clone());
        let position = position.clone();
        async move {
            let watch = is_watch(request.uri());
            if watch && let Some(from) = position::of_watch_request(request.uri()) {
                position.send_if_modified(|known| std::mem::replace(known, from) != from);
            }
            let response = client.send(request).await?;
            // The text of a refusal is neither a sign of health nor a stream of events.
            let good = response.status().is_success();
            let (health, lasts) =
                (good.then_some(health), (good && watch).then_some(watch_timeout));
            if let Some(health) = &health {
                health.contact(&name);
            }
            Ok::<_, Error>(
                response.map(|body| ObservedBody::new(body, health, name, lasts, position)),
            )
        }
    });
    Client::new(service, namespace)
}

/// The same client for objects of another version than their type's, in an API group (not the core group).
pub(super) fn at_version(client: &Client, version: &'static str) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = service_fn(move |mut request: http::Request<Body>| {
        if let Some(uri) = with_version(request.uri(), version) {
            *request.uri_mut() = uri;
        }
        let client = client.clone();
        async move { client.send(request).await }
    });
    Client::new(service, namespace)
}

/// `/apis/GROUP/VERSION/…` with another version; `None` if it is that one already.
fn with_version(uri: &http::Uri, version: &str) -> Option<http::Uri> {
    let (group, rest) = uri.path().strip_prefix("/apis/")?.split_once('/')?;
    let (old, rest) = rest.split_once('/')?;
    if old == version {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("/apis/{group}/{version}/{rest}{query}").parse().ok()?);
    http::Uri::from_parts(parts).ok()
}

fn is_watch(uri: &http::Uri) -> bool {
    asks(uri, "watch=true")
}

fn asks(uri: &http::Uri, parameter: &str) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|one| one == parameter))
}

/// The request for a streamed list of the newest state, if it is one: kube asks with
/// `resourceVersion=0`, that is for any state, and of several API servers one that lags behind
/// would take us back in time. Without a version it is as new as a list in pages (KEP-3157).
fn newest(uri: &http::Uri) -> Option<http::Uri> {
    if !asks(uri, "sendInitialEvents=true") {
        return None;
    }
    let others = uri.query()?.split('&').filter(|one| !one.starts_with("resourceVersion="));
    let query = others.collect::<Vec<_>>().join("&");
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{query}", uri.path()).parse().ok()?);
    http::Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_lists_are_asked_for_as_new_as_they_can_be() {
        let asked = "/api/v1/services?watch=true&sendInitialEvents=true\
                     &resourceVersionMatch=NotOlderThan&resourceVersion=0&timeoutSeconds=30";
        let newest = newest(&asked.parse().unwrap()).unwrap();
        let wanted = "/api/v1/services?watch=true&sendInitialEvents=true\
                      &resourceVersionMatch=NotOlderThan&timeoutSeconds=30";
        assert_eq!(newest.to_string(), wanted);
    }

    #[test]
    fn a_kind_is_asked_for_in_the_version_that_is_served() {
        let of = |uri: &str, version| with_version(&uri.parse().unwrap(), version);
        let asked = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/referencegrants?limit=500";
        let wanted =
            "/apis/gateway.networking.k8s.io/v1beta1/namespaces/shop/referencegrants?limit=500";
        assert_eq!(of(asked, "v1beta1").unwrap().to_string(), wanted);
        assert_eq!(of(asked, "v1"), None);
        assert_eq!(of("/api/v1/services", "v2"), None);
    }

    #[test]
    fn other_requests_are_left_as_they_are() {
        for asked in ["/api/v1/services?watch=true&resourceVersion=0", "/api/v1/services"] {
            assert_eq!(newest(&asked.parse().unwrap()), None);
        }
    }
}

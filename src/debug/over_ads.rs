//! The debug pages on an xDS stream, as istioctl asks for them: types that begin with `istio.io/debug`.
//!
//! - `istio.io/debug/syncz` (`istioctl proxy-status`): a `ClientConfig` for each proxy.
//! - `istio.io/debug/config_dump` (`istioctl proxy-status POD.NAMESPACE`): the sections of its dump.
//! - `istio.io/debug` (`istioctl experimental internal-debug`): any page, by its name and parameters, as
//!   the bytes of its text.
//!
//! What the pages show is for those who may read the pages (`guard`), or whose identity may; everybody else is
//! refused.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use envoy_types::pb::envoy::service::status::v3::ClientConfig;
use pilothouse_xds::Resource;
use prost::{Message as _, Name as _};
use tokio::time::{Duration, timeout};
use tonic::Status;
use tower::ServiceExt as _;

use super::client_status::{self, Budget, Detail, TooLarge};
use super::parameters::Parameters;
use super::response_writer::HandlerPool;
use super::{DebugError, DebugState, find, guard};
use crate::identity::{Principal, Readers};

const SYNCZ: &str = "istio.io/debug/syncz";
const CONFIG_DUMP: &str = "istio.io/debug/config_dump";

/// Bytes of a page, which is sent as one message.
const MAX_PAGE: usize = 16 << 20;
/// Bytes of a page's name and parameters.
const MAX_NAME: usize = 4 << 10;
/// Until a page is made; istioctl waits for 30 s.
const PAGE_TIMEOUT: Duration = Duration::from_secs(25);
/// What istioctl lists all pages for.
const NO_SUCH_PAGE: &str = "404 page not found";

/// Answers the debug types.
#[derive(Clone, Debug)]
pub struct OverAds {
    pool: HandlerPool,
    router: Router,
    readers: Readers,
}

impl OverAds {
    /// The types; what follows is a slash and more.
    pub const TYPE: &'static str = "istio.io/debug";

    pub(super) fn new(pool: HandlerPool, router: Router, readers: Readers) -> Self {
        Self { pool, router, readers }
    }

    /// The resources of the response to a request for this type by this peer.
    ///
    /// # Errors
    /// The peer may not know, the type is none of the three, or the answer is too large.
    pub async fn answer(
        &self,
        peer: SocketAddr,
        principal: Option<&str>,
        type_url: &str,
        names: Vec<String>,
    ) -> Result<Vec<Arc<Resource>>, Status> {
        let is_reader =
            principal.and_then(Principal::read).is_some_and(|one| self.readers.has(&one));
        if !is_reader && !guard::is_local(peer.ip()) {
            let who = principal.unwrap_or("a peer without an identity");
            return Err(Status::permission_denied(format!(
                "{type_url} shows all configuration, so it is answered to peers on loopback only (kubectl \
                 port-forward is one), and to those of --debug-identities (this is {who})"
            )));
        }
        match type_url {
            SYNCZ => {
                let made = self.pool.compute(client_configs).await;
                made.map_err(refused)?.map_err(too_large)
            }
            CONFIG_DUMP => self.config_dump(names).await,
            Self::TYPE => Ok(vec![self.page(names).await?]),
            _ => Err(Status::invalid_argument(format!(
                "there is no type {type_url:?}: ask for {SYNCZ}, {CONFIG_DUMP} or {}",
                Self::TYPE
            ))),
        }
    }

    async fn config_dump(&self, names: Vec<String>) -> Result<Vec<Arc<Resource>>, Status> {
        let name = the_one(names, "the name of a proxy, as in productpage-v1-abc.default")?;
        let make = move |state: &DebugState| -> Result<_, DebugError> {
            let parameters = Parameters::one("proxyID", &name);
            let status = find::one_stream(state, &parameters)?.status();
            Ok(client_status::config_dump(&status, &mut Budget::default()))
        };
        let made = self.pool.compute(make).await.map_err(refused)?;
        // istioctl prints a status; of a text in the place of the sections it would make a difference.
        let sections = made.map_err(|problem| match problem {
            DebugError::NotConnected(_) => Status::not_found(problem.to_string()),
            _ => Status::invalid_argument(problem.to_string()),
        })?;
        let sections = sections.map_err(too_large)?.into_iter();
        Ok(sections.map(|one| resource(&one.type_url, &one.encoded)).collect())
    }

    /// A page as the debug port gives it; what is wrong with the request is the text.
    async fn page(&self, names: Vec<String>) -> Result<Arc<Resource>, Status> {
        let name =
            the_one(names, "the name of a page, as in syncz or config_dump?proxyID=reviews")?;
        let request = Request::get(format!("/debug/{name}"))
            .header(header::HOST, "localhost")
            .body(Body::empty());
        let text = match request {
            Err(error) => format!("{name:?} is no page: {error}\n").into_bytes(),
            Ok(request) => {
                let page = timeout(PAGE_TIMEOUT, self.text(request)).await;
                page.map_err(|_| Status::deadline_exceeded("the page was not made in time"))??
            }
        };
        Ok(resource(Self::TYPE, &text))
    }

    async fn text(&self, request: Request<Body>) -> Result<Vec<u8>, Status> {
        let Ok(response): Result<Response, _> = self.router.clone().oneshot(request).await;
        let is_json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it.as_bytes().starts_with(b"application/json"));
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() && !is_json {
            // The page for people, or one that never ends.
            return Ok(format!("{NO_SUCH_PAGE}: it is no JSON\n").into_bytes());
        }
        let text = to_bytes(body, MAX_PAGE).await.map_err(|_| {
            Status::resource_exhausted(format!(
                "the page has more than {} MiB, read it from the debug port",
                MAX_PAGE >> 20
            ))
        })?;
        let mut said = Vec::new();
        if status == StatusCode::NOT_FOUND && text.starts_with(b"There is no page") {
            said.extend_from_slice(NO_SUCH_PAGE.as_bytes());
            said.extend_from_slice(b": ");
        }
        said.extend_from_slice(&text);
        Ok(said)
    }
}

/// The name that a request must have, and no other.
fn the_one(names: Vec<String>, what: &str) -> Result<String, Status> {
    let count = names.len();
    match <[String; 1]>::try_from(names) {
        Ok([name]) if name.len() <= MAX_NAME => Ok(name),
        Ok([name]) => Err(Status::invalid_argument(format!(
            "a resource name of {} bytes, the limit is {MAX_NAME}",
            name.len()
        ))),
        Err(_) => {
            Err(Status::invalid_argument(format!("{count} resource names, give one: {what}")))
        }
    }
}

/// One for each proxy that has said who it is, by name.
fn client_configs(state: &DebugState) -> Result<Vec<Arc<Resource>>, TooLarge> {
    let mut budget = Budget::default();
    let mut made = Vec::new();
    for stream in state.proxies.all() {
        let status = stream.status();
        let Some(identity) = status.identity.as_ref().filter(|identity| !identity.probe) else {
            continue;
        };
        let node = client_status::node(identity, &identity.name);
        let config = client_status::client_config(node, &status, Detail::Types, &mut budget)?;
        made.push((identity.name.clone(), config));
    }
    made.sort_by(|(one, _), (other, _)| one.cmp(other));
    let made = made.into_iter();
    Ok(made
        .map(|(_, config)| resource(&ClientConfig::type_url(), &config.encode_to_vec()))
        .collect())
}

fn resource(type_url: &str, encoded: &[u8]) -> Arc<Resource> {
    Resource::from_encoded(type_url, Arc::default(), encoded)
}

fn too_large(error: TooLarge) -> Status {
    Status::resource_exhausted(format!("{error}: read it from the debug port"))
}

fn refused(problem: DebugError) -> Status {
    match problem {
        DebugError::Busy => Status::resource_exhausted(problem.to_string()),
        _ => Status::internal(problem.to_string()),
    }
}

//! The page for people at `/`: its files, and the routes of the JSON that it is made of.
//!
//! The files are part of the binary. They load nothing from elsewhere, and a browser is told to let them load
//! nothing: much of what the page shows was said by peers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawPathParams, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::live::{self, Live};
use super::response_writer::HandlerPool;
use super::{DebugError, DebugHandler, Parameters, proxies, proxy, services};

/// What a browser may do for the page. Style attributes are not among it; scripts set single properties.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! script {
    ($name:literal) => {
        Asset {
            path: concat!("/page/", $name),
            content_type: JAVASCRIPT,
            text: include_str!(concat!("page/", $name)),
        }
    };
}

/// All files.
pub static ASSETS: [Asset; 14] = [
    Asset {
        path: "/",
        content_type: "text/html; charset=utf-8",
        text: include_str!("page/index.html"),
    },
    Asset {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page/style.css"),
    },
    script!("app.js"),
    script!("api.js"),
    script!("dom.js"),
    script!("live.js"),
    script!("rows.js"),
    script!("proxies.js"),
    script!("proxy.js"),
    script!("services.js"),
    script!("changes.js"),
    script!("sources.js"),
    script!("picture.js"),
    script!("travel.js"),
];

/// The file at this path.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl IntoResponse for Asset {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        ];
        (headers, self.text).into_response()
    }
}

/// The JSON that the page and the command line are made of. Parts of a path are parameters, too.
pub(super) static API: [DebugHandler; 5] = [
    DebugHandler {
        path: "/debug/proxies",
        parameters: &["search", "state", "namespace", "kind", "offset", "limit"],
        help: "Who has what: a row a proxy, the worst first.",
        handler: proxies::proxies,
    },
    DebugHandler {
        path: "/debug/proxies/{key}",
        parameters: &[],
        help: "One proxy: what it was sent, what it rejected and in which words.",
        handler: proxy::proxy,
    },
    DebugHandler {
        path: "/debug/proxies/{key}/resources",
        parameters: &["type", "search", "offset", "limit", "name"],
        help: "What one proxy was sent of one type: the names, or one resource.",
        handler: proxy::resources,
    },
    DebugHandler {
        path: "/debug/services",
        parameters: &["search", "offset", "limit"],
        help: "The services with their endpoints, counted.",
        handler: services::services,
    },
    DebugHandler {
        path: "/debug/services/{namespace}/{name}",
        parameters: &["from", "zone"],
        help: "One service: each endpoint with the reason why it is left out, and what a proxy is sent.",
        handler: services::service,
    },
];

/// The page, its JSON and its events.
pub(super) fn routes() -> Router<HandlerPool> {
    let mut router = Router::new();
    for asset in &ASSETS {
        let answer = move |uri: Uri| async move {
            Parameters::read(&uri, &[])?;
            Ok::<_, DebugError>(*asset)
        };
        router = router.route(asset.path, get(answer));
    }
    for page in &API {
        let answer = move |State(pool): State<HandlerPool>, path: RawPathParams, uri: Uri| async move {
            let parameters = Parameters::read(&uri, page.parameters)?.with_path(&path);
            pool.run(parameters, page.handler).await
        };
        router = router.route(page.path, get(answer));
    }
    let live = Arc::new(Live::default());
    let events = move |State(pool): State<HandlerPool>, uri: Uri| async move {
        Parameters::read(&uri, &[])?;
        match live::events(live, pool.state) {
            Some(events) => Ok(events.into_response()),
            None => {
                let said = "Too many pages listen already; close one and try again.\n";
                Ok::<_, DebugError>((StatusCode::SERVICE_UNAVAILABLE, said).into_response())
            }
        }
    };
    router.route("/debug/events", get(events))
}

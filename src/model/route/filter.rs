//! What is done with a request to which a rule applies, or with its response.

use std::sync::Arc;

use super::BackendRef;

/// No kind twice in a list, mirrors excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFilter {
    RequestHeaders(HeaderModifier),
    ResponseHeaders(HeaderModifier),
    Mirror(Mirror),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Cors(Cors),
}

/// Names are valid header names; no name twice in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
    pub remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub backend: BackendRef,
    /// This share of the requests: `percent` as numerator of 100, else `fraction`, else all (1 of 1). Never more
    /// than the denominator, which is never 0.
    pub numerator: u32,
    pub denominator: u32,
}

/// What is not given is as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
    /// Where none is given: the scheme's well-known port if there is a scheme, else that of the request.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    ReplaceFull(Arc<str>),
    /// In a rule whose one match is a prefix of the path.
    ReplacePrefix(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
}

/// Defaults are filled in by the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, or an origin whose host may begin with `*.` or whose scheme is followed by `*`.
    pub allow_origins: Vec<Arc<str>>,
    pub allow_credentials: bool,
    pub allow_methods: Vec<Arc<str>>,
    pub allow_headers: Vec<Arc<str>>,
    pub expose_headers: Vec<Arc<str>>,
    /// Seconds, at least 1.
    pub max_age: u32,
}

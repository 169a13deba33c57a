//! What a request must be for a rule to apply to it.

use std::sync::Arc;

/// All of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: PathMatch,
    /// No name twice (case-insensitively): of several the first counts, and the source keeps that one.
    pub headers: Vec<NameMatch>,
    /// No name twice.
    pub query: Vec<NameMatch>,
    /// Upper case; none for any.
    pub method: Option<Arc<str>>,
}

impl RouteMatch {
    /// Matches every request.
    pub fn any() -> Self {
        Self {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// Of whole elements: `/abc` matches `/abc` and `/abc/def`, not `/abcd`. A slash at the end means nothing.
    Prefix(Arc<str>),
    /// RE2, of the whole path.
    Regex(Arc<str>),
    /// A GRPCRoute's.
    Grpc(GrpcMethod),
}

/// `/SERVICE/METHOD` of a gRPC call; none for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMethod {
    pub service: Option<TextMatch>,
    pub method: Option<TextMatch>,
}

/// A header (lower case name) or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMatch {
    pub name: Arc<str>,
    pub value: TextMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    Exact(Arc<str>),
    /// RE2, of the whole text.
    Regex(Arc<str>),
}

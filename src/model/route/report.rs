//! What has become of each route: for its status, and for people.

use std::sync::Arc;

use imbl::OrdMap;

use super::{ParentRef, RouteKey, ServiceRules};
use crate::model::ServiceKey;

/// All routes at one moment. Cloning is O(1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteReport {
    /// Every route that the source knows.
    pub routes: OrdMap<RouteKey, Arc<RouteVerdict>>,
    /// The rules in effect, for every Service that has any.
    pub services: OrdMap<ServiceKey, Arc<ServiceRules>>,
}

impl RouteReport {
    /// Whether this is the other, unchanged. Costs nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.routes.ptr_eq(&other.routes) && self.services.ptr_eq(&other.services)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteVerdict {
    /// Of the route that was looked at.
    pub generation: Option<i64>,
    /// The same, so that a route that was deleted and created anew is seen to be another one: it has no status.
    pub created: Arc<str>,
    /// One for each parent, in the order of the spec; other controllers' parents included.
    pub parents: Vec<ParentVerdict>,
}

/// What became of a route at one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentVerdict {
    pub parent: ParentRef,
    /// `None` for a parent that is no Service: not ours to say.
    pub role: Option<RouteRole>,
    pub accepted: Verdict<AcceptedReason>,
    pub resolved_refs: Verdict<RefsReason>,
    /// The ports of the Service on which the route applies.
    pub ports: Vec<u16>,
}

impl ParentVerdict {
    /// Accepted, and all it names is there.
    pub fn is_sound(&self) -> bool {
        self.accepted.reason.is_accepted() && self.resolved_refs.reason.is_resolved()
    }
}

/// For whose requests a route is (GEP-1294).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteRole {
    /// In the Service's namespace: for clients of all namespaces.
    Producer,
    /// In another namespace: for clients of that one.
    Consumer,
}

/// A condition of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<R> {
    pub reason: R,
    /// What is wrong, where, and what to do; what is served instead.
    pub message: Arc<str>,
}

/// The reasons of the condition `Accepted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptedReason {
    Accepted,
    /// There is no such Service, no such port, or it speaks no HTTP.
    NoMatchingParent,
    /// A value that the API allows and nobody can serve, or that it should not have allowed.
    UnsupportedValue,
    IncompatibleFilters,
    /// Routes of another kind apply to every port of it (GEP-1294).
    Conflicted,
}

impl AcceptedReason {
    pub fn is_accepted(self) -> bool {
        self == Self::Accepted
    }

    /// The Gateway API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::Conflicted => "Conflicted",
        }
    }
}

/// The reasons of the condition `ResolvedRefs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefsReason {
    ResolvedRefs,
    RefNotPermitted,
    InvalidKind,
    BackendNotFound,
    UnsupportedProtocol,
}

impl RefsReason {
    pub fn is_resolved(self) -> bool {
        self == Self::ResolvedRefs
    }

    /// The Gateway API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResolvedRefs => "ResolvedRefs",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
        }
    }
}

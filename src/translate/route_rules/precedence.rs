//! Which of several matches applies: those of all routes of a port, in one order.
//!
//! The order is that of `HTTPRouteRule.matches` and `GRPCRouteRule.matches` in the Gateway API. It leaves regular
//! expressions to the implementation: those of paths stand between exact paths and prefixes, since a rule for
//! `/` is often there and would hide them otherwise; those of gRPC stand behind exact texts. Of two regular
//! expressions the longer goes first.

use std::cmp::Reverse;

use crate::model::route::{AppliedRoute, PathMatch, PortRules, RouteMatch, RouteRule, TextMatch};

/// A match, and the rule that applies to requests which it fits.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) applied: &'a AppliedRoute,
    /// Of the rule, in its route.
    pub(super) position: usize,
    pub(super) rule: &'a RouteRule,
    pub(super) matched: &'a RouteMatch,
}

/// All matches of all rules, the one that goes first first.
pub(super) fn in_order(rules: &PortRules) -> Vec<Candidate<'_>> {
    let mut candidates: Vec<_> = rules.routes.iter().flat_map(candidates_of).collect();
    // Ties stay in the order that they have here: older routes first, then by name, then as the route has them.
    candidates.sort_by_key(|one| Reverse(Rank::of(one.matched)));
    candidates
}

fn candidates_of(applied: &AppliedRoute) -> impl Iterator<Item = Candidate<'_>> {
    applied.route.rules.iter().enumerate().flat_map(move |(position, rule)| {
        let candidate = move |matched| Candidate { applied, position, rule, matched };
        rule.matches.iter().map(candidate)
    })
}

/// The greater goes first. Fields in the order in which they count.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    path: PathRank,
    has_method: bool,
    headers: usize,
    query: usize,
}

/// In ascending order. Lengths are in characters.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Grpc { service: TextRank, method: TextRank },
    Prefix(usize),
    Regex(usize),
    Exact,
}

/// In ascending order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum TextRank {
    Any,
    Regex(usize),
    Exact(usize),
}

impl Rank {
    fn of(matched: &RouteMatch) -> Self {
        Self {
            path: PathRank::of(&matched.path),
            has_method: matched.method.is_some(),
            headers: matched.headers.len(),
            query: matched.query.len(),
        }
    }
}

impl PathRank {
    fn of(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact(_) => Self::Exact,
            // A slash at the end means nothing.
            PathMatch::Prefix(prefix) => Self::Prefix(prefix.trim_end_matches('/').chars().count()),
            PathMatch::Regex(regex) => Self::Regex(regex.chars().count()),
            PathMatch::Grpc(call) => Self::Grpc {
                service: TextRank::of(call.service.as_ref()),
                method: TextRank::of(call.method.as_ref()),
            },
        }
    }
}

impl TextRank {
    fn of(text: Option<&TextMatch>) -> Self {
        match text {
            None => Self::Any,
            Some(TextMatch::Regex(regex)) => Self::Regex(regex.chars().count()),
            Some(TextMatch::Exact(text)) => Self::Exact(text.chars().count()),
        }
    }
}

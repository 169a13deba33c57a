//! The filters of a rule or of a backend, by their kind.

use crate::model::route::{Cors, HeaderModifier, Mirror, Redirect, Rewrite, RouteFilter};

/// No kind occurs twice in a list, mirrors excepted.
#[derive(Default)]
pub(super) struct Filters<'a> {
    pub(super) request: Option<&'a HeaderModifier>,
    pub(super) response: Option<&'a HeaderModifier>,
    pub(super) mirrors: Vec<&'a Mirror>,
    pub(super) redirect: Option<&'a Redirect>,
    pub(super) rewrite: Option<&'a Rewrite>,
    pub(super) cors: Option<&'a Cors>,
}

impl<'a> Filters<'a> {
    pub(super) fn of(list: &'a [RouteFilter]) -> Self {
        let mut filters = Self::default();
        for filter in list {
            match filter {
                RouteFilter::RequestHeaders(one) => filters.request = Some(one),
                RouteFilter::ResponseHeaders(one) => filters.response = Some(one),
                RouteFilter::Mirror(one) => filters.mirrors.push(one),
                RouteFilter::Redirect(one) => filters.redirect = Some(one),
                RouteFilter::Rewrite(one) => filters.rewrite = Some(one),
                RouteFilter::Cors(one) => filters.cors = Some(one),
            }
        }
        filters
    }
}

//! Header modifiers, in Envoy's words.
//!
//! Envoy applies those of a backend before those of the route, and of one level removals before the rest. A
//! request meets the rule's filters first and the backend's then, so wherever a backend has filters the two are
//! put together here, and the route has none.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::Route;

use crate::model::route::HeaderModifier;

/// What Envoy is to do: remove first, then add in this order.
#[derive(Default)]
pub(super) struct HeaderChanges {
    pub(super) remove: Vec<String>,
    pub(super) add: Vec<HeaderValueOption>,
}

impl HeaderChanges {
    /// One modifier after the other.
    pub(super) fn of<'a>(modifiers: impl IntoIterator<Item = &'a HeaderModifier>) -> Self {
        let mut changes = Self::default();
        modifiers.into_iter().for_each(|one| changes.then(one));
        changes
    }

    fn then(&mut self, modifier: &HeaderModifier) {
        for name in &modifier.remove {
            self.forget(name);
            if !self.remove.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                self.remove.push(name.to_string());
            }
        }
        for (name, value) in &modifier.set {
            self.forget(name);
            self.add.push(option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
        }
        for (name, value) in &modifier.add {
            self.add.push(option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
        }
    }

    /// Leaves out what an earlier modifier does to this header.
    fn forget(&mut self, name: &str) {
        let is_other = |one: &HeaderValueOption| {
            let header = one.header.as_ref();
            header.is_none_or(|header| !header.key.eq_ignore_ascii_case(name))
        };
        self.add.retain(is_other);
    }
}

pub(super) fn with_request_changes(mut route: Route, modifier: Option<&HeaderModifier>) -> Route {
    let changes = HeaderChanges::of(modifier);
    route.request_headers_to_remove = changes.remove;
    route.request_headers_to_add = changes.add;
    route
}

pub(super) fn with_response_changes(mut route: Route, modifier: Option<&HeaderModifier>) -> Route {
    let changes = HeaderChanges::of(modifier);
    route.response_headers_to_remove = changes.remove;
    route.response_headers_to_add = changes.add;
    route
}

fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            // A single percent sign begins one of Envoy's placeholders.
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: action.into(),
        ..Default::default()
    }
}

//! Redirects.
//!
//! The port of the Location is the redirect's, else the well-known one of the redirect's scheme, else the one
//! that the client called. It is not written where it is the scheme's well-known one (the Gateway API's
//! `HTTPRequestRedirectFilter.port`).

use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, route};

use super::{Called, matches, paths};
use crate::model::route::{PathMatch, Redirect};
use crate::view::ProxyKind;

/// What the outbound listeners of the mesh are called by.
const CALLED_SCHEME: &str = "http";
/// A Host with a port, in any notation.
const HOST_WITH_PORT: &str = r"(\[[^\]]*\]|[^:\[\]]*):[0-9]+";

/// What becomes of the port that the Host of the request may have.
enum Port {
    /// It stays.
    AsRequested,
    Write(u16),
    /// None is to be written, this being the well-known one.
    Omit(u16),
}

/// `route` with this redirect.
///
/// Envoy replaces a port or leaves it, and cannot take one out of the request's Host. So requests whose Host
/// has a port have a route of their own, which writes the well-known port in its place.
pub(super) fn redirect_routes(
    called: Called<'_>,
    route: &Route,
    redirect: &Redirect,
    matched: &PathMatch,
) -> Vec<Route> {
    let with_port = |port: u16| {
        let mut action = RedirectAction {
            host_redirect: redirect.hostname.as_deref().unwrap_or_default().to_owned(),
            port_redirect: port.into(),
            response_code: response_code(redirect.status).into(),
            scheme_rewrite_specifier: redirect
                .scheme
                .as_deref()
                .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
            ..Default::default()
        };
        redirect.path.iter().for_each(|path| paths::redirect(&mut action, path, matched));
        Route { action: Some(route::Action::Redirect(action)), ..route.clone() }
    };
    match location_port(called, redirect) {
        Port::Write(port) => vec![with_port(port)],
        Port::Omit(well_known) if redirect.hostname.is_none() => {
            let mut replaced = with_port(well_known);
            let host = matches::header_regex(":authority", HOST_WITH_PORT);
            replaced.r#match.get_or_insert_default().headers.push(host);
            vec![replaced, with_port(0)]
        }
        Port::Omit(_) | Port::AsRequested => vec![with_port(0)],
    }
}

fn location_port(called: Called<'_>, redirect: &Redirect) -> Port {
    let scheme = redirect.scheme.as_deref().unwrap_or(CALLED_SCHEME);
    let well_known = if scheme == "https" { 443 } else { 80 };
    let is_said = redirect.port.is_some() || redirect.scheme.is_some();
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => well_known,
        // Its listener has one port for all Services; the client says which one it means in the Host.
        (None, None) if matches!(called.kind, ProxyKind::Standalone { .. }) => {
            return Port::AsRequested;
        }
        (None, None) => called.port,
    };
    match port == well_known {
        false => Port::Write(port),
        true if is_said => Port::Omit(well_known),
        true => Port::AsRequested,
    }
}

fn response_code(status: u16) -> RedirectResponseCode {
    match status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    }
}

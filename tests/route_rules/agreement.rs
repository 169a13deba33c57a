//! The evaluator of the specification against the interpreter of Envoy's routes.

use envoy_types::pb::envoy::config::route::v3::Route;
use pilothouse::names::DEFAULT_DOMAIN;
use pilothouse::translate::route_rules::rule_routes;
use pilothouse::view::ProxyKind;
use proptest::prelude::*;

use crate::cases::{Case, case, service};
use crate::evaluator::evaluate;
use crate::interpreter::interpret;
use crate::outcome::{Outcome, Outcomes, Request};

pub(crate) fn routes(case: &Case) -> Vec<Route> {
    rule_routes(&ProxyKind::Sidecar, &service(0), case.port, &case.rules, DEFAULT_DOMAIN)
}

/// Of a Location whose port could be left out: Envoy cannot take one out of the request's Host, and writes the
/// scheme's well-known one, which the specification advises against and which means the same.
pub(crate) fn without_well_known_port(outcomes: Outcomes, request: &Request) -> Outcomes {
    let one = |(outcome, weight)| match outcome {
        Outcome::Redirect { status, location, response } if request.host.contains(':') => {
            let (scheme, rest) = location.split_once("://").unwrap();
            let (host, target) = rest.split_once('/').unwrap();
            let port = if scheme == "https" { ":443" } else { ":80" };
            let host = host.strip_suffix(port).unwrap_or(host);
            let location = format!("{scheme}://{host}/{target}");
            (Outcome::Redirect { status, location, response }, weight)
        }
        other => (other, weight),
    };
    outcomes.into_iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_envoy_with_the_routes_does_what_the_specification_says(case in case(8)) {
        let routes = routes(&case);
        for request in &case.requests {
            let wanted = evaluate(&case.rules, case.port, request);
            let done = without_well_known_port(interpret(&routes, request), request);
            prop_assert_eq!(done, wanted, "{:#?}\n{:#?}", request, &routes);
        }
    }
}

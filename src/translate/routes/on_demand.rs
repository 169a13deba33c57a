//! Routes of on-demand sidecars: by the address that a request was sent to.
//!
//! Their tables have no virtual host for a plain Service: one whose routes would be the default ones. A
//! request to a cluster IP goes to the cluster that is named after that address, which Envoy asks for, whatever
//! its Host. So the tables of a mesh of thousands of Services are a few hundred bytes, and a new one
//! changes none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route, route_action};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use super::catch_all_route;
use crate::model::{Service, ServiceKind, TrafficPolicy};
use crate::translate::{ADDRESS_CLUSTER_HEADER, DESTINATION_HEADER};
use crate::view::ProxyKind;

/// The route's name.
const BY_ADDRESS: &str = "by address";

/// From so many on, shorter ranges stand for them.
const MAX_RANGES: usize = 64;

/// Whether requests for a service may be routed by the address that they were sent to: it has cluster IPs, and
/// none of its annotations changes a route.
pub fn is_by_address(service: &Service) -> bool {
    let TrafficPolicy { load_balancing, request_timeout, retries, .. } = *service.traffic_policy;
    matches!(service.kind, ServiceKind::ClusterIp(_))
        && !load_balancing.is_by_client()
        && request_timeout.is_none()
        && retries.is_none()
}

/// Where the cluster IPs of a mesh are, roughly: as beginnings of their texts.
///
/// A request within is looked up by its address, once for each address that is no Service's; one outside is passed
/// through without a question. Kubernetes takes cluster IPs from ranges of their own, so addresses of pods
/// and of the world are outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterIpRanges {
    beginnings: BTreeSet<String>,
}

impl ClusterIpRanges {
    /// Those of these addresses. `after` gives the first of them behind one, in the order of [`IpAddr`], so that
    /// a range of thousands costs one question.
    pub fn of(first: Option<IpAddr>, after: impl Fn(IpAddr) -> Option<IpAddr>) -> Self {
        let ranges = |short: bool| {
            let (mut beginnings, mut next) = (BTreeSet::new(), first);
            while let Some(address) = next.filter(|_| beginnings.len() <= MAX_RANGES) {
                let (beginning, last) = range(address, short);
                beginnings.insert(beginning);
                next = after(last);
            }
            beginnings
        };
        let long = ranges(false);
        Self { beginnings: if long.len() > MAX_RANGES { ranges(true) } else { long } }
    }

    /// Matches the texts of addresses within.
    fn regex(&self) -> String {
        let beginnings: Vec<String> =
            self.beginnings.iter().map(|one| one.replace('.', r"\.")).collect();
        format!("({}).*", beginnings.join("|"))
    }
}

/// How the texts of all addresses in the range of this one begin, and the last address of the range. IPv4: a /16, or
/// a /8 if it is to be `short`; IPv6: a /48, less where a group is zero, since its text may be left out.
fn range(address: IpAddr, short: bool) -> (String, IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let rest = if short { u32::MAX >> 8 } else { u32::MAX >> 16 };
            let beginning = if short { format!("{a}.") } else { format!("{a}.{b}.") };
            (beginning, IpAddr::V4((u32::from(v4) | rest).into()))
        }
        IpAddr::V6(v6) => {
            let groups = v6.segments();
            let most = if short { 1 } else { 3 };
            let said: Vec<u16> =
                groups.into_iter().take(most).take_while(|group| *group != 0).collect();
            if said.is_empty() {
                return (":".to_owned(), IpAddr::V6((u128::MAX >> 16).into()));
            }
            let rest = u128::MAX >> (16 * said.len());
            let beginning: String = said.iter().map(|group| format!("{group:x}:")).collect();
            (beginning, IpAddr::V6((u128::from(v6) | rest).into()))
        }
    }
}

/// The route for requests that were sent to an address in these ranges, if there is any.
pub(super) fn route_by_address(kind: &ProxyKind, ranges: &ClusterIpRanges) -> Option<Route> {
    if ranges.beginnings.is_empty() {
        return None;
    }
    let cluster = route_action::ClusterSpecifier::ClusterHeader(ADDRESS_CLUSTER_HEADER.to_owned());
    let action = super::route_action(kind, &TrafficPolicy::default(), cluster);
    let mut route = catch_all_route(BY_ADDRESS, action);
    let regex = RegexMatcher { regex: ranges.regex(), ..Default::default() };
    let within =
        StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex)), ..Default::default() };
    route.r#match.get_or_insert_default().headers.push(HeaderMatcher {
        name: DESTINATION_HEADER.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(within)),
        ..Default::default()
    });
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(addresses: &[&str]) -> ClusterIpRanges {
        let all: BTreeSet<IpAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
        let after = |last: IpAddr| all.iter().find(|one| **one > last).copied();
        ClusterIpRanges::of(all.first().copied(), after)
    }

    #[test]
    fn every_address_is_in_a_range_and_those_of_pods_in_none() {
        let own = ["10.96.0.1", "10.96.255.255", "10.97.3.4", "fd00:10:96::1", "fd00::2", "::7"];
        let ranges = ranges(&own);
        assert_eq!(ranges.beginnings.len(), 4, "{ranges:?}");
        let regex = regex::Regex::new(&format!("^(?:{})$", ranges.regex())).unwrap();
        for one in own {
            let address: IpAddr = one.parse().unwrap();
            assert!(regex.is_match(&address.to_string()), "{one} in {}", ranges.regex());
        }
        for other in ["10.244.0.1", "10.9.6.1", "110.96.0.1", "8.8.8.8", "2001:db8::1"] {
            assert!(!regex.is_match(other), "{other} in {}", ranges.regex());
        }
    }

    #[test]
    fn many_ranges_become_few() {
        let all: Vec<String> = (0..=255).map(|n| format!("10.{n}.0.1")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(ranges(&all).beginnings, ["10.".to_owned()].into());
    }

    #[test]
    fn without_addresses_there_is_no_route() {
        let none = ClusterIpRanges::default();
        assert_eq!(route_by_address(&ProxyKind::OnDemandSidecar, &none), None);
    }
}

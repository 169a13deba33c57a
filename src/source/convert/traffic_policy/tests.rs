use std::collections::BTreeMap;

use super::*;
use crate::model::CircuitBreakers;

fn tuned(affinity: Option<&str>, annotations: &[(&str, &str)]) -> (TrafficPolicy, Vec<String>) {
    let annotations: BTreeMap<String, String> = annotations
        .iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).into()))
        .collect();
    let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
    let spec =
        ServiceSpec { session_affinity: affinity.map(str::to_owned), ..ServiceSpec::default() };
    let mut flaws = Vec::new();
    let policy = traffic_policy_of(&metadata, &spec, &mut flaws);
    (policy, flaws.iter().map(ToString::to_string).collect())
}

#[test]
fn every_annotation_has_its_place() {
    let (policy, flaws) = tuned(
        None,
        &[
            ("load-balancing", "round-robin"),
            ("connect-timeout", "250ms"),
            ("request-timeout", "1m 30s"),
            ("tcp-idle-timeout", "0s"),
            ("retries", "0"),
            ("outlier-consecutive-errors", "3"),
            ("outlier-interval", "5s"),
            ("outlier-ejection-time", "20s"),
            ("outlier-max-ejected-percent", "50"),
            ("max-connections", "1"),
            ("max-pending-requests", "2"),
            ("max-requests", "3"),
            ("max-retries", "4"),
        ],
    );
    assert!(flaws.is_empty(), "{flaws:?}");
    let seconds = Duration::from_secs;
    let expected = TrafficPolicy {
        load_balancing: LoadBalancing::RoundRobin,
        connect_timeout: Some(Duration::from_millis(250)),
        request_timeout: Some(seconds(90)),
        tcp_idle_timeout: Some(Duration::ZERO),
        retries: Some(0),
        outlier_detection: Some(OutlierDetection {
            consecutive_errors: Some(3),
            interval: Some(seconds(5)),
            ejection_time: Some(seconds(20)),
            max_ejected: Some(50),
        }),
        circuit_breakers: CircuitBreakers {
            connections: Some(1),
            pending_requests: Some(2),
            requests: Some(3),
            retries: Some(4),
        },
    };
    assert_eq!(policy, expected);
    assert_eq!(tuned(None, &[]), (TrafficPolicy::default(), vec![]));
    assert_eq!(KNOWN.len(), 13, "one of each above");
}

#[test]
fn session_affinity_is_a_hash_of_the_clients_address() {
    let balance = |affinity, policy: &str| {
        let (policy, flaws) = tuned(affinity, &[("load-balancing", policy)]);
        (policy.load_balancing, flaws.len())
    };
    let client = Some("ClientIP");
    assert_eq!(tuned(client, &[]).0.load_balancing, LoadBalancing::ClientIpRing);
    assert_eq!(tuned(Some("None"), &[]).0.load_balancing, LoadBalancing::LeastRequest);
    assert_eq!(balance(client, "maglev"), (LoadBalancing::ClientIpMaglev, 0));
    assert_eq!(
        balance(client, "random"),
        (LoadBalancing::ClientIpRing, 1),
        "it would break the promise"
    );
    assert_eq!(balance(None, "ring-hash"), (LoadBalancing::ClientIpRing, 0));
    assert_eq!(balance(None, "random"), (LoadBalancing::Random, 0));
    assert_eq!(balance(None, "fair"), (LoadBalancing::LeastRequest, 1));
}

#[test]
fn a_bad_value_costs_itself_alone_and_is_named() {
    let (policy, flaws) = tuned(
        None,
        &[
            ("retries", "11"),
            ("connect-timeout", "0s"),
            ("request-timeout", "soon"),
            ("tcp-idle-timeout", "721h"),
            ("max-requests", "-1"),
            ("max-connections", "7"),
            ("outlier-max-ejected-percent", "101"),
            ("retrys", "1"),
        ],
    );
    let circuit_breakers = CircuitBreakers { connections: Some(7), ..CircuitBreakers::default() };
    assert_eq!(policy, TrafficPolicy { circuit_breakers, ..TrafficPolicy::default() });
    assert_eq!(flaws.len(), 7, "{flaws:?}");
    let has = |text: &str| assert!(flaws.iter().any(|flaw| flaw.contains(text)), "{flaws:?}");
    has("metadata.annotations[pilothouse.io/retries]: \"11\" is no number from 0 to 10; not used");
    has("pilothouse.io/connect-timeout]: \"0s\" is no time from 1ms to 1h, as in 1500ms; not used");
    has("pilothouse.io/tcp-idle-timeout]: \"721h\" is no time from 0s to ");
    has("pilothouse.io/retrys]: unknown; there are load-balancing");
}

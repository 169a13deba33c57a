use std::collections::BTreeMap;

use super::*;
use crate::model::Limits;

fn tuned(affinity: Option<&str>, annotations: &[(&str, &str)]) -> (Tuning, Vec<String>) {
    let annotations: BTreeMap<String, String> = annotations
        .iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).into()))
        .collect();
    let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
    let spec =
        ServiceSpec { session_affinity: affinity.map(str::to_owned), ..ServiceSpec::default() };
    let mut flaws = Vec::new();
    let tuning = tuning_of(&metadata, &spec, &mut flaws);
    (tuning, flaws.iter().map(ToString::to_string).collect())
}

#[test]
fn every_annotation_has_its_place() {
    let (tuning, flaws) = tuned(
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
    let expected = Tuning {
        balance: Balance::RoundRobin,
        connect_timeout: Some(Duration::from_millis(250)),
        request_timeout: Some(seconds(90)),
        tcp_idle_timeout: Some(Duration::ZERO),
        retries: Some(0),
        outliers: Some(Outliers {
            consecutive_errors: Some(3),
            interval: Some(seconds(5)),
            ejection_time: Some(seconds(20)),
            max_ejected: Some(50),
        }),
        limits: Limits {
            connections: Some(1),
            pending_requests: Some(2),
            requests: Some(3),
            retries: Some(4),
        },
    };
    assert_eq!(tuning, expected);
    assert_eq!(tuned(None, &[]), (Tuning::default(), vec![]));
    assert_eq!(KNOWN.len(), 13, "one of each above");
}

#[test]
fn session_affinity_is_a_hash_of_the_clients_address() {
    let balance = |affinity, policy: &str| {
        let (tuning, flaws) = tuned(affinity, &[("load-balancing", policy)]);
        (tuning.balance, flaws.len())
    };
    let client = Some("ClientIP");
    assert_eq!(tuned(client, &[]).0.balance, Balance::ClientIpRing);
    assert_eq!(tuned(Some("None"), &[]).0.balance, Balance::LeastRequest);
    assert_eq!(balance(client, "maglev"), (Balance::ClientIpMaglev, 0));
    assert_eq!(balance(client, "random"), (Balance::ClientIpRing, 1), "it would break the promise");
    assert_eq!(balance(None, "ring-hash"), (Balance::ClientIpRing, 0));
    assert_eq!(balance(None, "random"), (Balance::Random, 0));
    assert_eq!(balance(None, "fair"), (Balance::LeastRequest, 1));
}

#[test]
fn a_bad_value_costs_itself_alone_and_is_named() {
    let (tuning, flaws) = tuned(
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
    let limits = Limits { connections: Some(7), ..Limits::default() };
    assert_eq!(tuning, Tuning { limits, ..Tuning::default() });
    assert_eq!(flaws.len(), 7, "{flaws:?}");
    let has = |text: &str| assert!(flaws.iter().any(|flaw| flaw.contains(text)), "{flaws:?}");
    has("metadata.annotations[pilothouse.io/retries]: \"11\" is no number from 0 to 10; not used");
    has("pilothouse.io/connect-timeout]: \"0s\" is no time from 1ms to 1h, as in 1500ms; not used");
    has("pilothouse.io/tcp-idle-timeout]: \"721h\" is no time from 0s to ");
    has("pilothouse.io/retrys]: unknown; there are load-balancing");
}

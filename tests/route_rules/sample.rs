//! A real Envoy does what the evaluator of the specification says.

use std::collections::BTreeMap;

use pilothouse::names;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::agreement::{routes, without_well_known_port};
use crate::cases::{BACKEND_PORT, Case, SERVICES, case};
use crate::echo::Echo;
use crate::envoy::{Answer, TestEnvoy, table};
use crate::evaluator::evaluate;
use crate::outcome::{Headers, Outcome, Request, certain};

const CASES: usize = 200;
const REQUESTS: usize = 10;
/// Those of requests and responses that rules are about; Envoy adds its own.
const HEADERS: [&str; 3] = ["x-a", "x-b", "x-c"];

#[tokio::test]
async fn a_real_envoy_does_what_the_specification_says() {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    );
    let strategy = case(REQUESTS);
    let cases: Vec<Case> =
        (0..CASES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let mut backends = Vec::new();
    let mut clusters = Vec::new();
    for number in 0..SERVICES {
        let backend = Echo::start(format!("default/svc-{number}:{BACKEND_PORT}")).await;
        let host = names::host(&format!("svc-{number}"), "default", names::DEFAULT_DOMAIN);
        clusters.push((names::outbound_cluster(BACKEND_PORT, &host), backend.at));
        backends.push(backend);
    }
    let envoy = TestEnvoy::start(vec![table(cases.iter().map(routes).collect())], &clusters).await;
    envoy.assert_took_all().await;

    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, case) in cases.iter().enumerate() {
        for request in &case.requests {
            let answer = envoy.ask(number, request).await;
            let wanted = evaluate(&case.rules, case.port, request);
            let done = outcome(&answer, request);
            *seen.entry(kind(&done)).or_default() += 1;
            let expected = wanted.keys().any(|one| same(one, &done));
            assert!(
                expected,
                "case {number}: {request:#?}\n{done:#?}\nis none of\n{wanted:#?}\nby {:#?}",
                routes(case)
            );
        }
    }
    // The sample has met everything that there is.
    assert_eq!(seen.len(), 4, "{seen:?}");
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NoRule => "no rule",
        Outcome::InvalidBackend(_) => "invalid backend",
        Outcome::Redirect { .. } => "redirect",
        Outcome::Forwarded { .. } => "forwarded",
    }
}

/// But for the mirrors, which the client does not see.
fn same(wanted: &Outcome, done: &Outcome) -> bool {
    let mut wanted = wanted.clone();
    if let Outcome::Forwarded { mirrors, .. } = &mut wanted {
        mirrors.clear();
    }
    wanted == *done
}

fn outcome(answer: &Answer, request: &Request) -> Outcome {
    let of_rules = |headers: &Headers| {
        let mut own = headers.clone();
        own.retain(|name, _| HEADERS.contains(&&**name));
        own
    };
    let response = of_rules(&answer.headers);
    match answer.status {
        404 => Outcome::NoRule,
        500 | 503 => Outcome::InvalidBackend(answer.status),
        200 => {
            let seen: Value = serde_json::from_str(&answer.body).expect("an echo's answer");
            let mut headers = Headers::new();
            for pair in seen["headers"].as_array().unwrap() {
                let [name, value] = [0, 1].map(|at| pair[at].as_str().unwrap());
                crate::outcome::append(&mut headers, name, value);
            }
            Outcome::Forwarded {
                backend: seen["backend"].as_str().unwrap().to_owned(),
                host: headers["host"].clone(),
                target: seen["target"].as_str().unwrap().to_owned(),
                headers: of_rules(&headers),
                response,
                mirrors: Vec::new(),
            }
        }
        status => {
            let location = answer.headers["location"].clone();
            let redirect = certain(Outcome::Redirect { status, location, response });
            without_well_known_port(redirect, request).into_keys().next().unwrap()
        }
    }
}

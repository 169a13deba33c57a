//! A Prometheus that scrapes a control plane with proxies of every sort: each expression of the rules and of
//! the dashboard answers without an error, and has data.

use serde_json::Value;

use crate::prometheus::{JOB, Prometheus};
use crate::proxies::{Answers, Proxy};
use crate::{dashboard, rules};
use pilothouse_testkit::certificates::{Authority, SecretVolume};
use pilothouse_testkit::fake_api_server::Api;
use pilothouse_testkit::kube_control_plane::Pilot;
use pilothouse_testkit::until;

/// What an alert is about: its expression without the threshold, since one that does not fire has no data.
fn measured(expression: &str) -> &str {
    if let Some(inner) = expression.strip_prefix("absent(") {
        return inner.strip_suffix(')').unwrap();
    }
    let ends = [" > ", " < "].iter().filter_map(|sign| expression.rfind(sign));
    let end = ends.max().unwrap_or_else(|| panic!("no threshold in {expression}"));
    assert!(expression[end + 3..].parse::<f64>().is_ok(), "no threshold in {expression}");
    &expression[..end]
}

/// At least one number that is one: a quantile of nothing is none.
fn has_data(series: &[Vec<f64>]) -> Result<(), String> {
    match series.iter().flatten().any(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(format!("no data: {series:?}")),
    }
}

#[tokio::test]
async fn every_expression_answers_with_data() {
    let api = Api::start().await;
    api.change(|now| now.service("web", &["10.0.0.1"]));
    let authority = Authority::new("test CA");
    let volume = SecretVolume::new(&authority.server(&["istio-pilot"]), &authority.pem());
    let [certificate, key, ca] = volume.flags();
    let flags = ["--secure-grpc-addr=127.0.0.1:0", "--watch-timeout=1s", &certificate, &key, &ca];
    let pilot = Pilot::start_with(api.address, &flags).await;
    until("ready", async || pilot.ready().await).await;
    let mut proxies = Vec::new();
    for (id, answers) in
        [("good", Answers::Accepts), ("bad", Answers::Rejects), ("mute", Answers::Never)]
    {
        proxies.push(Proxy::start(pilot.grpc(), id, answers).await);
    }
    let prometheus = Prometheus::start(pilot.monitoring()).await;

    let mut asked: Vec<(String, String)> = dashboard::expressions();
    for rule in rules::all() {
        let expression = rule["expr"].as_str().unwrap();
        match (rule["alert"].as_str(), rule["record"].as_str()) {
            (Some(name), None) => asked.push((name.to_owned(), measured(expression).to_owned())),
            (None, Some(name)) => {
                asked.push((name.to_owned(), expression.to_owned()));
                // And what Prometheus has recorded under that name.
                asked.push((format!("{name}, recorded"), name.to_owned()));
            }
            _ => panic!("neither an alert nor a record: {rule}"),
        }
    }
    let mut address = 1_u8;
    for (name, expression) in &asked {
        until(&format!("data for {name:?}: {expression}"), async || {
            // Something must change for there to be a convergence.
            address = address.wrapping_add(1).max(1);
            api.change(|now| now.slice("web", &[&format!("10.0.0.{address}")]));
            has_data(&prometheus.range(expression, dashboard::STEP).await?)
        })
        .await;
    }
    for (metric, label) in dashboard::variables() {
        let what = format!("label/{label}/values");
        let values = prometheus.api(&what, &[("match[]", &metric)]).await.unwrap();
        assert!(values.as_array().is_some_and(|all| !all.is_empty()), "{metric} {label}: {values}");
    }

    // The states are those of the three proxies, and Prometheus is about to wake somebody for one.
    for (state, wanted) in [("synced", 1.0), ("rejected", 1.0), ("stale", 1.0), ("not_sent", 0.0)] {
        let expression =
            format!("sum(pilothouse_proxy_states{{job=\"{JOB}\", state=\"{state}\"}})");
        until(&format!("{state} proxies"), async || {
            let series = prometheus.range(&expression, dashboard::STEP).await?;
            let last = series.first().and_then(|values| values.last());
            if last == Some(&wanted) { Ok(()) } else { Err(format!("{series:?}")) }
        })
        .await;
    }
    until("the alert about the proxy that rejects", async || {
        let alerts = prometheus.api("alerts", &[]).await?;
        let all = alerts["alerts"].as_array().into_iter().flatten();
        let is_it = |alert: &&Value| {
            alert["labels"]["alertname"] == "PilothouseProxiesReject"
                && alert["labels"]["type"] == "cds"
                && alert["state"] == "pending"
        };
        all.clone().find(is_it).map(|_| ()).ok_or_else(|| alerts.to_string())
    })
    .await;
    // Prometheus found no fault with a rule, and every scrape was read.
    let groups = prometheus.api("rules", &[]).await.unwrap();
    let groups = groups["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    drop(proxies);
}

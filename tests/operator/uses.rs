//! `uses` over stand-ins: replicas are asked page by page, and what they say is one table.

use serde_json::json;

use crate::harness::{Answer, StandIn, ask};

/// A replica with so many services, each called by one workload.
async fn replica(services: usize) -> StandIn {
    StandIn::start(move |path, _| {
        let offset = path.split("offset=").nth(1).and_then(|rest| rest.split('&').next());
        let offset: usize = offset.unwrap().parse().unwrap();
        let of = |at: usize| {
            json!({
                "service": format!("s{at}.shop"), "ports": [80], "proxies": 2, "workloads_total": 1,
                "workloads": [{ "workload": "web", "namespace": "shop", "proxies": 2 }],
            })
        };
        let shown = offset..services.min(offset + 1000);
        Answer::Json(json!({
            "instance": "host/1", "discovery": { "all": 0, "on-demand": 2 }, "matched": 2,
            "services_total": services, "services": shown.map(of).collect::<Vec<_>>(), "proxies": [],
        }))
    })
    .await
}

#[tokio::test]
async fn all_replicas_say_together_who_calls_what() {
    let (one, other, silent) =
        (replica(1_500).await, replica(1).await, StandIn::start(|_, _| Answer::Silence).await);
    let ran = ask(&["uses", "-n", "shop"], &[one.address, other.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 1 + 1_500);
    assert_eq!(lines[0], ["CALLER", "SERVICE", "PORTS", "PROXIES"]);
    assert_eq!(lines[1], ["web.shop", "s0.shop", "80", "4"], "of both replicas");
    assert_eq!(lines[2], ["web.shop", "s1.shop", "80", "2"]);
    assert!(ran.err.contains("4 proxies on demand\n"), "{ran:?}");
    let asked = ["offset=0", "offset=1000"]
        .map(|offset| format!("/debug/uses?namespace=shop&{offset}&limit=1000"));
    assert_eq!(one.asked(), asked);

    let command = ["uses", "s0.shop", "-o", "json", "--request-timeout", "300ms"];
    let ran = ask(&command, &[other.address, silent.address]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(
        ran.json()["uses"],
        json!([{ "workload": "web", "namespace": "shop", "service": "s0.shop", "ports": [80], "proxies": 2 }])
    );
    assert!(ran.err.contains(&silent.address.to_string()), "{ran:?}");
}

//! `status` and `changes` over stand-ins, whose answers are known to the letter.

use serde_json::json;

use crate::harness::{Answer, StandIn, ask, page, row};

#[tokio::test]
async fn the_rows_of_all_replicas_stand_in_one_table_the_worst_first() {
    let one =
        StandIn::with_proxies(vec![row(1, "b.shop", "STALE"), row(2, "c.shop", "SYNCED")]).await;
    let other =
        StandIn::with_proxies(vec![row(1, "a.shop", "REJECTED"), row(2, "a.web", "SYNCED")]).await;
    let ran = ask(&["status"], &[one.address, other.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "KIND", "CDS", "EDS", "LDS", "RDS", "REPLICA", "VERSION"]);
    let names: Vec<&str> = lines[1..].iter().map(|line| line[0]).collect();
    assert_eq!(names, ["a.shop", "b.shop", "a.web", "c.shop"]);
    let replica = other.address.to_string();
    assert_eq!(
        lines[1],
        [
            "a.shop",
            "sidecar",
            "REJECTED",
            "REJECTED",
            "REJECTED",
            "REJECTED",
            &replica,
            "envoy/1.40.0"
        ]
    );
    assert!(ran.err.contains("4 proxies at 2 replicas: 1 REJECTED, 1 STALE, 2 SYNCED"), "{ran:?}");
    assert!(!ran.out.contains('\u{1b}'), "no colours in a pipe");
}

#[tokio::test]
async fn filters_are_the_servers_and_pages_are_read_to_their_end() {
    let rows: Vec<_> = (0..2_500).map(|key| row(key, &format!("p{key}.shop"), "SYNCED")).collect();
    let server = StandIn::start(move |path, _| {
        let offset = path.split("offset=").nth(1).and_then(|rest| rest.split('&').next());
        let offset: usize = offset.unwrap().parse().unwrap();
        let mut answer = page(&rows[offset..(offset + 1000).min(rows.len())]);
        answer["matched"] = json!(rows.len());
        Answer::Json(answer)
    })
    .await;
    let command =
        ["status", "-o", "json", "--state", "not-sent", "-n", "shop", "--kind", "sidecar"];
    let ran = ask(&command, &[server.address]).await;
    assert_eq!(ran.json()["proxies"].as_array().map(Vec::len), Some(2_500), "{:?}", ran.err);
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        asked[0],
        "/debug/proxies?state=NOT%20SENT&namespace=shop&kind=sidecar&offset=0&limit=1000"
    );
}

#[tokio::test]
async fn one_proxy_shows_envoys_words_and_its_history() {
    let server = StandIn::start(|path, _| {
        let mut proxy = row(17, "reviews-v1.shop", "REJECTED");
        match path {
            _ if path.starts_with("/debug/proxies?") => {
                let longer = row(18, "reviews-v1-canary.shop", "SYNCED");
                Answer::Json(page(&[proxy, longer]))
            }
            "/debug/proxies/17" => {
                proxy["view"] = json!("sidecar in shop");
                proxy["types"]["CDS"]["error"] = json!("Error adding cluster x:\nno such thing");
                proxy["types"]["CDS"]["error_at"] = json!("2026-11-26T14:00:00.000Z");
                proxy["history"] = json!([{
                    "at": "2026-11-26T14:00:00.000Z", "type": "CDS", "what": "nack", "nonce": "4c1e8c98f4422f85",
                    "generation": 42, "error": "Error adding cluster x",
                }]);
                Answer::Json(proxy)
            }
            _ => Answer::not_found(),
        }
    })
    .await;
    // By the pod's name alone, which is also the begin of another's.
    let ran = ask(&["status", "reviews-v1"], &[server.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("Error adding cluster x:\n  no such thing\n"), "{}", ran.out);
    assert!(ran.out.contains("sidecar in shop"), "{}", ran.out);
    assert!(
        ran.out.lines().any(|line| line.starts_with("2026-11-26T14:00") && line.contains("nack"))
    );
    let ran = ask(&["status", "nobody"], &[server.address]).await;
    assert_eq!(ran.code, Some(0), "it lists what the server has found: {ran:?}");
    let empty = StandIn::with_proxies(Vec::new()).await;
    let ran = ask(&["status", "nobody"], &[empty.address]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no proxy that is connected is called nobody"), "{ran:?}");
}

#[tokio::test]
async fn changes_of_all_replicas_are_one_log() {
    let change = |second: u8, acknowledged: u8, stragglers: serde_json::Value| {
        json!({
            "replica": "host", "instance": "host/1", "generation": 7, "changes": [{
                "id": 3, "kind": "Service", "namespace": "shop", "name": "reviews", "action": "applied",
                "resource_version": "12345", "seen": format!("2026-11-26T14:00:0{second}.000Z"),
                "published": format!("2026-11-26T14:00:0{second}.100Z"), "generation": 7, "proxies": 2,
                "sent": 2, "acknowledged": acknowledged, "last_acknowledged": null,
                "stragglers": stragglers, "stragglers_total": 2 - acknowledged,
            }],
        })
    };
    let all = StandIn::start(move |_, _| Answer::Json(change(1, 2, json!([])))).await;
    let straggler = json!([{ "key": "1", "name": "slow.shop", "type": "CDS", "state": "STALE" }]);
    let some = StandIn::start(move |_, _| Answer::Json(change(2, 1, straggler.clone()))).await;
    let ran = ask(&["changes", "reviews"], &[all.address, some.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    let line = ran.out.lines().nth(1).unwrap();
    let wanted = ["Service", "shop/reviews", "applied", "3/4", "slow.shop"];
    assert!(wanted.iter().all(|word| line.contains(word)), "{line}");
    assert_eq!(all.asked(), ["/debug/changes?search=reviews&limit=20"]);
}

#[tokio::test]
async fn without_a_cluster_and_an_address_it_is_said_what_to_do() {
    let ran = ask(&["status", "--kubeconfig", "/nowhere"], &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("/nowhere") && ran.err.contains("--address HOST:PORT"), "{ran:?}");
    let ran = ask(&["wait", "service/x", "--kubeconfig", "/nowhere"], &[]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

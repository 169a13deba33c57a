//! Servers that hang, break, or send what they should not: each costs only itself, and is named.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::harness::{Answer, StandIn, ask, page, row};
use pilothouse_testkit::places;

/// A limit for one question below the default, so that the tests are short.
const LIMIT: &str = "--request-timeout=2s";

async fn good() -> StandIn {
    StandIn::with_proxies(vec![row(1, "good.shop", "SYNCED")]).await
}

/// Of a good server and this one: the good one's row is there, and this one is named with `why`.
async fn costs_only_itself(bad: SocketAddr, why: &str) {
    let good = good().await;
    let ran = ask(&["status", LIMIT], &[bad, good.address]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("good.shop"), "{ran:?}");
    let line = ran.err.lines().find(|line| line.contains(&bad.to_string()));
    assert!(line.is_some_and(|line| line.contains(why)), "{why}: {ran:?}");
    assert!(ran.took < Duration::from_secs(30), "{ran:?}");
}

#[tokio::test]
async fn one_that_hangs() {
    let silent = StandIn::start(|_, _| Answer::Silence).await;
    costs_only_itself(silent.address, "no answer within 2s").await;
}

#[tokio::test]
async fn one_that_never_accepts() {
    // Bound, and nobody there: a connection is made by the kernel, and nothing comes.
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    costs_only_itself(listener.local_addr().unwrap(), "no answer within 2s").await;
}

#[tokio::test]
async fn one_that_is_not_there() {
    let address = SocketAddr::new(places::address(), 9);
    costs_only_itself(address, "cannot be reached").await;
}

#[tokio::test]
async fn one_that_fails() {
    let server = StandIn::start(|_, _| Answer::Text(500, "it\u{1b}[2J broke\n".to_owned())).await;
    costs_only_itself(server.address, "answers 500: it\\u{1b}[2J broke").await;
}

#[tokio::test]
async fn one_that_sends_no_json() {
    let server = StandIn::start(|_, _| Answer::Text(200, "<html>".to_owned())).await;
    costs_only_itself(server.address, "not understood").await;
}

#[tokio::test]
async fn one_that_sends_json_of_another_sort() {
    for answer in [
        json!([1, 2]),
        json!({ "replica": "x" }),
        json!({ "instance": "x", "matched": -1, "proxies": [] }),
        json!({ "instance": "x", "matched": 1, "proxies": [["no", "object"]] }),
        json!({ "instance": "x", "matched": 1, "proxies": [{ "name": "x", "types": 7 }] }),
    ] {
        let server = StandIn::start(move |_, _| Answer::Json(answer.clone())).await;
        costs_only_itself(server.address, "not understood").await;
    }
}

#[tokio::test]
async fn one_that_sends_without_end() {
    let server = StandIn::start(|_, _| Answer::Endless).await;
    let good = good().await;
    let ran = ask(&["status", "--request-timeout=60s"], &[server.address, good.address]).await;
    assert!(ran.err.contains("more than 32 MB of an answer"), "{ran:?}");
    assert!(ran.out.contains("good.shop"), "{ran:?}");
}

#[tokio::test]
async fn one_that_has_ever_more_rows() {
    // It says that there are many more, and gives the same again and again.
    let server = StandIn::start(|_, _| {
        let mut answer = page(&vec![row(1, "again.shop", "SYNCED"); 1000]);
        answer["matched"] = json!(u64::MAX);
        Answer::Json(answer)
    })
    .await;
    let ran = ask(&["status", "--request-timeout=60s"], &[server.address]).await;
    assert_eq!(ran.out.matches("again.shop").count(), 1, "{ran:?}");
    assert_eq!(server.asked().len(), 100, "100,000 rows are enough");
}

#[tokio::test]
async fn one_that_speaks_no_http() {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            // It may have been closed meanwhile.
            _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        }
    });
    // By the moment at which it is noticed, it is bad HTTP or the end of the connection.
    costs_only_itself(address, "could not be asked").await;
    server.abort();
}

#[tokio::test]
async fn names_of_strangers_cannot_write_to_the_terminal() {
    let name = "\u{1b}[2J\u{202e}<script>\r\nx\u{9b}31m.shop";
    let server = StandIn::start(move |path, _| {
        let mut row = row(1, name, "REJECTED");
        for field in ["node_id", "zone", "version", "kind", "address"] {
            row[field] = json!(name);
        }
        row["types"]["CDS"]["error"] = json!(name);
        row["view"] = json!(name);
        row["history"] = json!([{ "at": name, "type": name, "what": name, "error": name }]);
        match path.starts_with("/debug/proxies?") {
            true => Answer::Json(page(&[row])),
            false => Answer::Json(row),
        }
    })
    .await;
    let unsafe_in =
        |text: &str| text.chars().any(|c| c != '\n' && (c.is_control() || matches!(c, '\u{202e}')));
    for command in [
        &["status"][..],
        &["status", "-o", "wide"],
        &["status", "-o", "json"],
        &["status", "-o", "yaml"],
        &["status", name],
        &["status", "shop", "-o", "wide"],
        &["status", "shop", "-o", "yaml"],
    ] {
        let ran = ask(command, &[server.address]).await;
        assert!(!ran.out.is_empty() && !unsafe_in(&ran.out), "{command:?}: {:?}", ran.out);
        assert!(!unsafe_in(&ran.err), "{command:?}: {:?}", ran.err);
    }
    // For programs it is the same string.
    let ran = ask(&["status", "-o", "json"], &[server.address]).await;
    assert_eq!(ran.json()["proxies"][0]["name"], name);
}

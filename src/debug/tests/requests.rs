//! How pages are asked for, and what is refused.

use super::*;
use crate::identity::{Authenticator, Readers};

#[tokio::test]
async fn pages_are_indented_on_request_and_the_same_each_time() {
    let mut fixture = Fixture::new();
    fixture.fill_model();
    let connection = fixture.connect("reviews.default", false);
    send(connection);
    // An answer that is awaited has an age.
    connection.update(|status| status.types[ResourceType::Endpoint.index()].nonce_acked = 0xac);
    for page in ["syncz", "adsz", "registryz", "endpointz", "push_status", "edsz?proxyID=reviews"] {
        let path = format!("/debug/{page}");
        let with = |more: &str| match path.contains('?') {
            true => format!("{path}&{more}"),
            false => format!("{path}?{more}"),
        };
        let (_, plain) = fixture.get(&path).await;
        let (_, pretty) = fixture.get(&with("pretty")).await;
        assert!(!plain.trim_end().contains('\n') && pretty.contains("\n  "), "{path}");
        let [plain_value, pretty_value] =
            [&plain, &pretty].map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(plain_value, pretty_value);
        for (more, expected) in
            [("pretty=true", &pretty), ("pretty=1", &pretty), ("pretty=false", &plain)]
        {
            assert_eq!(*expected, fixture.get(&with(more)).await.1, "{path} {more}");
        }
        let (status, text) = fixture.get(&with("pretty=maybe")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(text, "pretty=\"maybe\" is neither true nor false.\n");
    }
}

#[tokio::test]
async fn the_index_links_every_page_that_there_is() {
    let fixture = Fixture::new();
    for path in ["/debug", "/debug/"] {
        let (status, index) = fixture.get(path).await;
        assert_eq!(status, StatusCode::OK);
        for page in HANDLERS.iter().chain(&page::API).filter(|page| !page.path.contains('{')) {
            let readable = format!("<a href=\"{}?pretty\">", page.path);
            assert!(index.contains(&readable) && index.contains(page.help), "{}", page.path);
        }
    }
    for page in &HANDLERS {
        let status = fixture.get(page.path).await.0;
        let about_one =
            ["/debug/config_dump", "/debug/convergence", "/debug/edsz"].contains(&page.path);
        let expected = if about_one { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        assert_eq!(status, expected, "{}", page.path);
        let with_slash = fixture.get(&format!("{}/?pretty", page.path)).await;
        assert_eq!(with_slash, fixture.get(&format!("{}?pretty", page.path)).await);
    }
    let (status, text) = fixture.get("/debug/nonsense").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("/debug lists all pages"), "{text}");
}

#[tokio::test]
async fn list_names_all_pages_but_itself() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.json("/debug/list").await,
        json!([
            "adsz",
            "changes",
            "config_dump",
            "connections",
            "convergence",
            "edsz",
            "endpointShardz",
            "endpointz",
            "push_status",
            "registryz",
            "routes",
            "sourcez",
            "syncz",
            "uses"
        ])
    );
}

#[tokio::test]
async fn every_page_refuses_parameters_that_it_does_not_know() {
    let mut fixture = Fixture::new();
    fixture.connect("reviews.default", false);
    for path in HANDLERS.iter().map(|page| page.path).chain(["/debug", "/"]) {
        let (status, text) = fixture.get(&format!("{path}?pod=reviews&pretty")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(text.starts_with("\"pod\" is no parameter of this page; there are: "), "{text}");
    }
    let (_, text) = fixture.get("/debug/adsz?push=true").await;
    let expected =
        "\"push\" is no parameter of this page; there are: namespace, proxyID, pretty.\n";
    assert_eq!(text, expected);
    let (status, text) = fixture.get("/debug/syncz?namespace=a&namespace=b").await;
    assert_eq!((status, &*text), (StatusCode::BAD_REQUEST, "\"namespace\" is given twice.\n"));
    // An empty one is a filter that was not filled in.
    assert_eq!(fixture.json("/debug/syncz?namespace=&proxyID=").await.as_array().unwrap().len(), 1);
}

const LOCAL: [&str; 14] = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.:8080",
    "localhost:",
    "a.localhost",
    "127.0.0.1",
    "127.0.0.1:8080",
    "127.0.0.1.:8080",
    "10.0.0.7",
    "[::1]",
    "[::1]:8080",
    "[::ffff:127.0.0.1]:8080",
    "[fe80::1%eth0]:8080",
    "[FE80::1%25eth0]",
];

const FOREIGN: [&str; 16] = [
    "evil.example",
    "EVIL.example.:8080",
    "localhost.evil.example:8080",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "localhost:evil.example",
    "localhost:8080.evil.example",
    "localhost@evil.example",
    "localhost..",
    "[::1]evil.example",
    "[::1].evil.example:8080",
    "[evil.example]",
    "[::1",
    "::1",
    "",
    ":8080",
];

async fn status_for(router: &Router, request: Request<Body>) -> StatusCode {
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn on_loopback_only_local_names_are_answered() {
    let fixture = Fixture::new();
    let ask = |host: &'static str| get_from(&fixture.debug, "/debug/syncz", host);
    for host in LOCAL {
        assert_eq!(ask(host).await.0, StatusCode::OK, "{host}");
    }
    for host in FOREIGN {
        assert_eq!(ask(host).await.0, StatusCode::FORBIDDEN, "{host}");
    }
    let (_, text) = ask("evil.example").await;
    assert!(text.contains("localhost or an IP address, not for \"evil.example\""), "{text}");
}

/// A request may name its host in its target as well, or twice, or in bytes that are no text, or
/// not at all.
#[tokio::test]
async fn every_place_that_names_a_host_must_name_a_local_one() {
    let fixture = Fixture::new();
    let request = |target: &str, hosts: &[&[u8]]| {
        let mut request = Request::get(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(Body::empty()).unwrap()
    };
    let (target, local): (_, &[u8]) = ("/debug/syncz", b"localhost:8080");
    let absolute =
        ["http://localhost:8080", "http://evil.example"].map(|base| format!("{base}{target}"));
    for (target, hosts, expected) in [
        (target, &[local] as &[&[u8]], StatusCode::OK),
        (&absolute[0], &[local], StatusCode::OK),
        (&absolute[0], &[], StatusCode::OK),
        (&absolute[0], &[b"evil.example"], StatusCode::FORBIDDEN),
        (&absolute[1], &[local], StatusCode::FORBIDDEN),
        (&absolute[1], &[], StatusCode::FORBIDDEN),
        (target, &[local, b"evil.example"], StatusCode::FORBIDDEN),
        (target, &[b"evil.example", local], StatusCode::FORBIDDEN),
        (target, &[b"localhost\xff"], StatusCode::FORBIDDEN),
        (target, &[b"\xe9vil.example"], StatusCode::FORBIDDEN),
        (target, &[], StatusCode::FORBIDDEN),
    ] {
        let status = status_for(&fixture.debug, request(target, hosts)).await;
        assert_eq!(status, expected, "{target} {hosts:?}");
    }
}

#[tokio::test]
async fn a_browser_is_told_to_take_nothing_for_markup() {
    let fixture = Fixture::new();
    for (path, host, kind) in [
        ("/debug", "localhost", "text/html; charset=utf-8"),
        ("/debug/syncz", "localhost", "application/json"),
        ("/debug/config_dump?proxyID=%3Cb%3E", "localhost", "text/plain; charset=utf-8"),
        ("/debug/%3Cb%3E", "localhost", "text/plain; charset=utf-8"),
        ("/debug/syncz", "<b>", "text/plain; charset=utf-8"),
    ] {
        let request = Request::get(path).header(header::HOST, host).body(Body::empty()).unwrap();
        let response = fixture.debug.clone().oneshot(request).await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), kind, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
    }
}

/// What a peer says reaches a terminal as text that does nothing.
#[tokio::test]
async fn the_words_of_a_peer_are_escaped() {
    let mut fixture = Fixture::new();
    let words = "<script>\u{0}\u{1b}[2J\r\n\u{7f}\u{85}\u{9b}31m\u{a9} \"é\" \u{7f}";
    let connection = fixture.connect(words, false);
    send(connection);
    connection.update(|status| {
        status.types[ResourceType::Listener.index()].last_error = Some(words.into());
    });
    for page in ["syncz", "adsz", "connections", "push_status"] {
        for pretty in ["", "?pretty"] {
            let (status, text) = fixture.get(&format!("/debug/{page}{pretty}")).await;
            assert_eq!(status, StatusCode::OK);
            assert!(!text.chars().any(|one| one.is_control() && one != '\n'), "{page}: {text:?}");
            assert!(text.contains(r"\u009b31m©") && text.contains(r"\u007f"), "{page}: {text}");
            let page: Value = serde_json::from_str(&text).unwrap();
            assert!(page.to_string().contains(&json!(words).to_string()[1..20]), "{page}");
        }
    }
    let syncz = fixture.json("/debug/syncz").await;
    let listeners = &syncz[0]["resources"][ResourceType::Listener.type_url()];
    assert_eq!((&syncz[0]["proxy"], &listeners["lastError"]), (&json!(words), &json!(words)));
    // So does what is said in plain text.
    fixture.connect("\u{9b}2.default", false);
    let (status, text) = fixture.get("/debug/edsz?proxyID=%C2%9B").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
}

/// What the debug types show is for peers on loopback, and for the identities that are named.
#[tokio::test]
async fn debug_types_over_xds_are_for_loopback_and_for_identities_that_are_named() {
    let fixture = Fixture::new();
    let guard = ReaderGuard {
        authenticator: Authenticator::new("cluster.local", "cluster.local"),
        readers: Readers::new(vec!["ops/doctor".parse().unwrap()]),
    };
    let over_ads = routers(fixture.state.clone(), guard).unwrap().over_ads;
    let ask = async |peer: &str, principal: Option<&str>| {
        let peer: SocketAddr = peer.parse().unwrap();
        let answered = over_ads.answer(peer, principal, "istio.io/debug/syncz", Vec::new()).await;
        answered.map(|_| ()).map_err(|status| (status.code(), status.message().to_owned()))
    };
    let (near, far) = ("127.0.0.1:1", "10.1.2.3:1");
    let reader = "spiffe://cluster.local/ns/ops/sa/doctor";
    assert_eq!(ask(near, None).await, Ok(()));
    assert_eq!(ask(far, Some(reader)).await, Ok(()));
    for (principal, who) in [
        (None, "a peer without an identity"),
        (Some("spiffe://cluster.local/ns/shop/sa/web"), "spiffe://cluster.local/ns/shop/sa/web"),
    ] {
        let (code, text) = ask(far, principal).await.unwrap_err();
        assert_eq!(code, tonic::Code::PermissionDenied);
        assert!(
            text.contains(&format!("to those of --debug-identities (this is {who})")),
            "{text}"
        );
    }
}

/// The same without a socket: nothing of the pages is there for who is not named.
#[tokio::test]
async fn the_pages_for_other_machines_need_a_named_identity_each() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let guard = ReaderGuard {
        authenticator: Authenticator::new("cluster.local", "cluster.local"),
        readers: Readers::new(vec!["ops/*".parse().unwrap()]),
    };
    let secure = routers(fixture.state.clone(), guard).unwrap().secure;
    let ask = async |path: &str, uri: Option<&str>| {
        let mut request = Request::get(path).header(header::HOST, "pilot.example");
        if let Some(uri) = uri {
            let certificate = pilothouse_xds_server::PeerCertificate {
                uri_names: vec![uri.into()],
                dns_names: Vec::new(),
                not_after: SystemTime::now() + Duration::from_secs(60),
            };
            request = request.extension(Arc::new(certificate));
        }
        let response = secure.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.status()
    };
    let paths = HANDLERS.iter().chain(&page::API).map(|page| page.path);
    for path in paths.chain(["/", "/debug", "/ready", "/nonsense"]) {
        assert_eq!(ask(path, None).await, StatusCode::UNAUTHORIZED, "{path}");
        let other = Some("spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(ask(path, other).await, StatusCode::FORBIDDEN, "{path}");
        let foreign = Some("spiffe://elsewhere/ns/ops/sa/doctor");
        assert_eq!(ask(path, foreign).await, StatusCode::UNAUTHORIZED, "{path}");
    }
    let reader = Some("spiffe://cluster.local/ns/ops/sa/doctor");
    assert_eq!(ask("/debug/registryz", reader).await, StatusCode::OK);
    assert_eq!(ask("/", reader).await, StatusCode::OK);
}

/// Whatever is asked of the monitoring port, it says nothing of the configuration.
#[tokio::test]
async fn the_monitoring_port_has_no_page_about_the_configuration() {
    let mut fixture = Fixture::new();
    fixture.fill_model();
    send(fixture.connect("reviews-v1.default", false));
    let pages = HANDLERS.iter().chain(&page::API).map(|page| page.path);
    for path in pages.chain(["/", "/debug", "/metrics", "/ready", "/live", "/version"]) {
        let (_, text) = get_from(&fixture.monitoring, path, "10.0.0.7:15014").await;
        for word in ["reviews", "127.0.0.", "outbound|", "zone-a"] {
            assert!(!text.contains(word), "{path} says {word}: {text}");
        }
    }
}

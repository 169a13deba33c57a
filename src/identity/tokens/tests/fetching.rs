//! A stand-in issuer over TLS: rotation, floods, failures, silence.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer as Pkcs8;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::DropGuard;

use super::*;

/// Long enough for whatever is waited for, on a machine with other things to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a test's verifier fetches: soon after a failure, else only if asked.
const PACE: FetchPace = FetchPace {
    refresh: Duration::from_secs(3600),
    retry: Duration::from_millis(20),
    unknown_key: Duration::from_secs(3600),
    patience: DEADLINE,
};

#[derive(Clone)]
enum Answer {
    /// With the status of success.
    Text(String),
    Status(u16),
    /// No answer ever.
    Silence,
}

/// An issuer whose answers a test chooses.
struct StandIn {
    url: String,
    ca: Vec<u8>,
    pages: Arc<Mutex<Pages>>,
    /// How often the keys were asked for.
    asked: Arc<AtomicUsize>,
    _server: DropGuard,
}

struct Pages {
    discovery: Answer,
    keys: Answer,
}

impl StandIn {
    async fn start(keys: &[&Key]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ca = made.cert.der().to_vec();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![made.cert.der().clone()],
                Pkcs8::from(made.signing_key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
        let pages = Arc::new(Mutex::new(Pages {
            discovery: Answer::Text(discovery),
            keys: Answer::Text(document(keys).to_string()),
        }));
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let serve = {
            let (pages, asked) = (pages.clone(), asked.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, pages, asked) = (acceptor.clone(), pages.clone(), asked.clone());
                    tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let mut request = Vec::new();
                        while !request.ends_with(b"\r\n\r\n") {
                            let Ok(byte) = stream.read_u8().await else { return };
                            request.push(byte);
                        }
                        let answer = {
                            let pages = pages.lock().unwrap();
                            match request.starts_with(b"GET /keys ") {
                                true => {
                                    asked.fetch_add(1, Ordering::SeqCst);
                                    pages.keys.clone()
                                }
                                false => pages.discovery.clone(),
                            }
                        };
                        let (status, text) = match answer {
                            Answer::Text(text) => (200, text),
                            Answer::Status(status) => (status, "no".to_owned()),
                            Answer::Silence => std::future::pending().await,
                        };
                        let head = format!(
                            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                            text.len()
                        );
                        _ = stream.write_all((head + &text).as_bytes()).await;
                        _ = stream.shutdown().await;
                    });
                }
            }
        };
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(serve).await });
        Self { url, ca, pages, asked, _server: stop.drop_guard() }
    }

    fn keys(&self, answer: Answer) {
        self.pages.lock().unwrap().keys = answer;
    }

    fn discovery(&self, answer: Answer) {
        self.pages.lock().unwrap().discovery = answer;
    }

    fn publish(&self, keys: &[&Key]) {
        self.keys(Answer::Text(document(keys).to_string()));
    }

    /// Valid by the real clock.
    fn token(&self, key: &Key) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = claims_with("/iss", self.url.as_str());
        claims["exp"] = (now + 600).into();
        claims["nbf"] = now.into();
        key.token(&claims)
    }

    /// A verifier that believes this issuer's certificate, as if it were the cluster's CA.
    fn verifier(&self, pace: FetchPace) -> (Arc<TokenVerifier>, DropGuard) {
        self.verifier_with(pace, ClusterCa::Given(vec![self.ca.clone()]))
    }

    fn verifier_with(
        &self,
        pace: FetchPace,
        cluster_ca: ClusterCa,
    ) -> (Arc<TokenVerifier>, DropGuard) {
        let issuer = Issuer::Elsewhere { url: IssuerUrl::read(&self.url).unwrap(), cluster_ca };
        let (verifier, task) =
            TokenVerifier::by_keys(issuer, audiences(), pace, Arc::new(TokenMetrics::default()));
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        (verifier, stop.drop_guard())
    }
}

fn counted(verifier: &TokenVerifier, result: &str) -> u64 {
    let found = verifier.metrics.verifications().find(|(name, _)| *name == result);
    found.unwrap().1.get()
}

/// Waits until a token gets this answer.
async fn until(
    verifier: &TokenVerifier,
    token: &str,
    is_wanted: impl Fn(&Result<VerifiedToken, TokenError>) -> bool,
) {
    let mut last = None;
    let wanted = async {
        loop {
            let found = verifier.verify(token).await;
            if is_wanted(&found) {
                break;
            }
            last = Some(found);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE, wanted).await;
    assert!(seen.is_ok(), "{last:?}");
}

/// The error of a verifier whose fetches fail.
async fn failure(issuer: &StandIn, cluster_ca: ClusterCa, key: &Key) -> String {
    let (verifier, _task) = issuer.verifier_with(PACE, cluster_ca);
    match verifier.verify(&issuer.token(key)).await {
        Err(TokenError::KeysUnavailable { error }) => {
            assert_eq!(verifier.health().last_error.as_ref(), Some(&error));
            error
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_are_changed_over_without_a_restart() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let issuer = StandIn::start(&[&old]).await;
    let (verifier, _task) = issuer.verifier(PACE);
    let (by_old, by_new) = (issuer.token(&old), issuer.token(&new));
    verifier.verify(&by_old).await.unwrap();
    let health = verifier.health();
    assert_eq!((health.keys, health.issuer), (vec!["old".to_owned()], Some(issuer.url.clone())));
    issuer.publish(&[&old, &new]);
    verifier.verify(&by_new).await.unwrap();
    verifier.verify(&by_old).await.unwrap();
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
    assert_eq!(counted(&verifier, "valid"), 3);
}

#[tokio::test]
async fn a_key_that_is_withdrawn_takes_its_tokens_along() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let issuer = StandIn::start(&[&old]).await;
    let (verifier, _task) = issuer.verifier(PACE);
    let by_old = issuer.token(&old);
    verifier.verify(&by_old).await.unwrap();
    issuer.publish(&[&new]);
    verifier.verify(&issuer.token(&new)).await.unwrap();
    let error = verifier.verify(&by_old).await.unwrap_err();
    assert!(matches!(error, TokenError::UnknownKey { .. }), "{error}");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch() {
    let key = Key::es256("a");
    let issuer = StandIn::start(&[&key]).await;
    let (verifier, _task) = issuer.verifier(PACE);
    verifier.verify(&issuer.token(&key)).await.unwrap();
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..200 {
        let token = issuer.token(&Key::es256(&format!("made-up-{number}")));
        let verifier = verifier.clone();
        flood.spawn(async move { verifier.verify(&token).await });
    }
    for found in flood.join_all().await {
        assert!(matches!(found, Err(TokenError::UnknownKey { .. })), "{found:?}");
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
    assert_eq!(counted(&verifier, "key"), 200);
    // A token of another issuer is not worth any.
    let other = verifier.verify(&Key::es256("made-up").token(&claims())).await;
    assert!(matches!(other, Err(TokenError::UnknownIssuer { .. })), "{other:?}");
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn old_keys_go_on_to_count_while_the_issuer_fails() {
    let (key, new) = (Key::es256("a"), Key::es256("new"));
    let issuer = StandIn::start(&[&key]).await;
    let (verifier, _task) = issuer.verifier(FetchPace { unknown_key: Duration::ZERO, ..PACE });
    verifier.verify(&issuer.token(&key)).await.unwrap();
    issuer.keys(Answer::Status(503));
    until(&verifier, &issuer.token(&new), |found| match found {
        Err(error @ TokenError::KeysUnavailable { .. }) => error.to_string().contains("status 503"),
        _ => false,
    })
    .await;
    // Not out of the cache: it is another token.
    let mut other = claims_with("/iss", issuer.url.as_str());
    other["exp"] = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 300).into();
    other["nbf"] = 0.into();
    verifier.verify(&key.token(&other)).await.unwrap();
    let health = verifier.health();
    assert!(health.last_error.is_some_and(|error| error.contains("503")));
    assert!(health.fetched.is_some());
    issuer.publish(&[&new]);
    until(&verifier, &issuer.token(&new), Result::is_ok).await;
    assert_eq!(verifier.health().last_error, None);
}

#[tokio::test]
async fn an_issuer_that_fails_at_first_is_asked_again() {
    let key = Key::rsa("a", "RS256");
    let issuer = StandIn::start(&[&key]).await;
    issuer.discovery(Answer::Status(500));
    let (verifier, _task) = issuer.verifier(PACE);
    let token = issuer.token(&key);
    let error = verifier.verify(&token).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("status 500"), "{error}");
    let discovery = json!({ "issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url) });
    issuer.discovery(Answer::Text(discovery.to_string()));
    until(&verifier, &token, Result::is_ok).await;
}

#[tokio::test]
async fn a_silent_issuer_makes_nobody_wait_for_ever() {
    let key = Key::es256("a");
    let issuer = StandIn::start(&[&key]).await;
    issuer.keys(Answer::Silence);
    let pace = FetchPace { patience: Duration::from_millis(50), ..PACE };
    let (verifier, _task) = issuer.verifier(pace);
    let error = verifier.verify(&issuer.token(&key)).await.unwrap_err();
    assert!(matches!(error, TokenError::KeysUnavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer within 50ms"), "{error}");
}

#[tokio::test]
async fn what_an_issuer_says_wrongly_is_named() {
    let key = Key::es256("a");
    let issuer = StandIn::start(&[&key]).await;
    let ca = || ClusterCa::Given(vec![issuer.ca.clone()]);
    let url = issuer.url.as_str();
    for (discovery, why) in [
        ("<html>".to_owned(), "no discovery document"),
        (json!({ "issuer": url }).to_string(), "jwks_uri"),
        (
            json!({ "issuer": "https://x", "jwks_uri": "https://x/y" }).to_string(),
            "equal to the letter",
        ),
        (json!({ "issuer": url, "jwks_uri": "http://x/y" }).to_string(), "https://"),
        (format!("\"{}\"", "x".repeat(300 << 10)), "length limit"),
    ] {
        issuer.discovery(Answer::Text(discovery));
        let error = failure(&issuer, ca(), &key).await;
        assert!(error.contains(why), "{why}: {error}");
    }
    let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
    issuer.discovery(Answer::Text(discovery));
    issuer.publish(&[]);
    let error = failure(&issuer, ca(), &key).await;
    assert!(error.contains("/keys cannot be used: none of its 0 keys"), "{error}");
    // Neither the system nor the cluster knows who that is.
    let error = failure(&issuer, ClusterCa::None, &key).await;
    assert!(error.contains("certificate"), "{error}");
}

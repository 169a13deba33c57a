//! Cross-origin requests, answered by a real Envoy's CORS filter as the Gateway API wants it.

use std::sync::Arc;

use pilothouse::model::route::{
    AppliedRoute, Backend, Cors, PathMatch, PortRules, Route, RouteFilter, RouteKey, RouteKind,
    RouteMatch, RouteRule,
};

use crate::agreement::routes;
use crate::cases::{Case, resolved, target};
use crate::echo::Echo;
use crate::envoy::{Answer, TestEnvoy, table};
use crate::outcome::Request;

fn cors(origins: &[&str], credentials: bool, lists: [&[&str]; 3]) -> Cors {
    let all = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
    let [methods, headers, exposed] = lists;
    Cors {
        allow_origins: all(origins),
        allow_credentials: credentials,
        allow_methods: all(methods),
        allow_headers: all(headers),
        expose_headers: all(exposed),
        max_age: 3600,
    }
}

fn rule(path: &str, method: Option<&str>, backend: usize, cors: Cors) -> RouteRule {
    let path = PathMatch::Exact(path.into());
    let backend = Backend { target: target(backend), weight: 1, filters: Vec::new() };
    RouteRule {
        matches: vec![RouteMatch { path, method: method.map(Into::into), ..RouteMatch::any() }],
        filters: vec![RouteFilter::Cors(cors)],
        ..RouteRule::new(vec![backend])
    }
}

fn case(rules: Vec<RouteRule>) -> Case {
    let route = Route::new(RouteKey::new(RouteKind::Http, "default", "route"), rules);
    let applied = AppliedRoute { route: Arc::new(route), backends: resolved() };
    let rules = PortRules { kind: RouteKind::Http, routes: vec![applied] };
    Case { port: 80, rules, requests: Vec::new() }
}

struct Browser {
    envoy: TestEnvoy,
}

impl Browser {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: String::new(),
            host: "svc".to_owned(),
            headers: headers.iter().map(text).collect(),
        };
        self.envoy.ask(0, &request).await
    }

    async fn preflight(&self, path: &str, origin: &str, method: &str) -> Answer {
        let wants = ("access-control-request-method", method);
        let headers = ("access-control-request-headers", "x-1, x-9");
        self.ask("OPTIONS", path, &[("origin", origin), wants, headers]).await
    }
}

fn says(answer: &Answer, name: &str) -> Option<String> {
    answer.headers.get(&format!("access-control-{name}")).cloned()
}

#[tokio::test]
async fn cross_origin_requests_are_answered_as_the_rule_says() {
    let backend = Echo::start("default/svc-0:80".to_owned()).await;
    let origins =
        ["https://www.foo.com", "https://*.bar.com", "http://a.com:8080", "http://b.com:80"];
    let some = cors(&origins, true, [&["GET", "PUT"], &["x-1", "x-2"], &["x-3", "*"]]);
    let all = || cors(&["*"], true, [&["*"], &["*"], &["*"]]);
    let open = cors(&["https://*"], false, [&["*"], &["*"], &["*"]]);
    let case = case(vec![
        rule("/some", None, 0, some),
        rule("/all", None, 0, all()),
        rule("/open", None, 0, open),
        rule("/put", Some("PUT"), 0, all()),
        rule("/invalid", None, 4, all()),
    ]);
    let cluster = "outbound|80||svc-0.default.svc.cluster.local".to_owned();
    let envoy = TestEnvoy::start(vec![table(vec![routes(&case)])], &[(cluster, backend.at)]).await;
    envoy.assert_took_all().await;
    let browser = Browser { envoy };

    // "the gateway sets the response header `Access-Control-Allow-Origin` to the same value as the `Origin`".
    for origin in [
        "https://www.foo.com",
        "https://WWW.foo.com",
        "https://www.foo.com:443",
        // "`*` is a greedy match to the _left_, including any number of DNS labels".
        "https://a.bar.com",
        "https://a.b.bar.com:443",
        "http://a.com:8080",
        // "if not included, port `80` is assumed for `http` scheme origins".
        "http://b.com",
        "http://b.com:80",
    ] {
        let answer = browser.preflight("/some", origin, "PUT").await;
        assert_eq!(says(&answer, "allow-origin").as_deref(), Some(origin), "{answer:?}");
        assert_eq!(answer.status, 200);
        assert_eq!(says(&answer, "allow-methods").unwrap(), "GET, PUT");
        assert_eq!(says(&answer, "allow-headers").unwrap(), "x-1, x-2");
        assert_eq!(says(&answer, "max-age").unwrap(), "3600");
        assert_eq!(says(&answer, "allow-credentials").unwrap(), "true");
        // "the gateway cannot use the `*` wildcard in the `Access-Control-Expose-Headers` response header" of a
        // credentialed request.
        assert_eq!(says(&answer, "expose-headers").unwrap(), "x-3");
        let answer = browser.ask("GET", "/some", &[("origin", origin)]).await;
        assert_eq!(says(&answer, "allow-origin").as_deref(), Some(origin), "{answer:?}");
        assert!(answer.body.contains("svc-0"));
    }
    for origin in [
        "http://www.foo.com",
        "https://foo.com",
        "https://bar.com",
        "https://a.bar.com.evil.com",
        "https://evil.com/.bar.com",
        "https://abar.com",
        "http://a.com",
        "https://a.bar.com:8443",
        "null",
    ] {
        // "the gateway returns 204/200 response but doesn't set the relevant cross-origin response headers".
        let answer = browser.preflight("/some", origin, "PUT").await;
        assert_eq!((answer.status, says(&answer, "allow-origin")), (200, None), "{origin}");
        assert!(answer.body.is_empty(), "it has reached the backend: {answer:?}");
        let answer = browser.ask("GET", "/some", &[("origin", origin)]).await;
        assert_eq!((answer.status, says(&answer, "allow-origin")), (200, None), "{origin}");
    }

    // "the gateway must return a single origin […] instead of specifying the `*` wildcard", "must specify one HTTP
    // method", "same as the `Access-Control-Request-Headers` header provided by the client".
    let answer = browser.preflight("/all", "https://any.where:99", "PATCH").await;
    assert_eq!(says(&answer, "allow-origin").unwrap(), "https://any.where:99");
    assert_eq!(says(&answer, "allow-methods").unwrap(), "PATCH");
    assert_eq!(says(&answer, "allow-headers").unwrap(), "x-1, x-9");
    assert_eq!(says(&answer, "expose-headers"), None);

    // "When set to false or omitted the gateway will omit the header `Access-Control-Allow-Credentials` entirely".
    let answer = browser.preflight("/open", "https://any.where", "PATCH").await;
    assert_eq!(says(&answer, "allow-origin").unwrap(), "https://any.where");
    assert_eq!(says(&answer, "allow-credentials"), None);
    assert_eq!(says(&answer, "expose-headers").unwrap(), "*");
    // "A wildcard by itself matches all hosts", and no port is the scheme's own.
    for origin in ["http://any.where", "https://any.where:99"] {
        assert_eq!(says(&browser.preflight("/open", origin, "PATCH").await, "allow-origin"), None);
    }

    // The browser's question before a PUT is an OPTIONS.
    let answer = browser.preflight("/put", "https://any.where", "PUT").await;
    assert_eq!((answer.status, says(&answer, "allow-methods").as_deref()), (200, Some("PUT")));
    assert_eq!(browser.preflight("/put", "https://any.where", "POST").await.status, 404);
    assert_eq!(browser.ask("OPTIONS", "/put", &[]).await.status, 404);

    // The page may read the error.
    let answer = browser.ask("GET", "/invalid", &[("origin", "https://any.where")]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(says(&answer, "allow-origin").unwrap(), "https://any.where");
}

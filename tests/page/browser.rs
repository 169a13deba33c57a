//! A Chromium of one's own, driven by chromedriver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use fantoccini::{Client, ClientBuilder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use pilothouse_testkit::{LONG_DEADLINE, Process, eventually, repository, same};

/// What the page says of the server within this long; the two seconds on an idle machine, and slack for one
/// that builds and tests besides.
pub(crate) const SHOWN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) client: Client,
    /// Chromium's own, which does not end with chromedriver's.
    process: Option<Pid>,
    /// Its address at chromedriver.
    session: String,
    _driver: Process,
    profile: TempDir,
}

impl Browser {
    /// At a page of this address, 1280 by 900.
    pub(crate) async fn open(url: &str) -> Self {
        let profile = TempDir::new().unwrap();
        let start = || Process::start("chromedriver", Command::new("chromedriver").arg("--port=0"));
        let mut driver = start();
        let port = eventually(LONG_DEADLINE, "chromedriver's port", async || {
            let log = driver.log();
            // It takes a free port of IPv6 and then wants the same of IPv4, where a client may have it: seen
            // beside 300 proxies.
            if log.contains("port not available. Exiting") {
                driver = start();
            }
            let (_, rest) = log.split_once("started successfully on port ").ok_or(log.clone())?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().map_err(|_| log.clone())
        })
        .await;
        let arguments = json!([
            "--headless=new",
            // Chromium refuses its sandbox to root, and containers have none.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--window-size=1280,900",
            format!("--user-data-dir={}", profile.path().display()),
        ]);
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromedriver starts a Chromium");
        let id = client.session_id().await.unwrap().expect("there is a session");
        let session = format!("http://127.0.0.1:{port}/session/{id}");
        let process = client.capabilities().and_then(|own| own.get("goog:processID")?.as_i64());
        let process = process.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let browser = Self { client, session, process, _driver: driver, profile };
        browser.client.goto(url).await.unwrap();
        browser
    }

    /// Where it keeps its data, which is on the command lines of its processes.
    pub(crate) fn profile(&self) -> &Path {
        self.profile.path()
    }

    /// Goes to a part of the page.
    pub(crate) async fn show(&self, hash: &str) {
        self.run("location.hash = arguments[0]", vec![json!(hash)]).await;
    }

    pub(crate) async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client
            .execute(script, arguments)
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The text of what fits the selector, as it is rendered; of several, one after the other.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText ?? one.textContent).join('\\n')";
        self.run(script, vec![json!(selector)]).await.as_str().unwrap().to_owned()
    }

    /// How many there are.
    pub(crate) async fn count(&self, selector: &str) -> u64 {
        let script = "return document.querySelectorAll(arguments[0]).length";
        self.run(script, vec![json!(selector)]).await.as_u64().unwrap()
    }

    /// Waits until what fits the selector has all of these texts in it.
    pub(crate) async fn shows(&self, selector: &str, texts: &[&str]) {
        self.comes_to_show(SHOWN, selector, texts).await;
    }

    /// The same of what depends on more than the page and its server.
    pub(crate) async fn comes_to_show(&self, deadline: Duration, selector: &str, texts: &[&str]) {
        let what = format!("{selector} to show {texts:?}");
        eventually(deadline, &what, async || {
            let text = self.text(selector).await;
            match texts.iter().find(|part| !text.contains(**part)) {
                None => Ok(()),
                Some(part) => Err(format!("no {part:?} in {text:?}")),
            }
        })
        .await;
    }

    /// Waits until nothing fits the selector.
    pub(crate) async fn has_no(&self, selector: &str) {
        eventually(SHOWN, &format!("no {selector}"), async || same(self.count(selector).await, 0))
            .await;
    }

    pub(crate) async fn click(&self, selector: &str) {
        let script =
            "const one = document.querySelector(arguments[0]); one?.click(); return one !== null";
        assert_eq!(self.run(script, vec![json!(selector)]).await, true, "no {selector}");
    }

    /// One of chromedriver's own commands, which are no part of WebDriver.
    async fn post(&self, path: &str, body: Value) -> Value {
        let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = http::Request::post(format!("{}/{path}", self.session));
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::from(body.to_string())).unwrap();
        let response = client.request(request).await.expect("chromedriver answers");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    /// Of the DevTools protocol.
    async fn command(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// As wide as a telephone or a large screen; a window's frame makes no difference.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub(crate) async fn prefer(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// Keeps what is seen as `target/page/NAME.png`, and in docs/images/ with `UPDATE=1` if it is one of those.
    pub(crate) async fn screenshot(&self, name: &str, is_of_the_documents: bool) {
        let image = self.client.screenshot().await.unwrap();
        let mut folders = vec![PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../page")];
        if is_of_the_documents && std::env::var_os("UPDATE").is_some() {
            folders.push(repository().join("docs/images"));
        }
        for folder in folders {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("{name}.png")), &image).unwrap();
        }
    }

    /// Nothing is wider than the window, at a width where that is easily so.
    pub(crate) async fn fits(&self) {
        let script =
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        eventually(SHOWN, "the page to fit", async || {
            same(self.run(script, vec![]).await, json!(0))
        })
        .await;
    }

    /// Nothing went wrong in it: no error of a script, nothing that was refused to it. Requests that found no server are
    /// the network's, and not looked for.
    pub(crate) async fn has_no_errors(&self) {
        let entries = self.post("se/log", json!({ "type": "browser" })).await;
        let is_error = |entry: &&Value| entry["level"] == "SEVERE" && entry["source"] != "network";
        let errors: Vec<_> = entries.as_array().unwrap().iter().filter(is_error).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    /// Ends it, after a look at what went wrong in it.
    pub(crate) async fn close(self) {
        self.has_no_errors().await;
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            // An error means that it has ended already.
            _ = kill_process(process, Signal::KILL);
        }
    }
}

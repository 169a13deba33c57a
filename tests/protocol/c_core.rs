//! A real gRPC client: C-core by way of grpcio, in a process of its own (`c_core.py`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pilothouse_testkit::certificates::Issued;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::harness::in_time;

/// How a call of its ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Answer(Vec<u8>),
    /// Code by its name, and details.
    Error(String, String),
}

impl Outcome {
    fn read(answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        match answer.get("answer") {
            Some(bytes) => Self::Answer(bytes_of(bytes)),
            None => Self::Error(text("code"), text("details")),
        }
    }

    /// The name of the workload that answered.
    pub(crate) fn who(&self) -> Result<&str, String> {
        match self {
            Self::Answer(name) => Ok(std::str::from_utf8(name).expect("a name")),
            Self::Error(code, details) => Err(format!("{code}: {details}")),
        }
    }
}

/// What came of a stream: messages, the code's name, details.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) answers: Vec<Vec<u8>>,
    pub(crate) code: String,
    pub(crate) details: String,
}

fn bytes_of(value: &Value) -> Vec<u8> {
    serde_json::from_value(value.clone()).expect("bytes")
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

#[derive(Debug)]
pub(crate) struct CCore {
    _process: Child,
    // Async, because a line is written across awaits; nothing else is done under it.
    commands: AsyncMutex<(ChildStdin, u64)>,
    waiting: Waiting,
}

impl CCore {
    /// `control` is where its `xds:///` targets are resolved.
    pub(crate) fn start(control: SocketAddr) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".tools/venv/bin/python");
        assert!(python.exists(), "there is no {}: run `make envoy`", python.display());
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": control.to_string(),
                "channel_creds": [{ "type": "insecure" }],
                "server_features": ["xds_v3"],
            }],
            "node": { "id": "grpc-client", "cluster": "test" },
        });
        let mut process = Command::new(python)
            .arg(root.join("tests/protocol/c_core.py"))
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .env_remove("GRPC_XDS_BOOTSTRAP")
            // What it says of rejected resources is what tests provoke.
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python starts");
        let commands = process.stdin.take().expect("it is piped");
        let answers = process.stdout.take().expect("it is piped");
        let waiting = Waiting::default();
        let asked = waiting.clone();
        // Ends with the process.
        tokio::spawn(async move {
            let mut lines = BufReader::new(answers).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = serde_json::from_str(&line).expect("JSON");
                let id = answer["id"].as_u64().expect("an id");
                let asked = asked.lock().unwrap().remove(&id).expect("it was asked");
                // A test that has ended does not wait any more.
                _ = asked.send(answer);
            }
        });
        Self { _process: process, commands: AsyncMutex::new((commands, 0)), waiting }
    }

    async fn command(&self, mut command: Value) -> Value {
        let (answer, answered) = oneshot::channel();
        {
            let (stdin, last) = &mut *self.commands.lock().await;
            *last += 1;
            command["id"] = (*last).into();
            self.waiting.lock().unwrap().insert(*last, answer);
            stdin.write_all(format!("{command}\n").as_bytes()).await.expect("it runs");
        }
        let answer = in_time("an answer of the gRPC client", answered).await.expect("it runs");
        assert!(answer.get("failed").is_none(), "{answer}");
        answer
    }

    /// A workload that answers every call with its name; its port on 127.0.0.1.
    pub(crate) async fn serve(&self, name: &str) -> u16 {
        let answer = self.command(json!({ "do": "serve", "name": name })).await;
        answer["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port")
    }

    /// From now on its channels use TLS, with a certificate of its own or without, and are new.
    pub(crate) async fn trust(&self, authority: &str, own: Option<&Issued>, name: &str) {
        let (certificate, key) = own.map(|own| (&own.certificate, &own.key)).unzip();
        let command = json!({
            "do": "trust", "ca": authority, "certificate": certificate, "key": key, "name": name,
        });
        self.command(command).await;
    }

    /// A unary call that fails at once if the channel has no way.
    pub(crate) async fn call(&self, target: &str, method: &str, message: &[u8]) -> Outcome {
        let command = json!({
            "do": "call", "target": target, "method": method, "message": message,
            "seconds": 20, "wait": false,
        });
        Outcome::read(&self.command(command).await)
    }

    /// A unary call that waits for a way for as long as `patience` lasts.
    pub(crate) async fn call_when_ready(
        &self,
        target: &str,
        method: &str,
        patience: Duration,
    ) -> Outcome {
        let command = json!({
            "do": "call", "target": target, "method": method, "message": [],
            "seconds": patience.as_secs_f64(), "wait": true,
        });
        Outcome::read(&self.command(command).await)
    }

    /// Sends `messages` on a stream and ends it after so many `responses`.
    pub(crate) async fn stream(
        &self,
        target: &str,
        method: &str,
        messages: &[Vec<u8>],
        responses: usize,
    ) -> Streamed {
        let command = json!({
            "do": "stream", "target": target, "method": method, "messages": messages,
            "responses": responses, "seconds": 20,
        });
        let answer = self.command(command).await;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let answers = answer["answers"].as_array().into_iter().flatten().map(bytes_of).collect();
        Streamed { answers, code: text("code"), details: text("details") }
    }
}

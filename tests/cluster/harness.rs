//! kubectl.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use pilothouse_testkit::{get, json};

const RUNNING: &str = "--field-selector=status.phase=Running";

/// A kubectl for the cluster that `KUBECONFIG` names, or for another one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kubectl {
    arguments: Vec<String>,
}

impl Kubectl {
    pub(crate) fn with_kubeconfig(path: &std::path::Path) -> Self {
        Self { arguments: vec![format!("--kubeconfig={}", path.display())] }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(&self.arguments).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// How kubectl ended, and all that it printed.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.expect("kubectl is installed")
    }

    /// What kubectl prints, or what it says went wrong.
    pub(crate) async fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.output(arguments).await;
        let said = String::from_utf8_lossy(if output.status.success() {
            &output.stdout
        } else {
            &output.stderr
        });
        let said = said.trim().to_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(format!("kubectl {arguments:?}: {said}"))
        }
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> String {
        self.attempt(arguments).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.run(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&printed).expect("kubectl -o json prints JSON")
    }

    /// `kubectl apply` of these objects.
    pub(crate) async fn apply(&self, objects: &[Value]) {
        feed(&mut self.command(&["apply", "-f", "-"]), &list_of(objects)).await;
    }

    /// `pilothouse inject | kubectl apply`, with the images of the tests.
    pub(crate) async fn apply_injected(&self, objects: &[Value], flags: &[&str]) {
        let mut inject = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
        inject.args(["inject", "-f", "-", "--image=test/proxy:1"]).args(flags);
        let injected = feed(&mut inject, &list_of(objects)).await;
        feed(&mut self.command(&["apply", "-f", "-"]), &injected).await;
    }

    /// Names of the pods that a selector finds, that run and are not on their way out, sorted.
    pub(crate) async fn pods(&self, namespace: &str, selector: &str) -> Vec<String> {
        let list = self.json(&["-n", namespace, "get", "pods", "-l", selector, RUNNING]).await;
        let mut names: Vec<String> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The lines that a kubectl command prints for as long as it runs; it ends when dropped.
    pub(crate) fn spawn_following(
        &self,
        arguments: &[&str],
    ) -> (Child, Lines<BufReader<ChildStdout>>) {
        // Nobody reads what it says on the side, so that must not fill a pipe.
        let mut child =
            self.command(arguments).stderr(Stdio::inherit()).spawn().expect("kubectl is installed");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        (child, lines)
    }

    /// `kubectl port-forward` to a pod's port, on a port that kubectl chooses; an error where the pod
    /// does not run.
    pub(crate) async fn forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<Forward, String> {
        let to = format!(":{port}");
        let (child, mut lines) =
            self.spawn_following(&["-n", namespace, "port-forward", &format!("pod/{pod}"), &to]);
        // Forwarding from 127.0.0.1:40123 -> 8080
        let line = lines.next_line().await.expect("kubectl prints text");
        let local = line.as_ref().and_then(|line| line.split_whitespace().nth(2));
        let local = local.ok_or_else(|| format!("kubectl port-forward to {pod} said {line:?}"))?;
        let base = format!("http://{local}");
        // It prints a line for each connection.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Forward { base, _child: child })
    }
}

fn list_of(objects: &[Value]) -> String {
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string()
}

/// What a command prints that gets `input`; it must succeed.
async fn feed(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// A port of a pod, reachable here while this lives.
#[derive(Debug)]
pub(crate) struct Forward {
    base: String,
    _child: Child,
}

impl Forward {
    pub(crate) async fn json(&self, path: &str) -> Result<Value, String> {
        json(&format!("{}{path}", self.base)).await
    }

    /// Status and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), String> {
        get(&format!("{}{path}", self.base)).await
    }
}

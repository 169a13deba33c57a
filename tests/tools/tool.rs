//! A tool of somebody else's, run as a person runs it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use pilothouse_testkit::{in_time, repository};

/// There must be a kubeconfig, although nothing is asked of its API server.
const KUBECONFIG: &str = "apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: 'http://127.0.0.1:1'}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
current-context: none
";

/// What a tool has printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) succeeded: bool,
    pub(crate) text: String,
}

impl Printed {
    /// The words of the line that begins with this word.
    pub(crate) fn row(&self, first: &str) -> Vec<&str> {
        let mut rows = self.text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|words| words.first() == Some(&first));
        row.unwrap_or_else(|| panic!("no row {first} in\n{}", self.text))
    }
}

fn program(name: &str) -> PathBuf {
    let program = repository().join(".tools/bin").join(name);
    assert!(program.exists(), "there is no {}: run `make test-tools`", program.display());
    program
}

pub(crate) async fn run(name: &str, arguments: &[&str]) -> Printed {
    let home = TempDir::new().unwrap();
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, KUBECONFIG).unwrap();
    let output = Command::new(program(name))
        .args(arguments)
        .env("HOME", home.path())
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .output();
    let output = in_time(&format!("{name} {arguments:?}"), output).await.unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    Printed { succeeded: output.status.success(), text }
}

/// istioctl with the control plane at this address. Without a revision it would look for the default one
/// in a cluster.
pub(crate) async fn istioctl(control: SocketAddr, arguments: &[&str]) -> Printed {
    let address = control.to_string();
    let flags = ["--xds-address", &*address, "--plaintext", "--revision", "default"];
    run("istioctl", &[arguments, &flags].concat()).await
}

/// A file that istioctl reads.
pub(crate) fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

//! `pilothouse doctor`: each fault is injected for real, and must be told by its own code, by the
//! exit code, and in time, whatever hangs.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::process::Process;

mod connection;
mod impostors;
mod names;
mod on_demand;
mod proxy;
mod routes;
mod service;

/// The limit of its own that every run here has. A healthy machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(5);
/// Its limit, and what starting and ending a process may take on a busy machine.
const IN_TIME: Duration = Duration::from_secs(15);

/// What it printed, and its exit code.
#[derive(Debug)]
struct Said {
    json: Value,
    exit: Option<i32>,
}

impl Said {
    fn is(&self, code: &str, exit: i32) {
        let said = (self.json["code"].as_str(), self.exit);
        assert_eq!(said, (Some(code), Some(exit)), "{:#}", self.json);
        let took = self.json["seconds"].as_f64().expect("it says how long it took");
        // By its own clock, so that a machine that is slow to start processes does no harm.
        assert!(took <= LIMIT.as_secs_f64() + 1.0, "it took {took} s");
        let fix = self.json["fix"].as_str().unwrap_or_default();
        assert_eq!(fix.is_empty(), exit == 0, "{:#}", self.json);
    }

    /// The cause names all of these.
    fn names(&self, words: &[&str]) {
        let cause = self.json["cause"].as_str().unwrap_or_default();
        for word in words {
            assert!(cause.contains(word), "{word:?} is not in {cause:?}");
        }
    }

    /// The state of a link of the path, `None` if the walk did not come that far.
    fn link(&self, name: &str) -> Option<&str> {
        let mut links = self.json["links"].as_array().expect("the links").iter();
        links.find(|link| link["name"] == name)?["state"].as_str()
    }
}

/// Runs it on its own, away from any cluster and any Envoy but those that the arguments name.
async fn doctor(arguments: &[&str]) -> Said {
    doctor_with(arguments, &[]).await
}

async fn doctor_with(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut all = vec!["doctor", "--json", "--timeout", "5s", "--no-kubernetes"];
    all.extend(arguments);
    let mut command = pilothouse(&all);
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    command.envs(environment.iter().copied());
    let mut process = Process::start("doctor", &mut command);
    let status = process.end(IN_TIME).await;
    let log = process.log();
    let json = serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log}"));
    Said { json, exit: status.code() }
}

/// Without an Envoy, to a control plane at this address.
async fn to(discovery: SocketAddr) -> Said {
    doctor(&["--no-envoy", "--discovery-address", &discovery.to_string()]).await
}

/// A resolv.conf as pods have it.
fn resolv_conf(folder: &TempDir, server: IpAddr) -> String {
    let path = folder.path().join("resolv.conf");
    let text = format!(
        "search default.svc.cluster.local svc.cluster.local\nnameserver {server}\noptions ndots:5\n"
    );
    std::fs::write(&path, text).expect("the folder is writable");
    text_of(&path)
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

//! What is refused before anything is started, and how that is said.

use std::net::{IpAddr, TcpListener};
use std::path::Path;

use tempfile::TempDir;

use crate::agent::{command, executable};
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, places};

/// Exit code and last words of an agent that does not get far.
async fn refused(address: IpAddr, folder: &Path, more: &[&str]) -> (Option<i32>, String) {
    let nobody = ([127, 0, 0, 1], 1).into();
    let mut process = Process::start("agent", &mut command(address, folder, nobody, more));
    let status = process.end(DEADLINE).await;
    (status.code(), process.log())
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let folder = TempDir::new().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let template = folder.path().join("template.yaml");
    std::fs::write(&template, "a: [").unwrap();
    let plain = plain.to_str().unwrap();
    let no_program = format!("--envoy={plain}");
    let no_template = format!("--template={}", template.display());
    for (flags, code, words) in [
        (&["--xds=carrier-pigeon"][..], 2, &["--xds", "carrier-pigeon", "delta"][..]),
        (&["--status-addr=15020"], 2, &["--status-addr", "15020"]),
        (&["--drain-time=long"], 2, &["--drain-time", "long"]),
        (&["--instance-ips=10.0.0.300"], 1, &["INSTANCE_IP", "10.0.0.300"]),
        (&["--proxy-config={discoveryAddress: [}"], 1, &["PROXY_CONFIG", "cannot be read"]),
        (&["--labels-file=/"], 1, &["--labels-file", "cannot be read"]),
        (&["--envoy=/no/such/envoy"], 1, &["/no/such/envoy", "--envoy", "No such file"]),
        (&["--envoy=no-such-envoy"], 1, &["no-such-envoy", "PATH", "--envoy"]),
        (&[&no_program], 1, &[plain, "no program that may be run", "--envoy"]),
        (&[&no_template], 1, &["template.yaml", "neither YAML nor JSON"]),
    ] {
        // Not even that it would start is said before.
        let (ended, said) = refused(places::address(), folder.path(), flags).await;
        assert_eq!(ended, Some(code), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{flags:?}: {said}");
        assert!(!said.contains("starting"), "{flags:?}: {said}");
    }
}

#[tokio::test]
async fn a_taken_port_is_found_before_envoy_starts() {
    let (address, folder) = (places::address(), TempDir::new().unwrap());
    let _occupant = TcpListener::bind((address, 15020)).unwrap();
    let script = executable(folder.path(), "touch \"$(dirname \"$0\")/started\"");
    let (code, said) = refused(address, folder.path(), &[&format!("--envoy={script}")]).await;
    assert_eq!(code, Some(1), "{said}");
    let words = ["--status-addr", ":15020", "Address already in use"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(!folder.path().join("started").exists());
}

#[tokio::test]
async fn an_unwritable_folder_is_named() {
    let folder = TempDir::new().unwrap();
    // A file where the folder should be: that stops root as well.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, said) = refused(places::address(), &file.join("proxy"), &[]).await;
    assert_eq!(code, Some(1), "{said}");
    let words = ["cannot be written", "file/proxy/envoy-rev.json", "--config-dir"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

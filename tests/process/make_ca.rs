//! tools/make-ca: a CA that is kept, and certificates with the names that proxies and the control plane ask for.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn make_ca(folder: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/make-ca");
    Command::new(script).arg("--dir").arg(folder).args(arguments).output().unwrap()
}

/// Each Secret's certificate as openssl shows it, by NAMESPACE/NAME; all of them have to be the CA's.
fn certificates(folder: &Path, arguments: &[&str]) -> BTreeMap<String, String> {
    let output = make_ca(folder, arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let field = |document: &str, name: &str| -> String {
        let line = document.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {document}")).trim().to_owned()
    };
    let mut shown = BTreeMap::new();
    for document in text.split("---\n").filter(|document| document.contains("kind: Secret")) {
        let leaf = folder.join("leaf.crt");
        let decoded = openssl(&["base64", "-d", "-A"], field(document, "tls.crt:").as_bytes());
        std::fs::write(&leaf, decoded).unwrap();
        let (ca, leaf) = (folder.join("ca.crt"), leaf.display().to_string());
        let ca = ca.display().to_string();
        openssl(&["verify", "-x509_strict", "-CAfile", &ca, &leaf], b"");
        let text = openssl(&["x509", "-noout", "-text", "-in", &leaf], b"");
        let name = format!("{}/{}", field(document, "namespace:"), field(document, "name:"));
        shown.insert(name, String::from_utf8(text).unwrap());
    }
    shown
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    // It may end without having read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    output.stdout
}

#[test]
fn certificates_have_the_names_that_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let made = certificates(folder.path(), &["--days", "3", "default", "shop/web", "shop/api"]);
    let host = "DNS:istio-pilot.istio-system";
    let pilot = format!("{host}.svc, {host}, {host}.svc.cluster.local, DNS:istio-pilot");
    let uri = |name: &str| format!("URI:spiffe://cluster.local/ns/{name}");
    let wanted = [
        ("istio-system/istio-pilot-tls", pilot, "TLS Web Server Authentication"),
        (
            "default/pilothouse-proxy-tls",
            uri("default/sa/default"),
            "TLS Web Client Authentication",
        ),
        ("shop/pilothouse-proxy-tls", uri("shop/sa/web"), "TLS Web Client Authentication"),
        ("shop/pilothouse-proxy-tls-api", uri("shop/sa/api"), "TLS Web Client Authentication"),
    ];
    assert_eq!(made.len(), wanted.len());
    for (secret, names, usage) in wanted {
        let shown = &made[secret];
        for line in [names.as_str(), usage] {
            assert!(shown.lines().any(|own| own.trim() == line), "no {line} in {secret}: {shown}");
        }
    }
}

#[test]
fn running_it_again_renews_by_the_same_ca() {
    let folder = TempDir::new().unwrap();
    let first = certificates(folder.path(), &["default"]);
    let ca = std::fs::read(folder.path().join("ca.crt")).unwrap();
    let second = certificates(folder.path(), &["--trust-domain", "mesh.example", "default"]);
    assert_eq!(ca, std::fs::read(folder.path().join("ca.crt")).unwrap());
    let of = |made: &BTreeMap<String, String>| made["default/pilothouse-proxy-tls"].clone();
    assert!(of(&second).contains("URI:spiffe://mesh.example/ns/default/sa/default"));
    let serial = |text: String| text.lines().nth(4).unwrap().trim().to_owned();
    assert_ne!(serial(of(&first)), serial(of(&second)));
    let mode = std::fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the key is for its owner alone: {mode:o}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let folder = TempDir::new().unwrap();
    for (arguments, reason) in [
        (&["shop,URI:spiffe://cluster.local/ns/bank/sa/default"][..], "is no NAMESPACE"),
        (&["shop/"], "is no NAMESPACE"),
        (&["--days", "0", "shop"], "is no number of days"),
        (&["--trust-domain", "a/b", "shop"], "trust domain"),
        (&["--days"], "usage"),
    ] {
        let output = make_ca(folder.path(), arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(reason) && output.stdout.is_empty(), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // A key that is lost is not replaced unasked.
    std::fs::write(folder.path().join("ca.crt"), "").unwrap();
    assert_eq!(make_ca(folder.path(), &["shop"]).status.code(), Some(1));
}

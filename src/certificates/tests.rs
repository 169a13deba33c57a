use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A certificate and its key, in PEM.
fn pair(name: &str, year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A folder with all three files.
pub(crate) fn folder() -> (TempDir, ServerFiles) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (certificate, key) = pair("pilot", 2040);
    fs::write(path("tls.crt"), certificate).unwrap();
    fs::write(path("tls.key"), key).unwrap();
    fs::write(path("ca.crt"), pair("ca", 2041).0 + &pair("ca", 2039).0).unwrap();
    let client_ca = Some(path("ca.crt"));
    let files = ServerFiles { certificate: path("tls.crt"), key: path("tls.key"), client_ca };
    (folder, files)
}

fn refused(files: &ServerFiles) -> String {
    files.load().map(drop).unwrap_err().to_string()
}

fn refused_with(files: &ServerFiles, path: &Path, content: &str) -> String {
    let before = fs::read(path).unwrap();
    fs::write(path, content).unwrap();
    let text = refused(files);
    fs::write(path, before).unwrap();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    text
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let (folder, files) = folder();
    let loaded = files.load().unwrap();
    assert_eq!(files::rfc3339(loaded.server_expires), "2040-01-01T00:00:00Z");
    assert_eq!(files::rfc3339(loaded.client_ca_expires.unwrap()), "2041-01-01T00:00:00Z");
    let (certificate, key) = (&files.certificate, &files.key);
    let ca = files.client_ca.as_ref().unwrap();
    let (other_certificate, other_key) = pair("other", 2040);
    let key_text = fs::read_to_string(key).unwrap();
    for (path, content, flag, reason) in [
        (certificate, "", "--tls-cert", "is empty"),
        (certificate, " \n", "--tls-cert", "is empty"),
        (certificate, "hello", "--tls-cert", "there is no certificate in it"),
        (certificate, &*key_text, "--tls-cert", "but: PRIVATE KEY"),
        (key, "", "--tls-key", "is empty"),
        (key, &*other_certificate, "--tls-key", "but: CERTIFICATE"),
        (key, &*other_key, "--tls-key", "the key is not that of the (first) certificate"),
        (key, &key_text[..60], "--tls-key", "has no end: is the file complete?"),
        (ca, "", "--client-ca", "is empty"),
        (ca, &*key_text, "--client-ca", "there is no certificate in it"),
    ] {
        let text = refused_with(&files, path, content);
        assert!(text.starts_with(flag) && text.contains(reason), "{text}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let text = refused_with(&files, ca, broken);
    assert!(text.starts_with("--client-ca") && text.contains("X.509"), "{text}");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let text = refused_with(&files, key, encrypted);
    assert!(text.contains("without a password") && text.contains("ENCRYPTED"), "{text}");
    for missing in [
        ServerFiles { certificate: folder.path().join("none"), ..files.clone() },
        ServerFiles { key: folder.path().join("none"), ..files.clone() },
        ServerFiles { client_ca: Some(folder.path().join("none")), ..files.clone() },
        ServerFiles { key: folder.path().to_owned(), ..files.clone() },
    ] {
        let text = refused(&missing);
        assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
        assert!(text.contains("cannot be read"), "{text}");
    }
    files.load().map(drop).unwrap();
}

/// As the kubelet projects a `podCertificate`: the key, then the certificates.
#[test]
fn certificate_and_key_may_be_one_file() {
    let (folder, mut files) = folder();
    let bundle = folder.path().join("credentials.pem");
    let (certificate, key) = pair("bundled", 2042);
    fs::write(&bundle, format!("{key}{certificate}")).unwrap();
    (files.certificate, files.key) = (bundle.clone(), bundle);
    assert_eq!(files::rfc3339(files.load().unwrap().server_expires), "2042-01-01T00:00:00Z");
}

#[tokio::test]
async fn new_files_are_served_and_unusable_ones_are_not() {
    let (_folder, files) = folder();
    let (certificates, reloader) = Certificates::load(files.clone()).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(reloader.run(stop.clone()));
    let becomes = async |what: fn(&CertificateStatus) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what(&certificates.status()) {
            assert!(Instant::now() < deadline, "{:?}", certificates.status());
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (certificate, key) = pair("next", 2050);
    fs::write(&files.certificate, certificate).unwrap();
    becomes(|status| status.unusable.is_some()).await;
    assert_eq!(certificates.status().reloads, 0);
    let text = certificates.status().unusable.unwrap();
    assert!(text.contains("the key is not that of"), "{text}");
    fs::write(&files.key, key).unwrap();
    becomes(|status| status.reloads == 1 && status.unusable.is_none()).await;
    let CertificateStatus { server_expires, failures, .. } = certificates.status();
    assert_eq!(files::rfc3339(server_expires), "2050-01-01T00:00:00Z");
    assert_eq!(failures, 1);
    stop.cancel();
    running.await.unwrap();
}

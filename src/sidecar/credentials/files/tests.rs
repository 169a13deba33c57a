use std::fs;

use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;

use super::*;

/// A self-signed certificate with one name of each kind, and its key.
fn issued() -> (String, String) {
    let mut params = CertificateParams::new(["pilot.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_says_its_names_and_times() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (certificate, key) = issued();
    fs::write(path("tls.crt"), &certificate).unwrap();
    fs::write(path("tls.key"), &key).unwrap();
    let credential =
        ClientCredential::Certificate { certificate: path("tls.crt"), key: path("tls.key") };
    let LoadedClient::Certificate(loaded) = client(&credential).unwrap() else { panic!() };
    assert_eq!(loaded.facts.names, ["pilot.example", "spiffe://td/ns/a/sa/b", "127.0.0.1"]);
    let validity = loaded.facts.validity;
    assert_eq!(validity.to_string(), "valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z");
    assert!(!validity.contains(SystemTime::now()));

    fs::write(path("tls.key"), issued().1).unwrap();
    let error = client(&credential).unwrap_err().to_string();
    assert!(error.contains("tls.key is no key for the certificate in"), "{error}");
    fs::write(path("tls.key"), &certificate).unwrap();
    assert!(client(&credential).unwrap_err().to_string().contains("has no private key"));
    fs::write(path("tls.crt"), "hello").unwrap();
    let error = client(&credential).unwrap_err().to_string();
    assert!(error.contains("has no certificate in it"), "{error}");
}

#[test]
fn a_token_says_whose_it_is_and_for_whom_and_is_not_shown() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    let credential = ClientCredential::Token(file.clone());
    // {"alg":"none"}; {"sub":"system:serviceaccount:shop:web","aud":["istio-ca"],"exp":1000}
    let text = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6c2hvcDp3ZWIiLCJhdWQiOlsi\
                aXN0aW8tY2EiXSwiZXhwIjoxMDAwfQ.c2lnbmF0dXJl";
    fs::write(&file, format!("{text}\n")).unwrap();
    let LoadedClient::Token(token) = client(&credential).unwrap() else { panic!() };
    assert_eq!(token.text, text, "without the line's end");
    assert_eq!(token.claims.sub, "system:serviceaccount:shop:web");
    assert_eq!(token.claims.audiences(), ["istio-ca"]);
    let until = UNIX_EPOCH + Duration::from_secs(1000);
    assert_eq!(token.claims.validity().unwrap().not_after, until);
    assert!(!format!("{token:?}").contains("c2lnbmF0dXJl"), "{token:?}");
    for (content, words) in [("", "is empty"), ("secret", "is no JWT")] {
        fs::write(&file, content).unwrap();
        let error = client(&credential).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let error = client(&credential).unwrap_err().to_string();
    assert_eq!(error, format!("{} is not there", file.display()));
}

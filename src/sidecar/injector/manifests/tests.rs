use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::super::certificate;
use super::*;

fn args(namespace: &str) -> ManifestsArgs {
    ManifestsArgs {
        namespace: namespace.to_owned(),
        failure_policy: FailurePolicy::Fail,
        valid_days: 365,
        also_trust: None,
    }
}

/// The two documents.
fn documents(text: &str) -> (Value, Value) {
    let mut documents = text.split("---\n").map(|one| serde_saphyr::from_str(one).unwrap());
    let both = (documents.next().unwrap(), documents.next().unwrap());
    assert_eq!(documents.next(), None);
    both
}

fn decoded(value: &Value) -> String {
    let ByteString(bytes) = serde_json::from_value(value.clone()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Whether a client that trusts the bundle accepts the certificate for the name.
fn accepts(bundle: &str, certificate: &str, name: &str, now: SystemTime) -> Result<(), String> {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;

    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
    let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let verified = verifier.unwrap().verify_server_cert(
        &leaf,
        &[],
        &name,
        &[],
        UnixTime::since_unix_epoch(since),
    );
    verified.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn the_certificate_is_trusted_by_the_configuration_for_the_service_alone() {
    let now = SystemTime::now();
    let text = manifests(&args("mesh"), "", now).unwrap();
    let (configuration, secret) = documents(&text);
    assert_eq!(secret["metadata"]["namespace"], "mesh");
    assert_eq!(secret["metadata"]["name"], "pilothouse-injector-tls");
    let (certificate, key) =
        (decoded(&secret["data"]["tls.crt"]), decoded(&secret["data"]["tls.key"]));
    let webhooks = configuration["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 4);
    for webhook in webhooks {
        let service = &webhook["clientConfig"]["service"];
        assert_eq!((&service["namespace"], &service["path"]), (&json!("mesh"), &json!("/inject")));
        let bundle = decoded(&webhook["clientConfig"]["caBundle"]);
        assert!(!bundle.contains("PRIVATE"));
        let accepted = |name: &str, now| accepts(&bundle, &certificate, name, now);
        accepted("pilothouse-injector.mesh.svc", now).unwrap();
        assert!(accepted("pilothouse-injector.other.svc", now).is_err());
        assert!(accepted("pilothouse-injector.mesh.svc", now + 366 * DAY).is_err());
    }
    // What the injector makes of it.
    let served = certificate::read(certificate.as_bytes(), key.as_bytes(), now).unwrap();
    let lasts = served.not_after.duration_since(now).unwrap();
    assert!((364 * DAY..=365 * DAY).contains(&lasts), "{lasts:?}");
    assert!(served.names.contains("pilothouse-injector.mesh.svc"), "{}", served.names);
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (certificate, key, time, words) in [
        ("", key.as_str(), now, "it has none"),
        ("no PEM", &key, now, "it has none"),
        (&certificate, "", now, "no private key"),
        (&certificate, &other, now, "do not go together"),
        (&certificate, &key, now + 366 * DAY, "it has expired at"),
        (&certificate, &key, now - DAY, "it is not valid before"),
    ] {
        let read = certificate::read(certificate.as_bytes(), key.as_bytes(), time);
        let said = read.unwrap_err().to_string();
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn renewed_the_former_certificate_stays_trusted_until_it_expires() {
    let now = SystemTime::now();
    let bundle_of = |text: &str| {
        let (configuration, _) = documents(text);
        decoded(&configuration["webhooks"][0]["clientConfig"]["caBundle"])
    };
    let certificate_of = |text: &str| decoded(&documents(text).1["data"]["tls.crt"]);
    let name = "pilothouse-injector.mesh.svc";
    let first = manifests(&args("mesh"), "", now).unwrap();
    let second = manifests(&args("mesh"), &bundle_of(&first), now).unwrap();
    for certificate in [certificate_of(&first), certificate_of(&second)] {
        accepts(&bundle_of(&second), &certificate, name, now).unwrap();
    }
    // Without the former it is not.
    let alone = manifests(&args("mesh"), "", now).unwrap();
    assert!(accepts(&bundle_of(&alone), &certificate_of(&first), name, now).is_err());
    // It does not grow for ever, and what has expired goes.
    let mut text = second;
    for _ in 0..4 {
        text = manifests(&args("mesh"), &bundle_of(&text), now).unwrap();
    }
    assert_eq!(bundle_of(&text).matches("BEGIN").count(), 1 + MAX_FORMER_CAS);
    let later = manifests(&args("mesh"), &bundle_of(&text), now + 400 * DAY).unwrap();
    assert_eq!(bundle_of(&later).matches("BEGIN").count(), 1);
    for wrong in
        ["nothing of the kind", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        assert!(manifests(&args("mesh"), wrong, now).is_err(), "{wrong}");
    }
}

/// What cert-manager fills in is otherwise the same: `UPDATE=1 cargo test --lib cert_manager` writes it anew.
#[test]
fn the_overlay_for_cert_manager_has_the_same_configuration() {
    let mut wanted = webhook_configuration("istio-system", FailurePolicy::Fail, None);
    wanted["metadata"]["annotations"] =
        json!({ "cert-manager.io/inject-ca-from": "istio-system/pilothouse-injector" });
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/injector-cert-manager/webhook.yaml");
    if std::env::var_os("UPDATE").is_some() {
        let head = "# As pilothouse injector manifests makes it; cert-manager adds the CA.\n";
        std::fs::write(&file, format!("{head}{}", yaml(&wanted))).unwrap();
    }
    let found: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(found, wanted);
}

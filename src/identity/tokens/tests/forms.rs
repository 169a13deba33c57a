//! What is accepted, and which keys are read.

use super::*;

#[test]
fn a_pods_token_says_whose_it_is() {
    let key = Key::es256("a");
    let token = verify(&key.token(&claims()), &key_set(&[&key])).unwrap();
    assert_eq!(
        token,
        VerifiedToken {
            namespace: "shop".into(),
            service_account: "web".into(),
            pod: Some("web-0".into()),
            expires: now() + Duration::from_secs(3600),
            issuer: ISSUER.into(),
            audiences: vec!["istio-ca".into()],
            groups: vec![
                "system:serviceaccounts".into(),
                "system:serviceaccounts:shop".into(),
                "system:authenticated".into(),
            ],
        }
    );
}

#[test]
fn every_kind_of_signature_that_is_promised_is_verified() {
    let keys = [
        Key::es256("es256"),
        Key::es384("es384"),
        Key::rsa("rs256", "RS256"),
        Key::rsa("rs512", "RS512"),
        Key::rsa("ps384", "PS384"),
    ];
    let set = key_set(&keys.each_ref());
    for key in &keys {
        assert!(verify(&key.token(&claims()), &set).is_ok(), "{}", key.algorithm);
    }
}

#[test]
fn a_token_need_not_be_for_us_alone_nor_for_a_pod() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let several = verify(&key.token(&claims_with("/aud", json!(["x", "istio-ca"]))), &keys);
    assert_eq!(several.unwrap().audiences, ["x".into(), "istio-ca".into()]);
    assert!(verify(&key.token(&claims_with("/aud", "istio-ca")), &keys).is_ok());
    // As kubectl create token makes it.
    let mut of_nobody = claims();
    of_nobody["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    assert_eq!(verify(&key.token(&of_nobody), &keys).unwrap().pod, None);
    assert!(verify(&key.token(&claims_without("nbf")), &keys).is_ok());
}

#[test]
fn clocks_may_differ_by_the_leeway_and_no_more() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let token = key.token(&claims());
    let (from, to) = (now() - Duration::from_secs(60), now() + Duration::from_secs(3600));
    let second = Duration::from_secs(1);
    for (at, is_valid) in [
        (from - LEEWAY - second, false),
        (from - LEEWAY, true),
        (to + LEEWAY - second, true),
        (to + LEEWAY, false),
    ] {
        assert_eq!(verify_at(&token, &keys, at).is_ok(), is_valid, "{at:?}");
    }
}

#[test]
fn keys_that_verify_nothing_are_left_out() {
    let key = Key::es256("good");
    let with = |field: &str, value: Value| {
        let mut public = Key::es256("other").public();
        public[field] = value;
        public
    };
    let short = json!({ "kty": "RSA", "kid": "short", "n": base64(&[0xff; 128]), "e": "AQAB" });
    let odd = [
        with("use", "enc".into()),
        with("key_ops", json!(["sign"])),
        with("kid", Value::Null),
        with("kid", "".into()),
        with("kid", 7.into()),
        with("crv", "P-521".into()),
        with("crv", "secp256k1".into()),
        with("alg", "ES384".into()),
        with("x", "AA".into()),
        with("x", "!".into()),
        json!({ "kty": "oct", "kid": "secret", "k": "c2VjcmV0" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(&[7; 32]) }),
        short,
        json!("no key"),
    ];
    for odd in odd {
        let both = json!({ "keys": [odd, key.public()] }).to_string();
        let keys = KeySet::read(both.as_bytes()).unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), ["good"], "{odd}");
        let alone = json!({ "keys": [odd] }).to_string();
        let error = KeySet::read(alone.as_bytes()).unwrap_err();
        assert!(error.contains("none of its 1 keys"), "{odd}: {error}");
    }
}

#[test]
fn a_key_set_is_bounded_and_the_first_of_one_name_counts() {
    let (first, second) = (Key::es256("a"), Key::es256("a"));
    let keys = key_set(&[&first, &second]);
    assert_eq!(keys.ids().len(), 1);
    assert!(verify(&first.token(&claims()), &keys).is_ok());
    assert!(matches!(verify(&second.token(&claims()), &keys), Err(TokenError::Signature { .. })));
    let many = vec![first.public(); 65];
    let error = KeySet::read(json!({ "keys": many }).to_string().as_bytes()).unwrap_err();
    assert!(error.contains("65 keys"), "{error}");
    for garbage in ["", "[]", "{}", "<html>", "{\"keys\":{}}"] {
        assert!(KeySet::read(garbage.as_bytes()).is_err(), "{garbage}");
    }
}

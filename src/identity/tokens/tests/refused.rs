//! Each reason for which a token is refused, and what the client is told.

use super::*;

#[track_caller]
fn refused(token: &str, keys: &KeySet) -> TokenError {
    verify(token, keys).unwrap_err()
}

#[test]
fn what_is_no_token_is_malformed() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let good = key.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, body) = (key.header().to_string(), claims().to_string());
    let nested = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    for (token, why) in [
        (String::new(), "three parts"),
        ("admin-token".to_owned(), "three parts"),
        (format!("{}.{}", parts[0], parts[1]), "three parts"),
        (format!("{good}.{}", parts[2]), "three parts"),
        (format!(".{}.{}", parts[1], parts[2]), "header"),
        (format!("{}..{}", parts[0], parts[2]), "claims"),
        (format!("{}.{}.%%%", parts[0], parts[1]), "Base64"),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), "header"),
        (key.sign("{}", &body), "header"),
        (key.sign("[]", &body), "header"),
        (key.sign(&header, "[]"), "claims"),
        (key.sign(&header, "{}"), "missing field"),
        (key.sign(&header, &body[..body.len() - 1]), "claims"),
        (key.sign(&header, &nested), "claims"),
        (key.sign(&format!("{{\"alg\":\"ES256\",\"kid\":\"a\",\"x\":{nested}}}"), &body), "header"),
        (key.sign("{\"alg\":\"ES256\"}", &body), "kid"),
        (
            key.sign("{\"alg\":\"ES256\",\"kid\":\"a\",\"crit\":[\"b64\"],\"b64\":false}", &body),
            "crit",
        ),
        (key.sign("{\"alg\":\"ES256\",\"alg\":\"ES256\",\"kid\":\"a\"}", &body), "duplicate"),
        (key.sign(&header, &body.replace("\"sub\":", "\"sub\":\"x\",\"sub\":")), "duplicate"),
        (key.sign(&header, &body.replace("\"aud\":", "\"aud\":\"x\",\"aud\":")), "duplicate"),
        (
            key.sign(
                &header,
                &body.replace("\"namespace\":", "\"namespace\":\"x\",\"namespace\":"),
            ),
            "duplicate",
        ),
        (key.token(&claims_without("exp")), "never expires"),
        (key.token(&claims_with("/exp", u64::MAX)), "no time"),
        (key.token(&claims_with("/nbf", u64::MAX)), "no time"),
        (key.token(&claims_with("/exp", -1)), "claims"),
        (key.token(&claims_with("/exp", "soon")), "claims"),
        (key.token(&claims_with("/aud", json!([1]))), "claims"),
    ] {
        let error = refused(&token, &keys);
        assert!(matches!(error, TokenError::Malformed(_)), "{token}: {error:?}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn only_public_keys_sign_tokens() {
    let key = Key::rsa("a", "RS256");
    let keys = key_set(&[&key]);
    let body = claims().to_string();
    // The public key as the secret of an HMAC: the algorithm alone is refused.
    let message =
        format!("{}.{}", base64(b"{\"alg\":\"HS256\",\"kid\":\"a\"}"), base64(body.as_bytes()));
    let secret = key.public()["n"].as_str().unwrap().to_owned();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let forged =
        format!("{message}.{}", base64(ring::hmac::sign(&secret, message.as_bytes()).as_ref()));
    let found = jsonwebtoken::Algorithm::HS256;
    assert_eq!(refused(&forged, &keys), TokenError::Algorithm { found });
    for unsigned in ["none", "None", "NONE", ""] {
        let header = json!({ "alg": unsigned, "kid": "a" }).to_string();
        for signature in ["", &base64(&[0; 256])] {
            let message = format!("{}.{}", base64(header.as_bytes()), base64(body.as_bytes()));
            let error = refused(&format!("{message}.{signature}"), &keys).to_string();
            assert!(error.contains("unknown variant"), "{error}");
        }
    }
    let header = json!({ "alg": "EdDSA", "kid": "a" }).to_string();
    assert!(matches!(refused(&key.sign(&header, &body), &keys), TokenError::Algorithm { .. }));
}

#[test]
fn the_algorithm_must_be_the_keys() {
    let (ec, other, rsa) = (Key::es256("ec"), Key::es384("other"), Key::rsa("rsa", "RS256"));
    let keys = key_set(&[&ec, &other, &rsa]);
    let body = claims().to_string();
    for (kid, algorithm) in
        [("ec", "RS256"), ("ec", "ES384"), ("other", "ES256"), ("rsa", "ES256"), ("rsa", "PS256")]
    {
        let header = json!({ "alg": algorithm, "kid": kid }).to_string();
        for signer in [&ec, &other, &rsa] {
            let error = refused(&signer.sign(&header, &body), &keys);
            assert!(
                matches!(&error, TokenError::AlgorithmOfKey { kid: of, .. } if of == kid),
                "{error:?}"
            );
        }
    }
    // A key that names no algorithm is for all of its kind.
    let mut any = rsa.public();
    any.as_object_mut().unwrap().remove("alg");
    let any = KeySet::read(json!({ "keys": [any] }).to_string().as_bytes()).unwrap();
    assert!(verify(&Key::rsa("rsa", "PS384").token(&claims()), &any).is_ok());
}

#[test]
fn another_key_makes_no_signature_of_this_one() {
    let (ours, theirs) = (Key::es256("a"), Key::es256("a"));
    let keys = key_set(&[&ours]);
    let signature = TokenError::Signature { kid: "a".to_owned() };
    assert_eq!(refused(&theirs.token(&claims()), &keys), signature);
    // A true signature over other claims.
    let (good, other) = (ours.token(&claims()), ours.token(&claims_with("/sub", "admin")));
    let [good, other] = [&good, &other].map(|token| token.rsplit_once('.').unwrap());
    assert_eq!(refused(&format!("{}.{}", good.0, other.1), &keys), signature);
    for cut in ["", &good.1[..good.1.len() / 2]] {
        let error = refused(&format!("{}.{cut}", good.0), &keys);
        assert!(
            matches!(error, TokenError::Signature { .. } | TokenError::Malformed(_)),
            "{error:?}"
        );
    }
    // Its own key within the header is not believed.
    let header = json!({ "alg": "ES256", "kid": "a", "jwk": theirs.public() }).to_string();
    assert_eq!(refused(&theirs.sign(&header, &claims().to_string()), &keys), signature);
    let error = refused(&Key::es256("b").token(&claims()), &keys);
    assert!(matches!(&error, TokenError::UnknownKey { kid, known: 1, .. } if kid == "b"));
    assert!(
        error.to_string().contains("the key \"b\", which its issuer does not publish"),
        "{error}"
    );
}

#[test]
fn a_token_has_16_kib_at_most() {
    let key = Key::es256("a");
    for bytes in [MAX_TOKEN_BYTES + 1, 1 << 20] {
        let mut token = key.token(&claims());
        token.extend(std::iter::repeat_n('A', bytes - token.len()));
        assert_eq!(refused(&token, &key_set(&[&key])), TokenError::TooLong { bytes });
    }
}

#[test]
fn clocks_and_audiences_are_told_with_both_sides() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let late = verify_at(&key.token(&claims()), &keys, now() + Duration::from_secs(7200));
    assert_eq!(
        late.unwrap_err().to_string(),
        "the token expired at 2027-01-15T09:00:00Z, and the clock of the control plane says \
         2027-01-15T10:00:00Z (1m of leeway are granted): read the token's file anew, or compare \
         the clocks"
    );
    let early = verify_at(&key.token(&claims()), &keys, now() - Duration::from_secs(7200));
    assert_eq!(
        early.unwrap_err().to_string(),
        "the token is valid from 2027-01-15T07:59:00Z on, and the clock of the control plane says \
         2027-01-15T06:00:00Z (1m of leeway are granted): compare the clocks"
    );
    let other = refused(&key.token(&claims_with("/aud", ISSUER)), &keys);
    assert_eq!(
        other.to_string(),
        "the token is for the audience \"https://kubernetes.default.svc\", and \"istio-ca\" is \
         wanted: set `audience` of the projected serviceAccountToken volume (or --token-audience of \
         the control plane)"
    );
    for none in [claims_without("aud"), claims_with("/aud", json!([]))] {
        let error = refused(&key.token(&none), &keys);
        assert!(error.to_string().contains("for the audience (none)"), "{error}");
    }
}

#[test]
fn a_token_is_of_one_service_account_of_this_issuer() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let elsewhere = refused(&key.token(&claims_with("/iss", "https://elsewhere")), &keys);
    let wanted = ISSUER.to_owned();
    assert_eq!(
        elsewhere,
        TokenError::UnknownIssuer { wanted, found: "https://elsewhere".to_owned() }
    );
    for subject in [
        "",
        "admin",
        "system:node:node-1",
        "system:serviceaccount:",
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:",
        "system:serviceaccount::web",
        "system:serviceaccount:shop:web:x",
        "system:serviceaccount:shop:../web",
        "system:serviceaccount:Shop:web",
        "system:serviceaccount:shop/sa:web",
    ] {
        let error = refused(&key.token(&claims_with("/sub", subject)), &keys);
        assert_eq!(error, TokenError::NotAServiceAccount { subject: subject.to_owned() });
    }
    for (field, value) in [
        ("/sub", "system:serviceaccount:shop:other"),
        ("/kubernetes.io/namespace", "other"),
        ("/kubernetes.io/serviceaccount/name", "other"),
    ] {
        let error = refused(&key.token(&claims_with(field, value)), &keys);
        assert!(matches!(error, TokenError::Disagreement { .. }), "{field}: {error:?}");
    }
    let error = refused(&key.token(&claims_without("kubernetes.io")), &keys);
    assert!(error.to_string().contains("says \"nothing\""), "{error}");
}

#[test]
fn what_is_told_of_a_token_is_bounded_and_escaped() {
    let key = Key::es256("a");
    let keys = key_set(&[&key]);
    let long = format!("line\nfeed\u{1b}[31m{}", "x".repeat(5_000));
    for claims in [
        claims_with("/iss", long.as_str()),
        claims_with("/sub", long.as_str()),
        claims_with("/aud", json!(vec![&long[..500]; 20])),
        claims_with("/exp", long.as_str()),
    ] {
        let text = refused(&key.token(&claims), &keys).to_string();
        assert!(text.len() < 1_500, "{} bytes: {text}", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    let header = json!({ "alg": "ES256", "kid": long }).to_string();
    let text = refused(&key.sign(&header, &claims().to_string()), &keys).to_string();
    assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
}

#[test]
fn what_passes_by_itself_is_not_remembered_as_refused() {
    let error = String::new;
    for temporary in [
        TokenError::KeysUnavailable { error: error() },
        TokenError::ReviewFailed { error: error() },
        TokenError::ReviewBusy { waiting: 1 },
    ] {
        assert!(temporary.is_temporary() && !temporary.is_of_the_token());
    }
    let early = TokenError::NotYetValid { from: now(), now: now() };
    assert!(!early.is_temporary() && !early.is_of_the_token());
    let rejected = TokenError::Rejected { error: error() };
    assert!(!rejected.is_temporary() && rejected.is_of_the_token());
}

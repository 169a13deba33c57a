//! Tokens and keys as an issuer makes them, and as others would like to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA384,
    RsaEncoding, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::claims::Unverified;
use super::keys::KeySet;
use super::*;

mod altered;
mod fetching;
mod forms;
mod refused;

const ISSUER: &str = "https://kubernetes.default.svc";
/// When the tests take place, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn audiences() -> Vec<String> {
    vec![DEFAULT_AUDIENCE.to_owned()]
}

/// A key of an issuer, with both halves.
struct Key {
    kid: String,
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
}

impl Key {
    fn es256(kid: &str) -> Self {
        Self::ec(kid, "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    fn es384(kid: &str) -> Self {
        Self::ec(kid, "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    fn ec(
        kid: &str,
        algorithm: &'static str,
        signing: &'static EcdsaSigningAlgorithm,
        curve: &'static str,
    ) -> Self {
        let random = SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, private.as_ref(), &random).unwrap();
        Self { kid: kid.to_owned(), algorithm, pair: Pair::Ec(pair, curve) }
    }

    /// The one RSA key of these tests, since ring makes none.
    fn rsa(kid: &str, algorithm: &'static str) -> Self {
        let encoding: &dyn RsaEncoding = match algorithm {
            "RS256" => &RSA_PKCS1_SHA256,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS384" => &RSA_PSS_SHA384,
            other => panic!("{other}"),
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("tests/rsa.pem")).unwrap();
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        Self { kid: kid.to_owned(), algorithm, pair: Pair::Rsa(pair, encoding) }
    }

    fn public(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair, _) => {
                let PublicKeyComponents { n, e } =
                    PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "n": base64(&n), "e": base64(&e) })
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y) })
            }
        };
        key["use"] = "sig".into();
        key["kid"] = self.kid.as_str().into();
        key["alg"] = self.algorithm.into();
        key
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    fn header(&self) -> Value {
        json!({ "alg": self.algorithm, "kid": self.kid })
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    /// With a true signature over whatever this is.
    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        format!("{message}.{}", base64(&self.signature(message.as_bytes())))
    }
}

/// The key set of an issuer, as Kubernetes writes it.
fn document(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() })
}

fn key_set(keys: &[&Key]) -> KeySet {
    KeySet::read(document(keys).to_string().as_bytes()).unwrap()
}

/// What Kubernetes 1.35 puts into the projected token of a pod.
fn claims() -> Value {
    json!({
        "aud": ["istio-ca"],
        "exp": NOW + 3600,
        "iat": NOW - 60,
        "iss": ISSUER,
        "jti": "b7ce1a2e-60a9-4a54-8f43-d0a6e4ea1a4c",
        "kubernetes.io": {
            "namespace": "shop",
            "node": { "name": "node-1", "uid": "5ba5e5e2-a62f-4d2c-9d40-3a4c2fc1bd6b" },
            "pod": { "name": "web-0", "uid": "7d3f2c0e-0c07-4d8d-9f8e-1a1b1a0c5d6e" },
            "serviceaccount": { "name": "web", "uid": "0d1d9b1e-7d3c-4a2e-8a55-6d2f6a9a4f11" },
        },
        "nbf": NOW - 60,
        "sub": "system:serviceaccount:shop:web",
    })
}

/// The claims but for one field, given as a JSON pointer.
fn claims_with(field: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    match claims.pointer_mut(field) {
        Some(place) => *place = value.into(),
        None => claims[field.trim_start_matches('/')] = value.into(),
    }
    claims
}

fn claims_without(field: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(field);
    claims
}

/// What the verifier does once it has keys.
fn verify_at(token: &str, keys: &KeySet, now: SystemTime) -> Result<VerifiedToken, TokenError> {
    let token = Unverified::read(token)?;
    token.check_issuer(ISSUER)?;
    let unknown = || TokenError::UnknownKey {
        kid: token.kid().to_owned(),
        known: keys.ids().len(),
        age: Duration::ZERO,
    };
    let key = token.key(keys).ok_or_else(unknown)?;
    token.signed_by(key)?.check(&audiences(), now)
}

fn verify(token: &str, keys: &KeySet) -> Result<VerifiedToken, TokenError> {
    verify_at(token, keys, now())
}

/// As in URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - chunk.len()));
        let letter = |at: usize| char::from(LETTERS[(number >> (18 - 6 * at)) as usize & 63]);
        text.extend((0..=chunk.len()).map(letter));
    }
    text
}

#[test]
fn base64_is_right() {
    for (plain, encoded) in
        [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")]
    {
        assert_eq!(base64(plain.as_bytes()), encoded);
    }
    assert_eq!(base64(&[0xfb, 0xff]), "-_8");
}

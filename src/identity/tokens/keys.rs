//! The keys that an issuer publishes (RFC 7517), as far as they can verify tokens. Pure.

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one issuer that are kept: two while they are changed over, a few with several API servers.
const MAX_KEYS: usize = 64;
/// Bits of a modulus that ring verifies with.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// One key and what it may verify.
#[derive(Clone, Debug)]
pub(super) struct PublishedKey {
    pub(super) kid: String,
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

impl PublishedKey {
    /// Whether the key is one for signatures of this kind: a token's word for it is not taken.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    fn material(&self) -> (&[u8], &[u8]) {
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(point) => (point, &[]),
            DecodingKeyKind::RsaModulusExponent { n, e } => (n, e),
        }
    }
}

impl PartialEq for PublishedKey {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.algorithms == other.algorithms
            && self.material() == other.material()
    }
}

/// All usable keys of an issuer, at least one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeySet(Vec<PublishedKey>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. A key of another kind, for another use or without `kid` is left out.
    pub(super) fn read(document: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(document)
            .map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        let (count, mut keys) = (document.keys.len(), Vec::new());
        if count > MAX_KEYS {
            return Err(format!("it has {count} keys, more than the {MAX_KEYS} that are read"));
        }
        for key in document.keys {
            let key = serde_json::from_value::<Jwk>(key).ok().and_then(|jwk| published(&jwk));
            // The first of one name counts, since a token could be of either.
            let key = key.filter(|key: &PublishedKey| {
                keys.iter().all(|one: &PublishedKey| one.kid != key.kid)
            });
            keys.extend(key);
        }
        if keys.is_empty() {
            return Err(format!(
                "none of its {count} keys can be used (RSA of 2048 bits and more, P-256 or P-384, with a kid)"
            ));
        }
        Ok(Self(keys))
    }

    pub(super) fn find(&self, kid: &str) -> Option<&PublishedKey> {
        self.0.iter().find(|key| key.kid == kid)
    }

    pub(super) fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|key| &*key.kid)
    }
}

fn published(jwk: &Jwk) -> Option<PublishedKey> {
    let common = &jwk.common;
    let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let operations = common.key_operations.as_ref();
    if !for_signatures || operations.is_some_and(|some| !some.contains(&KeyOperations::Verify)) {
        return None;
    }
    let (mut algorithms, key) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            let read = DecodingKey::from_jwk(jwk).ok()?;
            let DecodingKeyKind::RsaModulusExponent { n, e } = read.kind() else { return None };
            let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
            if !RSA_BYTES.contains(&n.len()) || e.is_empty() || e.len() > 4 {
                return None;
            }
            (RSA.to_vec(), DecodingKey::from_rsa_raw_components(n, e))
        }
        AlgorithmParameters::EllipticCurve(curve) => {
            let (algorithm, bytes) = match curve.curve {
                EllipticCurve::P256 => (Algorithm::ES256, 32),
                EllipticCurve::P384 => (Algorithm::ES384, 48),
                _ => return None,
            };
            let key = DecodingKey::from_jwk(jwk).ok()?;
            // Uncompressed: 4, x, y.
            if key.try_get_as_bytes().ok()?.len() != 1 + 2 * bytes {
                return None;
            }
            (vec![algorithm], key)
        }
        _ => return None,
    };
    if let Some(only) = common.key_algorithm {
        algorithms.retain(|one| KeyAlgorithm::from(*one) == only);
    }
    let kid = common.key_id.clone().filter(|kid| !kid.is_empty())?;
    (!algorithms.is_empty()).then_some(PublishedKey { kid, algorithms, key })
}

/// ring reads numbers without them; some issuers put one.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

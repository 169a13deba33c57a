//! What a token says, and whether that makes it one of a ServiceAccount for us. Pure: the time and the keys
//! are handed in. The form is that of Kubernetes' service account tokens (RFC 7519 with the claim
//! `kubernetes.io`); jsonwebtoken splits, decodes and checks the signature, the claims are checked here, since
//! a refusal is to name what was wanted and what was found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Header, Validation, dangerous};
use serde::Deserialize;

use super::error::quoted;
use super::keys::{KeySet, PublishedKey};
use super::{LEEWAY, MAX_TOKEN_BYTES, TokenError, VerifiedToken, signature};
use crate::names::is_dns_label;

const SUBJECT: &str = "system:serviceaccount:";

/// The claims that count; the others are passed over. A claim that stands there twice is refused by serde.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "iss")]
    pub(super) issuer: String,
    #[serde(rename = "sub")]
    subject: String,
    #[serde(rename = "aud", default)]
    audiences: Audiences,
    #[serde(rename = "exp")]
    expires: Option<u64>,
    #[serde(rename = "nbf")]
    not_before: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaim>,
}

/// One or several, as RFC 7519 has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

#[derive(Clone, Debug, Deserialize)]
struct KubernetesClaim {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Clone, Debug, Deserialize)]
struct Named {
    name: String,
}

/// A token of which nothing is believed yet.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    token: &'a str,
    header: Header,
    kid: String,
    claims: Claims,
}

impl<'a> Unverified<'a> {
    /// Reads a token that has the right form and kind of signature.
    pub(super) fn read(token: &'a str) -> Result<Self, TokenError> {
        signature::install();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { bytes: token.len() });
        }
        if token.split('.').count() != 3 {
            return Err(malformed("it has not three parts with dots between"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| malformed(&format!("its header cannot be used: {}", said(&error))))?;
        if !signature::is_verified(header.alg) {
            return Err(TokenError::Algorithm { found: header.alg });
        }
        if header.crit.is_some() {
            return Err(malformed("its header demands extensions (crit), of which none is known"));
        }
        let claims = dangerous::insecure_decode_claims(token)
            .map_err(|error| malformed(&format!("its claims cannot be used: {}", said(&error))))?;
        let Some(kid) = header.kid.clone() else {
            return Err(malformed("its header names no key (kid)"));
        };
        Ok(Self { token, header, kid, claims })
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// Refuses a token of another issuer before its key is looked for.
    pub(super) fn check_issuer(&self, wanted: &str) -> Result<(), TokenError> {
        let found = &self.claims.issuer;
        if found == wanted {
            return Ok(());
        }
        Err(TokenError::UnknownIssuer { wanted: wanted.to_owned(), found: found.clone() })
    }

    pub(super) fn key<'k>(&self, keys: &'k KeySet) -> Option<&'k PublishedKey> {
        keys.find(&self.kid)
    }

    /// The claims, once the signature is the key's.
    pub(super) fn signed_by(&self, key: &PublishedKey) -> Result<Claims, TokenError> {
        let kid = || self.kid.clone();
        let found = self.header.alg;
        if !key.fits(found) {
            return Err(TokenError::AlgorithmOfKey { kid: kid(), found });
        }
        let mut only_signature = Validation::new(found);
        only_signature.required_spec_claims.clear();
        only_signature.validate_exp = false;
        only_signature.validate_aud = false;
        match jsonwebtoken::decode::<Claims>(self.token, &key.key, &only_signature) {
            Ok(decoded) => Ok(decoded.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature { kid: kid() },
                ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidKeyFormat
                | ErrorKind::UnsupportedAlgorithm => {
                    TokenError::AlgorithmOfKey { kid: kid(), found }
                }
                _ => malformed(&said(&error)),
            }),
        }
    }
}

impl Claims {
    /// Whose token it is, if it is for one of `audiences` and valid `now`. The signature has been checked by
    /// the caller, or will be by who is asked next.
    pub(super) fn check(
        &self,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenError> {
        let Some(expires) = self.expires else {
            return Err(malformed(
                "it never expires (no exp), as those of Secrets: project one with an audience \
                 instead",
            ));
        };
        let expires = moment(expires)?;
        if expires + LEEWAY <= now {
            return Err(TokenError::Expired { at: expires, now });
        }
        if let Some(from) = self.not_before {
            let from = moment(from)?;
            if now + LEEWAY < from {
                return Err(TokenError::NotYetValid { from, now });
            }
        }
        let found = match &self.audiences {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Several(several) => several,
        };
        if !found.iter().any(|one| audiences.contains(one)) {
            return Err(TokenError::Audience { wanted: audiences.to_vec(), found: found.to_vec() });
        }
        let (namespace, service_account) = self.service_account()?;
        let pod = self.kubernetes.as_ref().and_then(|claim| claim.pod.as_ref());
        Ok(VerifiedToken {
            namespace: namespace.into(),
            service_account: service_account.into(),
            pod: pod.map(|pod| pod.name.as_str().into()),
            expires,
            issuer: self.issuer.as_str().into(),
            audiences: found.iter().map(|one| one.as_str().into()).collect(),
            groups: groups(namespace),
        })
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    /// The namespace and the name, of which subject and claim say the same.
    fn service_account(&self) -> Result<(&str, &str), TokenError> {
        let subject = &self.subject;
        let parts = subject.strip_prefix(SUBJECT).and_then(|rest| rest.split_once(':'));
        let Some((namespace, name)) =
            parts.filter(|(namespace, name)| is_dns_label(namespace) && is_subdomain(name))
        else {
            return Err(TokenError::NotAServiceAccount { subject: subject.clone() });
        };
        let claim = match &self.kubernetes {
            None => "nothing".to_owned(),
            Some(claim) if claim.namespace == namespace && claim.serviceaccount.name == name => {
                return Ok((namespace, name));
            }
            Some(claim) => format!("{}/{}", claim.namespace, claim.serviceaccount.name),
        };
        Err(TokenError::Disagreement { subject: subject.clone(), claim })
    }
}

/// The groups that Kubernetes has every ServiceAccount in.
pub(super) fn groups(namespace: &str) -> Vec<Box<str>> {
    vec![
        "system:serviceaccounts".into(),
        format!("system:serviceaccounts:{namespace}").into(),
        "system:authenticated".into(),
    ]
}

/// What Kubernetes lets a ServiceAccount be called (RFC 1123): nothing that means something elsewhere gets
/// into an identity.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Seconds since 1970; a number that is no time is no claim. Bounded, so that a leeway can be added to it.
fn moment(seconds: u64) -> Result<SystemTime, TokenError> {
    /// The last second of the year 9999, which RFC 3339 can still write.
    const LAST: u64 = 253_402_300_799;
    match seconds <= LAST {
        true => Ok(UNIX_EPOCH + Duration::from_secs(seconds)),
        false => Err(malformed(&format!("{seconds} is no time"))),
    }
}

fn malformed(why: &str) -> TokenError {
    TokenError::Malformed(why.to_owned())
}

/// serde quotes words of the token, as long as they are.
fn said(error: &Error) -> String {
    let text = match error.kind() {
        ErrorKind::InvalidToken => "it has not three parts with dots between".to_owned(),
        _ => error.to_string(),
    };
    let quoted = quoted(&text);
    quoted.trim_matches('"').to_owned()
}

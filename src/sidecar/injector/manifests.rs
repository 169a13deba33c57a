//! `pilothouse injector manifests`: a certificate of the webhook's own, and the configuration by which the API
//! server asks and which trusts it. Nothing in the cluster has to write either: whoever installs applies both,
//! and does so again to renew.
//!
//! The CA signs this one certificate, and its key is forgotten with the process: nobody can sign by it again.
//! Selectors, names and everything else of the configuration are those of Istio's.

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;

use super::args::{FailurePolicy, ManifestsArgs};
use crate::output;

/// Of the Deployment, the Service, the Secret and so on.
const NAME: &str = "pilothouse-injector";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// CAs that are trusted besides the new one: that of the certificate that is served, and one for a renewal
/// that was repeated before every replica had the first.
const MAX_FORMER_CAS: usize = 2;

/// Prints both documents.
///
/// # Errors
/// The file of `--also-trust` cannot be read, or standard output does not take it.
pub fn print_manifests(args: &ManifestsArgs) -> anyhow::Result<()> {
    let former = match &args.also_trust {
        None => String::new(),
        Some(file) => read(file).with_context(|| file.display().to_string())?,
    };
    Ok(output::print(&manifests(args, &former, SystemTime::now())?)?)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text)?,
        false => std::fs::File::open(file)?.read_to_string(&mut text)?,
    };
    Ok(text)
}

/// Both documents as YAML. `former` has the CAs (PEM) that were trusted before.
///
/// # Errors
/// `former` is no PEM, or a certificate cannot be made.
pub fn manifests(args: &ManifestsArgs, former: &str, now: SystemTime) -> anyhow::Result<String> {
    let namespace = &args.namespace;
    let expires = now + DAY * u32::from(args.valid_days);
    let valid = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = ((now - CLOCK_SKEW).into(), expires.into());
    };
    let mut ca = CertificateParams::default();
    valid(&mut ca);
    ca.distinguished_name.push(DnType::CommonName, format!("{NAME} CA"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let host = format!("{NAME}.{namespace}");
    let names = [format!("{host}.svc"), format!("{host}.svc.cluster.local"), host];
    let mut params = CertificateParams::new(names)?;
    valid(&mut params);
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &ca)?;

    let bundle = ca.pem() + &still_valid(former, now)?;
    let expires = humantime::format_rfc3339_seconds(expires);
    // The configuration first: it trusts the former certificate as long as there is one, and the new one
    // reaches the pods a minute later.
    Ok(format!(
        "# Made by pilothouse injector manifests; the certificate expires at {expires}. Make it anew before then\n\
         # (docs/injector.md: Renewal). The Secret has a private key: do not keep this in a repository.\n\
         {}---\n{}",
        yaml(&webhook_configuration(namespace, args.failure_policy, Some(&bundle))),
        yaml(&secret(namespace, &certificate.pem(), &key.serialize_pem())),
    ))
}

/// The newest of these CAs that have not expired.
fn still_valid(former: &str, now: SystemTime) -> anyhow::Result<String> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut kept = Vec::new();
    for block in Pem::iter_from_buffer(former.as_bytes()) {
        let block = block.map_err(|error| anyhow!("--also-trust is no PEM: {error}"))?;
        let (_, certificate) = parse_x509_certificate(&block.contents).map_err(|error| {
            anyhow!("--also-trust has something else than certificates: {error}")
        })?;
        if certificate.validity().not_after.timestamp() > i64::try_from(seconds)? {
            kept.push(block);
        }
    }
    if kept.is_empty() && !former.trim().is_empty() && !former.contains("-----BEGIN") {
        return Err(anyhow!("--also-trust has no certificate in PEM"));
    }
    Ok(kept.iter().take(MAX_FORMER_CAS).map(pem).collect())
}

fn pem(block: &Pem) -> String {
    let text = base64(&block.contents);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

fn base64(bytes: &[u8]) -> String {
    let encoded = serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or_default();
    encoded.as_str().unwrap_or_default().to_owned()
}

fn secret(namespace: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("{NAME}-tls"), "namespace": namespace, "labels": { "app": NAME },
        },
        "type": "kubernetes.io/tls",
        "data": { "tls.crt": base64(certificate.as_bytes()), "tls.key": base64(key.as_bytes()) },
    })
}

/// Which pods the API server asks about: Istio's four webhooks of its default revision, which exclude each
/// other, so that no pod is asked about twice. Besides Istio's selectors, the cluster's own namespaces and the
/// injector's are left out here already: with the policy Fail an injector that is down would keep the pods from
/// starting by which it comes up again.
fn webhook_configuration(namespace: &str, policy: FailurePolicy, bundle: Option<&str>) -> Value {
    let is = |key: &str, values: &[&str]| json!({ "key": key, "operator": "In", "values": values });
    let is_not =
        |key: &str, values: &[&str]| json!({ "key": key, "operator": "NotIn", "values": values });
    let has_no = |key: &str| json!({ "key": key, "operator": "DoesNotExist" });
    let (injection, revision, inject) =
        ("istio-injection", "istio.io/rev", "sidecar.istio.io/inject");
    let own = is_not(
        "kubernetes.io/metadata.name",
        &["kube-system", "kube-public", "kube-node-lease", namespace],
    );
    let webhook = |name: &str, namespaces: Vec<Value>, pods: Vec<Value>| {
        let mut service = json!({
            "service": { "name": NAME, "namespace": namespace, "path": "/inject", "port": 443 },
        });
        if let Some(bundle) = bundle {
            service["caBundle"] = base64(bundle.as_bytes()).into();
        }
        let namespaces: Vec<_> = namespaces.into_iter().chain([own.clone()]).collect();
        json!({
            "name": format!("{name}.sidecar-injector.istio.io"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": service,
            "failurePolicy": policy.as_str(),
            "matchPolicy": "Equivalent",
            "namespaceSelector": { "matchExpressions": namespaces },
            "objectSelector": { "matchExpressions": pods },
            "reinvocationPolicy": "Never",
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"], "scope": "*",
            }],
            "sideEffects": "None",
            "timeoutSeconds": 10,
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": NAME, "labels": { "app": NAME } },
        "webhooks": [
            webhook(
                "rev.namespace",
                vec![is(revision, &["default"]), has_no(injection)],
                vec![is_not(inject, &["false"])],
            ),
            webhook(
                "rev.object",
                vec![has_no(revision), has_no(injection)],
                vec![is_not(inject, &["false"]), is(revision, &["default"])],
            ),
            webhook(
                "namespace",
                vec![is(injection, &["enabled"])],
                vec![is_not(inject, &["false"])],
            ),
            webhook(
                "object",
                vec![has_no(injection), has_no(revision)],
                vec![is(inject, &["true"]), has_no(revision)],
            ),
        ],
    })
}

/// Block style for what is nested, as manifests are written.
fn yaml(object: &Value) -> String {
    serde_saphyr::to_string(object).unwrap_or_default()
}

#[cfg(test)]
mod tests;

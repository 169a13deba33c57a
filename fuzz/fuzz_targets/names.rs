//! Bytes as anybody's client certificate: as the whole of it, as its subject alternative names, and as the names
//! themselves.
//!
//! Whatever comes, nobody is taken for a ServiceAccount whose name is not written in plain: what is found is of
//! the trust domain, has names that Kubernetes allows, and is read back from its own SPIFFE id.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pilothouse::identity::{CertificateNames, Principal};
use pilothouse_xds_server::tls::read_certificate;

static NAMES: LazyLock<CertificateNames> = LazyLock::new(|| CertificateNames {
    trust_domain: "cluster.local".into(),
    domain: "cluster.local".into(),
});

fuzz_target!(|data: &[u8]| {
    _ = read_certificate(data);
    // As much as fits into the lengths of `tlv`; a fuzzer's inputs are small.
    let data = &data[..data.len().min(60_000)];
    if let Ok(read) = read_certificate(&with_names(data)) {
        let [uris, dns] = [&read.uri_names, &read.dns_names];
        check(uris.iter().map(|name| &**name), dns.iter().map(|name| &**name));
    }
    // A fuzzer would seldom hit upon a certificate that is whole. Names by line, those for DNS after an @.
    let text = String::from_utf8_lossy(data);
    let uris = text.lines().filter(|line| !line.starts_with('@'));
    check(uris, text.lines().filter_map(|line| line.strip_prefix('@')));
});

fn check<'a>(uris: impl Iterator<Item = &'a str>, dns: impl Iterator<Item = &'a str>) {
    let Ok(Some(found)) = NAMES.principal(uris, dns) else { return };
    assert_eq!(&*found.trust_domain, "cluster.local");
    for name in [&found.namespace, &found.service_account] {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        assert!(!name.is_empty() && name.len() <= 253 && name.bytes().all(plain), "{found:?}");
    }
    assert_eq!(Principal::read(&found.to_string()), Some(found));
}

/// A certificate whose extension subjectAltName has these bytes as its value (RFC 5280, section 4.1).
fn with_names(names: &[u8]) -> Vec<u8> {
    let ed25519 = tlv(0x30, &[&[6, 3, 0x2b, 0x65, 0x70]]);
    let version = tlv(0xa0, &[&[2, 1, 2]]);
    let validity = tlv(0x30, &[&tlv(0x17, &[b"200101000000Z"]), &tlv(0x17, &[b"400101000000Z"])]);
    let nobody = tlv(0x30, &[]);
    let key = tlv(0x30, &[&ed25519, &tlv(3, &[&[0; 33]])]);
    let extension = tlv(0x30, &[&[6, 3, 0x55, 0x1d, 0x11], &tlv(4, &[names])]);
    let extensions = tlv(0xa3, &[&tlv(0x30, &[&extension])]);
    let parts =
        [&version, &[2, 1, 1][..], &ed25519, &nobody, &validity, &nobody, &key, &extensions];
    tlv(0x30, &[&tlv(0x30, &parts), &ed25519, &tlv(3, &[&[0; 65]])])
}

/// Tag, length and content (DER).
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match u16::try_from(content.len()).unwrap() {
        short @ 0..128 => out.push(short as u8),
        length @ 128..256 => out.extend([0x81, length as u8]),
        length => out.extend([[0x82].as_slice(), &length.to_be_bytes()].concat()),
    }
    out.extend(content);
    out
}

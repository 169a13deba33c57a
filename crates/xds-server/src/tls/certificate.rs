//! What stands in a certificate: its names, and until when it is valid.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::peer::PeerCertificate;

/// A certificate that cannot be read.
#[derive(Debug, Error)]
#[error("cannot be read as an X.509 certificate: {0}")]
pub struct UnreadableCertificate(String);

/// Reads a certificate in DER. Nothing is verified.
///
/// # Errors
/// It is no X.509 certificate, or its names cannot be read.
pub fn read_certificate(der: &[u8]) -> Result<PeerCertificate, UnreadableCertificate> {
    let unreadable = |error: &dyn std::fmt::Display| UnreadableCertificate(error.to_string());
    let (_, certificate) = parse_x509_certificate(der).map_err(|error| unreadable(&error))?;
    let (mut uri_names, mut dns_names) = (Vec::new(), Vec::new());
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(&error))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uri_names.push(Arc::from(*uri)),
            GeneralName::DNSName(name) => dns_names.push(Arc::from(*name)),
            _ => {}
        }
    }
    let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
    Ok(PeerCertificate { uri_names, dns_names, not_after })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_and_the_end_are_read_and_what_is_no_certificate_is_not() {
        let mut params = CertificateParams::new(vec!["web.shop.svc".to_owned()]).unwrap();
        let uri = "spiffe://cluster.local/ns/shop/sa/web";
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = read_certificate(certificate.der()).unwrap();
        assert_eq!(read.uri_names, [uri.into()]);
        assert_eq!(read.dns_names, ["web.shop.svc".into()]);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_927_843_200);
        assert_eq!(read.not_after, end);
        for cut in 0..certificate.der().len() {
            assert!(read_certificate(&certificate.der()[..cut]).is_err());
        }
    }
}

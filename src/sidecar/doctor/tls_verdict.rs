//! What a TLS connection that fails, or an identity that is refused, means, and what to do. Pure.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError};
use tonic::{Code as GrpcCode, Status};

use super::finding::{Code, Finding};
use super::tls::{Loaded, Seen, TlsFailure};
use crate::sidecar::credentials::files::{
    CertificateFacts, FileError, LoadedClient, Validity, utc,
};
use crate::sidecar::credentials::{ClientCredential, Credentials};
use crate::well_known::{SECURE_XDS_PORT, XDS_PORT};

/// A finding, and of what is out of its time by it the validity.
pub(super) type Judged = (Finding, Option<Validity>);

const RENEW_SERVER: &str = "renew the control plane's certificate (Secret istio-pilot-tls in istio-system; \
    kubectl -n istio-system get certificate shows what cert-manager makes of it); the control plane takes a \
    new one without a restart";
const RENEW_CLIENT: &str = "renew the proxy's certificate (kubectl get certificate, or write the Secret \
    anew); Envoy takes a new one without a restart";

/// A file is of no use.
pub(super) fn unusable_file(credentials: &Credentials, error: &FileError) -> Finding {
    let missing = error.why.starts_with("is not there");
    if error.file == credentials.ca {
        return Finding::new(
            Code::TlsCaUnusable,
            format!(
                "no authority is known that the control plane's certificate may come from: {error}"
            ),
            "give the pod the CA: key ca.crt of the Secret pilothouse-proxy-tls or of the ConfigMap \
             pilothouse-ca, or name another file with --tls-ca",
        );
    }
    match (&credentials.client, missing) {
        (ClientCredential::Token(_), true) => Finding::new(
            Code::TokenMissing,
            format!("there is no token to show to the control plane: {error}"),
            "give the pod a projected serviceAccountToken volume (audience istio-ca, path istio-token), \
             which injection makes with tls: token, or name another file with --token-file",
        ),
        (ClientCredential::Token(_), false) => Finding::new(
            Code::TokenUnusable,
            format!("the token cannot be used: {error}"),
            "name the file of a ServiceAccount token with --token-file",
        ),
        (_, true) => Finding::new(
            Code::ClientCertificateMissing,
            format!("the proxy has no certificate: {error}"),
            "give the pod the Secret pilothouse-proxy-tls (tls.crt, tls.key, ca.crt) in its namespace, or \
             name other files with --tls-cert and --tls-key, or use --tls token",
        ),
        (_, false) => Finding::new(
            Code::ClientCertificateUnusable,
            format!("the proxy's certificate cannot be used: {error}"),
            "write certificate and key anew, both PEM and of one another",
        ),
    }
}

/// Whether every authority that is believed is out of its time: nothing that they issued counts.
pub(super) fn expired_authorities(loaded: &Loaded, now: SystemTime) -> Option<Judged> {
    let facts = &loaded.authorities.facts;
    if facts.is_empty() || facts.iter().any(|one| one.validity.contains(now)) {
        return None;
    }
    let validity = facts.first()?.validity;
    let finding = Finding::new(
        Code::TlsCaExpired,
        format!(
            "the authority in {} is out of its time: it is {validity}",
            loaded.credentials.ca.display()
        ),
        "make a new authority, give it to proxies and control plane together with the old one, and then \
         issue every certificate anew",
    );
    Some((finding, Some(validity)))
}

/// Why there is no TLS connection.
pub(super) fn no_tls(
    address: SocketAddr,
    loaded: &Loaded,
    seen: &Seen,
    failure: &TlsFailure,
    limit: Duration,
) -> Judged {
    match failure {
        TlsFailure::Certificate(error) => server_certificate(address, loaded, seen, error),
        TlsFailure::Alert(AlertDescription::NoApplicationProtocol) => (no_alpn(address), None),
        TlsFailure::Alert(alert) => alerted(address, loaded, seen, *alert),
        TlsFailure::Timeout => (
            failed(format!(
                "{address} takes connections, but says no word of TLS within {limit:?}"
            )),
            None,
        ),
        // A server of TLS 1.2 may just hang up on a client without a certificate.
        TlsFailure::Other(_) if seen.asked && !has_certificate(loaded) => {
            (certificate_wanted(address, loaded, "it ends the connection"), None)
        }
        TlsFailure::Other(why) => (failed(format!("TLS with {address} fails: {why}")), None),
    }
}

fn failed(cause: String) -> Finding {
    Finding::new(
        Code::TlsHandshakeFailed,
        cause,
        "look into the control plane's log; it speaks TLS 1.2 and 1.3 with HTTP/2 on port 15012 (openssl \
         s_client -alpn h2 -connect shows what another client makes of it)",
    )
}

/// The server has no word of HTTP/2 in its handshake.
pub(super) fn no_alpn(address: SocketAddr) -> Finding {
    Finding::new(
        Code::AlpnMissing,
        format!("{address} speaks TLS, but does not agree on HTTP/2 (ALPN h2), which gRPC needs"),
        "correct the discovery address: Pilot's TLS port is 15012; a load balancer that ends TLS in between \
         must offer h2, or pass TLS through",
    )
}

fn server_certificate(
    address: SocketAddr,
    loaded: &Loaded,
    seen: &Seen,
    error: &CertificateError,
) -> Judged {
    let Credentials { ca, server_name, .. } = &loaded.credentials;
    let ca = ca.display();
    let server = seen.server.as_ref();
    let issuer = server.map_or("an unknown issuer", |facts| &*facts.issuer);
    let validity = server.map(|facts| facts.validity);
    let date = |of: fn(&Validity) -> SystemTime| {
        validity.as_ref().map_or_else(|| "an unknown time".to_owned(), |valid| utc(of(valid)))
    };
    let (code, cause, fix) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            Code::ServerCertificateExpired,
            format!(
                "the control plane's certificate ({address}) has expired at {}",
                date(|valid| valid.not_after)
            ),
            RENEW_SERVER.to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            Code::ServerCertificateNotYetValid,
            format!(
                "the control plane's certificate ({address}) is valid only from {} on",
                date(|valid| valid.not_before)
            ),
            "if it was just issued, this machine's clock is behind that of its issuer: compare both \
             (date -u) and set the wrong one; else issue it anew"
                .to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            Code::ServerCertificateWrongName,
            format!(
                "the control plane's certificate ({address}) is for {}, not for {server_name}",
                names(server)
            ),
            format!(
                "add {server_name} to the certificate's names, or use a discovery address whose host is one \
                 of them, or say with --tls-server-name which is meant"
            ),
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            Code::ServerCertificateUnknownCa,
            format!(
                "the control plane's certificate ({address}) is from an authority that is not in {ca}: its \
                 issuer calls itself {issuer}; the file has {}",
                authorities(loaded)
            ),
            "give the proxies the CA that signed the control plane's certificate (ca.crt of the Secret \
             istio-pilot-tls in istio-system), together with the old one while both are in use"
                .to_owned(),
        ),
        other => (
            Code::ServerCertificateUnusable,
            format!("the control plane's certificate ({address}, from {issuer}) is not accepted: {other}"),
            "issue it anew, as a certificate of X.509 version 3 for servers (extended key usage serverAuth) \
             with its names as subjectAltName"
                .to_owned(),
        ),
    };
    (Finding::new(code, cause, fix), validity)
}

fn names(of: Option<&CertificateFacts>) -> String {
    match of.map(|facts| facts.names.as_slice()) {
        None | Some([]) => "no name at all".to_owned(),
        Some(names) => names.join(", "),
    }
}

/// By their own names: an authority is self-signed.
fn authorities(loaded: &Loaded) -> String {
    let all: Vec<&str> = loaded.authorities.facts.iter().map(|facts| &*facts.issuer).collect();
    all.join("; ")
}

fn has_certificate(loaded: &Loaded) -> bool {
    matches!(loaded.client, LoadedClient::Certificate(_))
}

fn certificate_wanted(address: SocketAddr, loaded: &Loaded, said: &str) -> Finding {
    let shown = match loaded.client {
        LoadedClient::Token(_) => "a token, and no certificate (--tls token)",
        LoadedClient::None | LoadedClient::Certificate(_) => "none",
    };
    Finding::new(
        Code::ClientCertificateMissing,
        format!("{address} wants a client certificate, and the proxy has {shown}: {said}"),
        "give the proxy a certificate and use --tls certificate, or let the control plane accept clients \
         without one: Pilot does where it verifies tokens (--token-verification)",
    )
}

/// The server ended the connection with a reason, which is about the client.
fn alerted(address: SocketAddr, loaded: &Loaded, seen: &Seen, alert: AlertDescription) -> Judged {
    let said = format!("its alert is {alert:?}");
    let LoadedClient::Certificate(own) = &loaded.client else {
        let wanted = alert == AlertDescription::CertificateRequired || seen.asked;
        return match wanted {
            true => (certificate_wanted(address, loaded, &said), None),
            false => (failed(format!("{address} refuses TLS: {said}")), None),
        };
    };
    let CertificateFacts { names: _, issuer, validity } = &own.facts;
    let named = names(Some(&own.facts));
    let by_own_clock = validity.contains(SystemTime::now());
    let of_certificate = matches!(
        alert,
        AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
    );
    if !of_certificate {
        return (failed(format!("{address} refuses TLS: {said}")), None);
    }
    if alert == AlertDescription::CertificateExpired || !by_own_clock {
        return client_out_of_time(own_file(loaded), &named, *validity, &said);
    }
    let cause = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            format!("it does not know the authority ({issuer}) that issued it")
        }
        _ => "it does not accept it".to_owned(),
    };
    let finding = Finding::new(
        Code::ClientCertificateRefused,
        format!("{address} refuses the proxy's certificate ({named}): {cause}; {said}"),
        "compare the issuer with the control plane's --client-ca, and put the proxies' authority into it; \
         the certificate must be for clients (extended key usage clientAuth)",
    );
    (finding, None)
}

fn own_file(loaded: &Loaded) -> String {
    match &loaded.credentials.client {
        ClientCredential::Certificate { certificate, .. } => certificate.display().to_string(),
        ClientCredential::Token(file) => file.display().to_string(),
        ClientCredential::None => "no file".to_owned(),
    }
}

fn client_out_of_time(file: String, named: &str, validity: Validity, said: &str) -> Judged {
    let early = SystemTime::now() < validity.not_before;
    let (code, when) = match early {
        true => (
            Code::ClientCertificateNotYetValid,
            format!("is valid from {} on", utc(validity.not_before)),
        ),
        false => {
            (Code::ClientCertificateExpired, format!("expires at {}", utc(validity.not_after)))
        }
    };
    let finding = Finding::new(
        code,
        format!(
            "the control plane takes the proxy's certificate ({named}, {file}), which {when}, for one that \
             is out of its time: {said}"
        ),
        RENEW_CLIENT,
    );
    (finding, Some(validity))
}

/// What a stream's end says of who asks; `None` if it says nothing of that.
pub(super) fn identity_refused(
    address: SocketAddr,
    id: &str,
    status: &Status,
    loaded: Option<&Loaded>,
) -> Option<Judged> {
    let said = status.message();
    let client = loaded.map(|loaded| &loaded.client);
    match (status.code(), client) {
        (GrpcCode::PermissionDenied, _) => Some((
            Finding::new(
                Code::NamespaceMismatch,
                format!("Pilot does not let this proxy be {id:?}: {said}"),
                "let the proxy claim the namespace of its identity (POD_NAMESPACE, node.id, the metadata \
                 NAMESPACE), or give it the ServiceAccount or certificate of the namespace that it claims; who \
                 acts for others is named by Pilot's --act-for",
            ),
            None,
        )),
        (GrpcCode::Unauthenticated, Some(LoadedClient::Token(token))) => {
            Some(token_refused(said, token, loaded.map(own_file).unwrap_or_default()))
        }
        (GrpcCode::Unauthenticated, Some(LoadedClient::Certificate(own))) => Some((
            Finding::new(
                Code::ClientCertificateRefused,
                format!(
                    "Pilot does not accept the proxy's certificate ({}): {said}",
                    names(Some(&own.facts))
                ),
                "issue it with the URI name spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT, of Pilot's \
                 --trust-domain",
            ),
            None,
        )),
        (GrpcCode::Unauthenticated, Some(LoadedClient::None) | None) => Some((
            Finding::new(
                Code::IdentityMissing,
                format!(
                    "Pilot wants to know who asks, and the proxy shows neither certificate nor token: {said}"
                ),
                format!(
                    "start the agent with --tls certificate or --tls token against port {SECURE_XDS_PORT}, or \
                     let Pilot take proxies without identity"
                ),
            ),
            None,
        )),
        (GrpcCode::Unavailable, Some(LoadedClient::Token(_)))
            if said.to_lowercase().contains("token") =>
        {
            Some((
                Finding::new(
                    Code::TokenNotVerified,
                    format!("Pilot ({address}) cannot verify tokens at the moment: {said}"),
                    "let it reach the issuer's keys (--token-verification keys) or create TokenReviews \
                     (--token-verification review, with the right to): its log says which fails",
                ),
                None,
            ))
        }
        _ => None,
    }
}

fn token_refused(
    said: &str,
    token: &crate::sidecar::credentials::files::Token,
    file: String,
) -> Judged {
    let validity = token.claims.validity();
    let now = SystemTime::now();
    let lower = said.to_lowercase();
    let expired = validity.is_some_and(|valid| now > valid.not_after) || lower.contains("expired");
    let early =
        validity.is_some_and(|valid| now < valid.not_before) || lower.contains("valid from");
    let of = match &*token.claims.sub {
        "" => String::new(),
        sub => format!(" of {sub}"),
    };
    let when = validity.map_or_else(String::new, |valid| format!(" (it is {valid})"));
    if expired || early {
        let code = if expired { Code::TokenExpired } else { Code::TokenNotYetValid };
        let finding = Finding::new(
            code,
            format!("Pilot refuses the token{of} in {file}{when}: {said}"),
            "see why the kubelet does not renew it (it does at four fifths of its time; kubectl describe pod \
             shows failing mounts); a token that is copied by hand is not renewed",
        );
        return (finding, validity);
    }
    if lower.contains("audience") {
        let finding = Finding::new(
            Code::TokenWrongAudience,
            format!(
                "Pilot refuses the token{of} in {file}: it is for {}, and Pilot says: {said}",
                match token.claims.audiences() {
                    [] => "no audience".to_owned(),
                    all => format!("the audience {}", all.join(", ")),
                }
            ),
            "set audience of the projected serviceAccountToken volume to what Pilot wants (istio-ca), or add \
             the token's to Pilot's --token-audience",
        );
        return (finding, None);
    }
    let finding = Finding::new(
        Code::TokenRefused,
        format!("Pilot refuses the token{of} in {file}: {said}"),
        "use a token of this cluster's API server (a projected serviceAccountToken); the sentence says what \
         is wrong with this one",
    );
    (finding, None)
}

/// One of the two ports is there, the other is not.
pub(super) fn other_port_open(wanted: SocketAddr, open: u16) -> Finding {
    let port = wanted.port();
    match open {
        XDS_PORT => Finding::new(
            Code::OnlyPlaintextServed,
            format!(
                "nothing listens on {wanted}, where TLS is expected, but port {open} of it takes connections: \
                 Pilot serves plaintext only"
            ),
            "give Pilot a certificate (--tls-cert, --tls-key, --client-ca; manifests/secure) and its Service \
             the port 15012, or let the proxies speak plaintext (--tls off, port 15010)",
        ),
        _ => Finding::new(
            Code::OnlyTlsServed,
            format!(
                "nothing listens on {wanted}, the plaintext port, but port {open} of it takes connections: \
                 Pilot serves TLS only (--grpc-addr off)"
            ),
            format!(
                "let the proxies speak TLS (--tls certificate or --tls token, port {open}), or let Pilot serve \
                 plaintext on {port} too (--grpc-addr)"
            ),
        ),
    }
}

//! TLS to the control plane. Certificates, keys and tokens do not stand in the bootstrap: it names files of
//! secrets (SDS), and those name the files that Kubernetes mounts. Envoy watches their folders, so that what
//! is rotated there counts from the next connection on, without a restart (seen with Envoy 1.40: the link
//! `..data` of a mounted Secret that is replaced, and a projected token).
//!
//! A token goes into each stream's `authorization` by Envoy's credential injector among the cluster's own
//! filters. Of the alternatives `initial_metadata` is fixed at the start, and the call credentials of
//! google_grpc would need a client beside Envoy's own, with keepalive and DNS of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, ConfigSource, PathConfigSource, TransportSocket, TypedExtensionConfig,
    config_source, transport_socket,
};
use envoy_types::pb::envoy::extensions::filters::http::credential_injector::v3::CredentialInjector;
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use prost::{Message, Name};
use serde_json::{Value, json};

use super::any;
use crate::sidecar::credentials::{ClientCredential, Credentials};

/// Names of the secrets, and of the files that say where they are.
const CA: &str = "ca";
const CERTIFICATE: &str = "certificate";
const TOKEN: &str = "token";

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The control plane's cluster speaks TLS by this.
pub(super) fn transport_socket(credentials: &Credentials, config_dir: &Path) -> TransportSocket {
    let name = &credentials.server_name;
    let is_address = name.parse::<IpAddr>().is_ok();
    let wanted = SubjectAltNameMatcher {
        san_type: if is_address { SanType::IpAddress } else { SanType::Dns }.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.clone())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: vec![wanted],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(CA, config_dir)),
        ..Default::default()
    };
    let certificates = match credentials.client {
        ClientCredential::Certificate { .. } => vec![secret(CERTIFICATE, config_dir)],
        ClientCredential::Token(_) | ClientCredential::None => Vec::new(),
    };
    let context = UpstreamTlsContext {
        // A server's name is no address (RFC 6066, section 3).
        sni: if is_address { String::new() } else { name.clone() },
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                // As a client Envoy speaks no 1.3 unless it is told to.
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: certificates,
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                validation,
            )),
            alpn_protocols: vec!["h2".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

/// What the control plane's cluster does with each request: nothing, unless there is a token.
pub(super) fn http_filters(credentials: &Credentials, config_dir: &Path) -> Vec<HttpFilter> {
    if !matches!(credentials.client, ClientCredential::Token(_)) {
        return Vec::new();
    }
    let bearer = Generic {
        credential: Some(secret(TOKEN, config_dir)),
        header: "authorization".to_owned(),
        header_value_prefix: "Bearer ".to_owned(),
    };
    let injector = CredentialInjector {
        overwrite: true,
        credential: Some(TypedExtensionConfig {
            name: "envoy.http.injected_credentials.generic".to_owned(),
            typed_config: Some(any(&bearer)),
        }),
        ..Default::default()
    };
    // Filters of a cluster end with the codec.
    vec![
        filter("envoy.filters.http.credential_injector", &injector),
        filter("envoy.filters.http.upstream_codec", &UpstreamCodec {}),
    ]
}

fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

fn secret(name: &str, config_dir: &Path) -> SdsSecretConfig {
    let source = PathConfigSource {
        path: file_of(name, config_dir).display().to_string(),
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(config_source::ConfigSourceSpecifier::PathConfigSource(
                source,
            )),
            ..Default::default()
        }),
    }
}

fn file_of(name: &str, config_dir: &Path) -> PathBuf {
    config_dir.join(format!("sds-{name}.json"))
}

/// The files of secrets that [`transport_socket`] and `http_filters` name, with their content.
pub fn secret_files(credentials: &Credentials, config_dir: &Path) -> Vec<(PathBuf, String)> {
    let source = |file: &Path| json!({ "filename": file, "watched_directory": folder_of(file) });
    let ca = json!({ "validation_context": { "trusted_ca": source(&credentials.ca) } });
    let own = match &credentials.client {
        ClientCredential::None => None,
        ClientCredential::Certificate { certificate, key } => {
            // One folder is watched for both: they are replaced together.
            let pair = json!({
                "certificate_chain": { "filename": certificate },
                "private_key": { "filename": key },
                "watched_directory": folder_of(certificate),
            });
            Some((CERTIFICATE, json!({ "tls_certificate": pair })))
        }
        ClientCredential::Token(file) => {
            Some((TOKEN, json!({ "generic_secret": { "secret": source(file) } })))
        }
    };
    let files = [(CA, ca)].into_iter().chain(own);
    files.map(|(name, what)| (file_of(name, config_dir), discovery_response(name, what))).collect()
}

fn discovery_response(name: &str, mut secret: Value) -> String {
    secret["@type"] = SECRET.into();
    secret["name"] = name.into();
    format!("{:#}\n", json!({ "resources": [secret] }))
}

/// Where Envoy waits for something to be moved to.
fn folder_of(file: &Path) -> Value {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    json!({ "path": folder.unwrap_or(Path::new(".")) })
}

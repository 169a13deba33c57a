//! From Envoy's bootstrap to what its control plane is met with over TLS: files that the cluster names
//! itself, or by files of secrets (SDS) beside it. Pure but for the reader that is handed in.

use serde_json::Value;

use crate::sidecar::credentials::{ClientCredential, Credentials, TlsArgs, TlsMode};
use crate::sidecar::host_port::HostPort;

/// What the cluster says; `None` if it speaks plaintext. `read` gives the JSON of a file.
pub(super) fn credentials(
    cluster: &Value,
    discovery: &HostPort,
    read: impl Fn(&str) -> Option<Value>,
) -> Option<Credentials> {
    if cluster["transport_socket"]["name"] != "envoy.transport_sockets.tls" {
        return None;
    }
    let secret = |reference: &Value| -> Value {
        let source = &reference["sds_config"];
        let path =
            source["path_config_source"]["path"].as_str().or_else(|| source["path"].as_str());
        let file = path.and_then(&read).unwrap_or_default();
        let found = file["resources"].as_array().into_iter().flatten();
        let mut named = found.filter(|one| one["name"] == reference["name"]);
        named.next().cloned().unwrap_or_default()
    };
    let context = &cluster["transport_socket"]["typed_config"];
    let common = &context["common_tls_context"];
    let combined = &common["combined_validation_context"];
    let validations = [
        common["validation_context"].clone(),
        combined["default_validation_context"].clone(),
        secret(&combined["validation_context_sds_secret_config"])["validation_context"].clone(),
        secret(&common["validation_context_sds_secret_config"])["validation_context"].clone(),
    ];
    let own = [
        common["tls_certificates"][0].clone(),
        secret(&common["tls_certificate_sds_secret_configs"][0])["tls_certificate"].clone(),
    ];
    let file = |source: &Value| source["filename"].as_str().map(Into::into);
    let server_name = validations.iter().find_map(name_in).or_else(|| context["sni"].as_str());
    let common = TlsArgs {
        tls_ca: validations.iter().find_map(|one| file(&one["trusted_ca"])),
        tls_cert: own.iter().find_map(|one| file(&one["certificate_chain"])),
        tls_key: own.iter().find_map(|one| file(&one["private_key"])),
        token_file: token(cluster)
            .and_then(|reference| file(&secret(reference)["generic_secret"]["secret"])),
        tls_server_name: server_name.filter(|name| !name.is_empty()).map(str::to_owned),
        tls: None,
    };
    let mode = match (&common.token_file, &common.tls_cert) {
        (Some(_), _) => TlsMode::Token,
        (None, Some(_)) => TlsMode::Certificate,
        (None, None) => {
            // Any mode says the rest.
            let args = TlsArgs { tls: Some(TlsMode::Token), ..common };
            let nothing = args.credentials(discovery, None)?;
            return Some(Credentials { client: ClientCredential::None, ..nothing });
        }
    };
    TlsArgs { tls: Some(mode), ..common }.credentials(discovery, None)
}

/// The name that a validation context wants, if it is one name.
fn name_in(validation: &Value) -> Option<&str> {
    let typed = &validation["match_typed_subject_alt_names"][0]["matcher"]["exact"];
    typed.as_str().or_else(|| validation["match_subject_alt_names"][0]["exact"].as_str())
}

/// The secret that the credential injector among the cluster's filters takes its token from.
fn token(cluster: &Value) -> Option<&Value> {
    let options = cluster["typed_extension_protocol_options"].as_object()?;
    let filters = options.values().filter_map(|one| one["http_filters"].as_array()).flatten();
    let mut credentials =
        filters.map(|filter| &filter["typed_config"]["credential"]["typed_config"]["credential"]);
    credentials.find(|credential| credential.is_object())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn discovery() -> HostPort {
        "pilot:15012".parse().unwrap()
    }

    #[test]
    fn files_that_the_bootstrap_names_itself_are_found() {
        let cluster = json!({ "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": { "sni": "istiod.istio-system.svc", "common_tls_context": {
                "tls_certificates": [
                    { "certificate_chain": { "filename": "/c" }, "private_key": { "filename": "/k" } },
                ],
                "validation_context": { "trusted_ca": { "filename": "/ca" } },
            }},
        }});
        let found = credentials(&cluster, &discovery(), |_| None).unwrap();
        assert_eq!(
            found,
            Credentials {
                ca: "/ca".into(),
                server_name: "istiod.istio-system.svc".to_owned(),
                client: ClientCredential::Certificate {
                    certificate: "/c".into(),
                    key: "/k".into()
                },
            }
        );
        assert_eq!(credentials(&json!({}), &discovery(), |_| None), None);
    }

    #[test]
    fn tls_without_anything_of_ones_own_is_that() {
        let cluster = json!({ "transport_socket": { "name": "envoy.transport_sockets.tls" } });
        let found = credentials(&cluster, &discovery(), |_| None).unwrap();
        assert_eq!((found.client, &*found.server_name), (ClientCredential::None, "pilot"));
    }
}

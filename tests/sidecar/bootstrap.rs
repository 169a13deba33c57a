//! What Envoy is told at its start.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::agent::command;
use pilothouse_testkit::envoy::program;

/// What `--bootstrap-only` prints, with the usual ports.
fn printed(more: &[&str], environment: &[(&str, &str)]) -> String {
    let nobody = ([127, 0, 0, 1], 1).into();
    let mut command = command([127, 0, 0, 1].into(), Path::new("/none"), nobody, more);
    let output =
        command.arg("--bootstrap-only").envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Envoy takes it without a word of warning.
fn assert_valid(bootstrap: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("envoy.json"), bootstrap).unwrap();
    let mut envoy = Command::new(program());
    envoy.args(["--mode", "validate", "--log-level", "warning", "-c", "envoy.json"]);
    let output = envoy.current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{bootstrap}");
}

const POD: [(&str, &str); 6] = [
    ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
    ("ISTIO_META_CLUSTER_ID", "east"),
    ("ISTIO_METAJSON_LABELS", r#"{"app":"details","topology.kubernetes.io/zone":"zone-1"}"#),
    ("POD_NAMESPACE", "shop"),
    ("INSTANCE_IPS", "10.1.2.3,fd00::3"),
    ("PROXY_CONFIG", "discoveryAddress: istio-pilot.istio-system:15010"),
];

#[test]
fn it_is_this() {
    let printed = printed(&["--discovery-address=istio-pilot.istio-system:15010"], &POD);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/bootstrap.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &printed).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap();
    assert_eq!(printed, golden, "UPDATE_GOLDEN=1 writes {file} anew");
    assert_valid(&printed);
}

#[test]
fn every_variant_is_valid() {
    let variants: [&[&str]; 4] = [
        &["--xds=sotw", "--zone=z", "--region=r"],
        &["--instance-ip=fd00::1", "--discovery-address=[fd00::2]:15010"],
        &["--proxy-type=router", "--discovery-address=10.0.0.1:15010"],
        &["--discovery-address=pilot.example.org:443", "--instance-ip=fd00::1"],
    ];
    for flags in variants {
        assert_valid(&printed(flags, &[]));
    }
}

#[test]
fn tls_is_in_it_by_files_of_secrets() {
    for (mode, own) in [("certificate", "sds-certificate.json"), ("token", "sds-token.json")] {
        let text = printed(&[&format!("--tls={mode}"), "--xds=sotw"], &[]);
        for words in [own, "sds-ca.json", "\"sni\": \"127.0.0.1\"", "TLSv1_2", "\"h2\""] {
            let is_address = words.contains("sni");
            assert_eq!(text.contains(words), !is_address, "{words} in {text}");
        }
        let bootstrap: Value = serde_json::from_str(&text).unwrap();
        let cluster = &bootstrap["static_resources"]["clusters"][0];
        let context = &cluster["transport_socket"]["typed_config"]["common_tls_context"];
        let validation = &context["combined_validation_context"]["default_validation_context"];
        let wanted = &validation["match_typed_subject_alt_names"][0];
        assert_eq!(*wanted, json!({"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}));
    }
    let named = printed(&["--tls=token", "--tls-server-name=pilot.example"], &[]);
    assert!(named.contains("\"sni\": \"pilot.example\""), "{named}");
}

#[test]
fn a_file_is_laid_over_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("more.yaml");
    std::fs::write(
        &file,
        "node: {metadata: {TEAM: red}}\n\
         deferred_stat_options: null\n\
         static_resources:\n  clusters:\n  - {name: xds-grpc, connect_timeout: 3s}\n  \
         - {name: own, type: STATIC, connect_timeout: 1s}\n",
    )
    .unwrap();
    let text = printed(&[&format!("--template={}", file.display())], &[]);
    assert_valid(&text);
    let bootstrap: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bootstrap["node"]["metadata"]["TEAM"], "red");
    assert_eq!(bootstrap["node"]["metadata"]["NAME"], "details-0");
    assert!(bootstrap.get("deferred_stat_options").is_none(), "{bootstrap}");
    let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
    let names: Vec<&Value> = clusters.iter().map(|cluster| &cluster["name"]).collect();
    assert_eq!(json!(names), json!(["xds-grpc", "agent", "prometheus_stats", "own"]));
    assert_eq!(clusters[0]["connect_timeout"], "3s");
    assert!(clusters[0]["load_assignment"].is_object(), "the rest of it stays");
}

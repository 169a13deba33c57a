//! Compiles protobuf without a system `protoc`: the Envoy messages that are served or shown become one
//! descriptor set (`src/descriptors.rs`), from the `.proto` files that the `envoy-types` package brings,
//! so that the descriptors and the generated types can never be of two versions.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use protox::prost::Message;

/// Everything that is served, shown or may stand in an `Any` of what is served, and what a sidecar's
/// bootstrap is made of. Imports follow.
const ENVOY: [&str; 31] = [
    "envoy/admin/v3/config_dump.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/credential_injector/v3/credential_injector.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/extensions/http/injected_credentials/generic/v3/generic.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/on_demand/v3/on_demand.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/upstream_codec/v3/upstream_codec.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/cluster/v3/cds.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/endpoint/v3/eds.proto",
    "envoy/service/listener/v3/lds.proto",
    "envoy/service/route/v3/rds.proto",
    "envoy/service/status/v3/csds.proto",
];

/// The folders under `envoy-types`' `proto/` that imports are relative to.
const ROOTS: [&str; 7] = [
    "data-plane-api",
    "googleapis",
    "protoc-gen-validate",
    "xds",
    "cel-spec",
    "opentelemetry-proto",
    "client_model",
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    // Where the version of envoy-types stands.
    println!("cargo:rerun-if-changed=Cargo.lock");

    let set = envoy_descriptors(&envoy_protos()?)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("envoy.binpb");
    fs::write(out, set)?;
    Ok(())
}

/// About 200 KiB: without comments and positions, and (because `prost-types` keeps no extensions)
/// without validation rules. What is left is what JSON and gRPC reflection need.
fn envoy_descriptors(protos: &Path) -> Result<Vec<u8>> {
    let mut compiler = protox::Compiler::new(ROOTS.map(|root| protos.join(root)))?;
    compiler.include_imports(true).include_source_info(false).open_files(ENVOY)?;
    Ok(compiler.file_descriptor_set().encode_to_vec())
}

/// The `proto` folder of the very `envoy-types` that is being linked, wherever cargo keeps it
/// (registry, vendored, patched).
fn envoy_protos() -> Result<PathBuf> {
    let hint = "the .proto files of the envoy-types package were not found";
    // Offline first: it answers in milliseconds and is all that a vendored or fetched tree needs.
    // Cargo downloads no test dependencies for a plain build, though, and `metadata` wants them.
    let metadata = cargo_metadata(&["--offline"])
        .or_else(|_| cargo_metadata(&[]))
        .map_err(|error| format!("{hint}: {error}\nhelp: run `cargo fetch --locked` once"))?;
    let packages = metadata["packages"].as_array().ok_or(hint)?;
    let package = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .ok_or_else(|| format!("{hint}: `cargo metadata` does not list the package"))?;
    let manifest = Path::new(package["manifest_path"].as_str().ok_or(hint)?);
    let protos = manifest.with_file_name("proto");
    match protos.join(ROOTS[0]).is_dir() {
        true => Ok(protos),
        false => Err(format!(
            "{hint}: no {} in {}; this version packs them differently, see ROOTS in build.rs",
            ROOTS[0],
            protos.display()
        )
        .into()),
    }
}

fn cargo_metadata(flags: &[&str]) -> Result<serde_json::Value> {
    let run = Command::new(env::var_os("CARGO").ok_or("cargo did not set CARGO")?)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .args(flags)
        .current_dir(env::var("CARGO_MANIFEST_DIR")?)
        .output()?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        return Err(format!("`cargo metadata` failed: {}", said.trim()).into());
    }
    Ok(serde_json::from_slice(&run.stdout)?)
}

//! What is running: the one place for the version and the revision.

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision, if whoever built it set `PILOTHOUSE_GIT_REVISION` (the build of an image does;
/// a build must not depend on git being there).
pub const REVISION: Option<&str> = option_env!("PILOTHOUSE_GIT_REVISION");

/// What proxies show as `control_plane.identifier` (`docs/protocol.md`, rule 23), in the JSON
/// shape that istioctl reads.
pub fn control_plane_identifier() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    serde_json::json!({
        "Component": "pilothouse",
        "ID": host,
        "Info": { "version": VERSION },
    })
    .to_string()
}

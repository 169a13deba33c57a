//! What is running: the one place for the version and the revision.

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision, if whoever built it set `PILOTHOUSE_GIT_REVISION` (the build of an image does;
/// a build must not depend on git being there).
pub const REVISION: Option<&str> = option_env!("PILOTHOUSE_GIT_REVISION");

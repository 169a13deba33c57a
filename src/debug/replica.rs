//! Which control plane this is, among its replicas and before and after a restart.

use std::sync::LazyLock;
use std::time::SystemTime;

use super::milliseconds;

/// The replica's name: the pod's in a cluster, since that is its host name.
pub fn replica() -> &'static str {
    static REPLICA: LazyLock<String> = LazyLock::new(|| {
        std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or("localhost".into())
    });
    &REPLICA
}

/// The replica's name and since when it runs. Generations are counted by the process: they mean something only as
/// long as this stays the same.
pub fn instance() -> &'static str {
    static INSTANCE: LazyLock<String> =
        LazyLock::new(|| format!("{}/{}", replica(), milliseconds(SystemTime::now())));
    &INSTANCE
}

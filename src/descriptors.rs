//! Envoy's protobuf descriptors, for whatever looks at messages from outside: gRPC reflection and
//! protoJSON on the debug pages. The data path never comes here.
//!
//! Made by `build.rs` from the `.proto` files of the same `envoy-types` that is linked.

use std::sync::OnceLock;

use prost_reflect::{DescriptorError, DescriptorPool};

/// The encoded `FileDescriptorSet`, every import included.
pub fn encoded() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/envoy.binpb"))
}

/// The same, linked and looked up by name; made on first use (some 10 ms).
///
/// # Errors
/// Only if the build produced an inconsistent set; the tests read it, so a release cannot have one.
pub fn pool() -> Result<&'static DescriptorPool, &'static DescriptorError> {
    static POOL: OnceLock<Result<DescriptorPool, DescriptorError>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(encoded())).as_ref()
}

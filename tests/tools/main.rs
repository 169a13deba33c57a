//! Tools that people have, as they are: istioctl and grpcurl against the real program with real proxies.
//!
//! The tools are built from the Go module proxy, which takes minutes: so these tests are `make test-tools`
//! and no part of `make test`. A tool that is missing fails them.

#![cfg(feature = "tools-tests")]

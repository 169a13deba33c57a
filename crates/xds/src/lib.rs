//! The xDS protocol for servers: state of the world and delta as one state machine, without I/O.
//!
//! - [`Resource`]: a resource, encoded once; [`TypeSet`]: all resources of a type; [`View`]: the sets that
//!   one kind of proxy gets. All are immutable and shared; versions are hashes of the content, so they are
//!   equal on every replica.
//! - [`Session`]: the server's side of one stream. [`session::Session::handle_request`] takes a request,
//!   [`session::Session::next_response`] returns what to send for the current view.
//! - [`ServedType`]: what the protocol must know of a type. The user of the crate has a table of the types
//!   that it serves.
//! - [`FrameBuilder`] builds the responses as gRPC messages, and caches those that several streams need;
//!   [`Interner`] makes equal subscriptions one allocation.
//! - [`DiscoveryRequest`] decodes requests without copying their names.
//!
//! Nothing in it knows Kubernetes, Istio, a transport or a clock. What is left to its user, and why, is in
//! the README.

mod diff_cache;
pub mod discovery_request;
pub mod frame;
mod frame_cache;
pub mod peer_text;
mod resource;
mod resource_set;
mod resource_type;
mod rope;
mod segments;
pub mod session;
mod subscription;
mod view_change;
mod wire;

pub use diff_cache::SharedDiff;
pub use discovery_request::{DiscoveryRequest, MalformedRequest};
pub use frame::{Frame, FrameBuilder, FramePiece, FramePieces};
pub use resource::{Resource, Version};
pub use resource_set::{Diff, OnDemandNames, TypeSet, View};
pub use resource_type::{DiscoveryService, Role, ServedType, TypeIndex};
pub use rope::Rope;
pub use session::{Session, SessionLimits};
pub use subscription::{Change, Interner, Subscription};
pub use view_change::{NameFilter, ViewChange};

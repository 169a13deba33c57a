//! The listeners of both wings (a *door* in metrics and log): binding a socket, and how many connections each
//! may have. Accepting them with that limit is [`pilothouse_xds_server::listener`]'s.

mod bind;
pub mod descriptors;

pub use bind::{BindError, bind};
pub use pilothouse_xds_server::listener::{
    ConnectionCounters, ConnectionLimits, LimitedListener, ListenerStats, ServedListener,
};

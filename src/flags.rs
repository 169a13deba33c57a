//! What the values of flags may be: times, counts, addresses, names, log filters.
//!
//! Every command reads them here, so that a value means the same everywhere: 0 is "no limit" where
//! something is limited, and refused with a sentence where that could not be meant. The bounds are
//! wide, and narrow enough that no sum of times overflows.

mod address;
mod amount;
mod log;
mod name;

pub use address::{
    Listen, known_address, listen_address, listen_or_off, loopback_address, peer_address,
};
pub use amount::{
    count_limit, deadline, keepalive, memory, on_demand_timeout, or_any, or_forever, pace, pause,
    pause_in_seconds, request_bytes, requests, threads, time_limit, type_limit, watch_timeout,
};
pub use log::log_filter;
pub use name::{audience, domain, namespace, pod_name, trust_domain};

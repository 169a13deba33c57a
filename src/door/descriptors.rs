//! The limit of file descriptors, of which each connection takes one, and what each listener may use of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::ConnectionLimits;

/// Descriptors that are not for connections: of the runtime, the log, the source and the files that it reads.
const RESERVED: usize = 64;
/// The most connections of an HTTP listener, which probes, Prometheus and people share.
const MAX_HTTP: usize = 128;

/// How many connections each listener of a control plane may have. Together they cannot exhaust the
/// descriptors, so that probes are accepted whatever the other listeners do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// For proxies.
    pub grpc: ConnectionLimits,
    /// For the debug port, and the same for the monitoring port.
    pub http: ConnectionLimits,
}

/// Raises the soft limit of this process to its hard limit, and logs it.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            info!(
                "the limit of open files is {} now, it was {}",
                limit_text(maximum),
                limit_text(current)
            )
        }
        Err(error) => warn!(%error, "the limit of open files stays {}", limit_text(current)),
    }
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// The limits for `wanted` connections of proxies, less where the descriptors do not suffice.
#[must_use]
pub fn listener_limits(wanted: usize) -> ListenerLimits {
    let limit = getrlimit(Resource::Nofile).current;
    let listener_limits =
        limits_within(wanted, limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    let room = listener_limits.grpc.total;
    if room < wanted {
        info!(
            "there is room for {room} connections of proxies instead of {wanted}: the limit of open \
             files is {} (ulimit -Hn)",
            limit_text(limit)
        );
    }
    listener_limits
}

/// The limits of each of two listeners that have these together.
#[must_use]
pub fn halved(limits: ConnectionLimits) -> ConnectionLimits {
    let half = |limit: usize| (limit / 2).max(1);
    ConnectionLimits { total: half(limits.total), per_address: half(limits.per_address) }
}

/// The limits of an agent's one listener.
#[must_use]
pub fn agent_limits() -> ConnectionLimits {
    let limit = getrlimit(Resource::Nofile).current;
    limits_within(0, limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))).http
}

fn limits_within(wanted: usize, limit: Option<usize>) -> ListenerLimits {
    let left = limit.map_or(usize::MAX, |limit| limit - RESERVED.min(limit / 2));
    let http = MAX_HTTP.min(left / 8).max(1);
    let grpc = wanted.min(left.saturating_sub(2 * http));
    ListenerLimits {
        // Two thirds: many proxies may share one address, and the rest is for all others.
        grpc: ConnectionLimits { total: grpc, per_address: (grpc - grpc / 3).max(1) },
        http: ConnectionLimits { total: http, per_address: http - http / 4 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_for_probes_and_for_others() {
        let listener_limits = |wanted, limit| {
            let ListenerLimits { grpc, http } = limits_within(wanted, limit);
            let pair = |room: ConnectionLimits| (room.total, room.per_address);
            (pair(grpc), pair(http))
        };
        assert_eq!(listener_limits(20_000, None), ((20_000, 13_334), (128, 96)));
        assert_eq!(listener_limits(20_000, Some(1024)), ((720, 480), (120, 90)));
        assert_eq!(listener_limits(20_000, Some(64)), ((24, 16), (4, 3)));
        assert_eq!(listener_limits(1, Some(1024)), ((1, 1), (120, 90)));
        // Below this it does not start at all.
        for limit in 16..5000 {
            let ListenerLimits { grpc, http } = limits_within(20_000, Some(limit));
            let all = grpc.total + 2 * http.total;
            assert!(all + RESERVED.min(limit / 2) <= limit, "{limit}: {grpc:?} {http:?}");
        }
    }
}

//! How many files and sockets this process may have open: a connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::Room;

/// For what is no connection: the runtime, the log, the source and the files that it reads.
const OWN: usize = 64;
/// What an HTTP door is given at most: probes, Prometheus and people share it.
const HTTP: usize = 128;

/// How many connections each door of a control plane takes. Together they cannot use up the
/// descriptors, so that probes get in whatever comes to the other doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rooms {
    /// For proxies.
    pub grpc: Room,
    /// For the debug port, and the same for the monitoring port.
    pub http: Room,
}

/// Raises this process's limit to what it may raise it to by itself, and says so.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            info!("the limit of open files is {} now, it was {}", shown(maximum), shown(current))
        }
        Err(error) => warn!(%error, "the limit of open files stays {}", shown(current)),
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// Room for `wanted` connections of proxies, less where the descriptors do not suffice.
#[must_use]
pub fn rooms(wanted: usize) -> Rooms {
    let limit = getrlimit(Resource::Nofile).current;
    let rooms =
        rooms_within(wanted, limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    let room = rooms.grpc.connections;
    if room < wanted {
        info!(
            "there is room for {room} connections of proxies instead of {wanted}: the limit of open \
             files is {} (ulimit -Hn)",
            shown(limit)
        );
    }
    rooms
}

/// Room on the one door of an agent.
#[must_use]
pub fn room_of_agent() -> Room {
    let limit = getrlimit(Resource::Nofile).current;
    rooms_within(0, limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))).http
}

fn rooms_within(wanted: usize, limit: Option<usize>) -> Rooms {
    let left = limit.map_or(usize::MAX, |limit| limit - OWN.min(limit / 2));
    let http = HTTP.min(left / 8).max(1);
    let grpc = wanted.min(left.saturating_sub(2 * http));
    Rooms {
        // Two thirds: many proxies may stand behind one address, and all the others need the rest.
        grpc: Room { connections: grpc, of_one_address: (grpc - grpc / 3).max(1) },
        http: Room { connections: http, of_one_address: http - http / 4 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_for_probes_and_for_others() {
        let rooms = |wanted, limit| {
            let Rooms { grpc, http } = rooms_within(wanted, limit);
            let pair = |room: Room| (room.connections, room.of_one_address);
            (pair(grpc), pair(http))
        };
        assert_eq!(rooms(20_000, None), ((20_000, 13_334), (128, 96)));
        assert_eq!(rooms(20_000, Some(1024)), ((720, 480), (120, 90)));
        assert_eq!(rooms(20_000, Some(64)), ((24, 16), (4, 3)));
        assert_eq!(rooms(1, Some(1024)), ((1, 1), (120, 90)));
        // Below this it does not start at all.
        for limit in 16..5000 {
            let Rooms { grpc, http } = rooms_within(20_000, Some(limit));
            let all = grpc.connections + 2 * http.connections;
            assert!(all + OWN.min(limit / 2) <= limit, "{limit}: {grpc:?} {http:?}");
        }
    }
}

//! How many files and sockets this process may have open: a connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::Room;

/// For what is no connection of a proxy: probes, pages, the source, files that are read.
const RESERVE: usize = 256;

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

/// Room for the proxies' door: `wanted` connections, less where the descriptors do not suffice.
#[must_use]
pub fn room(wanted: usize) -> Room {
    let limit = getrlimit(Resource::Nofile).current;
    let room = room_within(wanted, limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    if room.connections < wanted {
        info!(
            "there is room for {} connections of proxies instead of {wanted}: the limit of open \
             files is {} (ulimit -Hn)",
            room.connections,
            shown(limit)
        );
    }
    room
}

fn room_within(wanted: usize, limit: Option<usize>) -> Room {
    let connections = match limit {
        Some(limit) => wanted.min(limit.saturating_sub(RESERVE).max(limit / 2)),
        None => wanted,
    };
    // Two thirds: many proxies may stand behind one address, and all the others need the rest.
    Room { connections, of_one_address: (connections - connections / 3).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_for_probes_and_for_others() {
        let room = |wanted, limit| {
            let Room { connections, of_one_address } = room_within(wanted, limit);
            (connections, of_one_address)
        };
        assert_eq!(room(20_000, None), (20_000, 13_334));
        assert_eq!(room(20_000, Some(1024)), (768, 512));
        assert_eq!(room(20_000, Some(64)), (32, 22));
        assert_eq!(room(1, Some(1024)), (1, 1));
    }
}

//! Whether the application beside the proxy is still there. Containers of a pod do not see each other's
//! processes, but they share the network, and the kernel shows every socket in it with its owner: what
//! does not belong to the proxy's user is the application's.

use rustix::process::getuid;

const TABLES: [&str; 4] =
    ["/proc/self/net/tcp", "/proc/self/net/tcp6", "/proc/self/net/udp", "/proc/self/net/udp6"];

/// Whether nobody but the proxy's user has a socket here. An application of that very user is not seen,
/// nor is one that has no socket.
pub(super) fn has_ended() -> bool {
    let own = getuid().as_raw();
    // A table of a family that the kernel lacks is not there.
    TABLES.iter().all(|table| {
        std::fs::read_to_string(table).map_or(true, |text| !has_socket_of_another_user(&text, own))
    })
}

/// Whether a table has a socket of another user that some process still holds: those that are closed and
/// finish their connection have no inode.
fn has_socket_of_another_user(table: &str, own: u32) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(7);
        let owner = fields.next().and_then(|uid| uid.parse::<u32>().ok());
        let inode = fields.nth(1).and_then(|inode| inode.parse::<u64>().ok());
        owner.is_some_and(|owner| owner != own) && inode.is_some_and(|inode| inode != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(state: &str, uid: u32, inode: u64) -> String {
        format!(
            "   0: 0100007F:2378 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
        )
    }

    #[test]
    fn sockets_of_other_users_are_the_applications() {
        let table = |lines: &[String]| format!("{HEAD}{}", lines.concat());
        let proxy = line("0A", 1337, 41);
        assert!(!has_socket_of_another_user(HEAD, 1337));
        assert!(!has_socket_of_another_user(&table(std::slice::from_ref(&proxy)), 1337));
        assert!(
            has_socket_of_another_user(&table(&[proxy.clone(), line("0A", 0, 42)]), 1337),
            "it listens"
        );
        assert!(
            has_socket_of_another_user(&table(&[line("01", 1000, 42)]), 1337),
            "it is connected"
        );
        // TIME_WAIT and orphans belong to nobody any more.
        assert!(!has_socket_of_another_user(
            &table(&[proxy, line("06", 0, 0), line("05", 0, 0)]),
            1337
        ));
        assert!(!has_socket_of_another_user("", 1337));
    }

    #[test]
    fn a_socket_of_this_process_is_its_own_users() {
        let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let table = std::fs::read_to_string(TABLES[0]).unwrap();
        assert!(has_socket_of_another_user(&table, getuid().as_raw() + 1));
    }
}

//! How much memory the process may use; the default limit of peers' memory follows from it.

use std::fs;

/// The files with the limit of the process's own control group, in a container: version 2, version 1.
const GROUP_LIMITS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Half of the memory that the process may use, bytes. Never zero.
pub fn half_of_limit() -> usize {
    usize::try_from(limit() / 2).unwrap_or(usize::MAX).max(1)
}

/// The memory that the process may use, bytes: its control group's limit, else what the machine has.
pub fn limit() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram as u64 * u64::from(machine.mem_unit);
    let group = GROUP_LIMITS.iter().filter_map(|path| parse_limit(&fs::read_to_string(path).ok()?));
    group.chain([machine]).min().unwrap_or(machine)
}

/// `None` for `max` and for what is no number.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_limit_counts_if_it_has_one() {
        assert_eq!(parse_limit("536870912\n"), Some(512 << 20));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit(""), None);
        assert!(half_of_limit() > 1 << 20, "{}", half_of_limit());
    }
}

//! Whether Envoy may bind ports below 1024: where it may not and listeners are bound, the control plane
//! must leave those out, or Envoy rejects all that comes with them. Istio's name for that is the metadata
//! `UNPRIVILEGED_POD`; there a person sets it, here the kernel is asked.

/// The first port that anybody may bind, unless the kernel says otherwise.
const DEFAULT_UNPRIVILEGED_PORT: u16 = 1024;
/// CAP_NET_BIND_SERVICE.
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// Whether this process, and so the Envoy that it starts, may not.
pub(super) fn is_unprivileged() -> bool {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    may_not_bind(&read("/proc/self/status"), &read("/proc/sys/net/ipv4/ip_unprivileged_port_start"))
}

fn may_not_bind(status: &str, first_free: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let first_free: u16 = first_free.trim().parse().unwrap_or(DEFAULT_UNPRIVILEGED_PORT);
    first_free > 1 && effective.is_none_or(|bits| bits & CAP_NET_BIND_SERVICE == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_or_the_kernels_setting_allows_it() {
        let status =
            |bits: &str| format!("Name:\tx\nCapPrm:\tffff\nCapEff:\t{bits}\nCapBnd:\tff\n");
        assert!(may_not_bind(&status("0000000000000000"), "1024\n"));
        assert!(may_not_bind(&status("000001fffffffbff"), "1024\n"));
        assert!(!may_not_bind(&status("0000000000000400"), "1024\n"));
        assert!(!may_not_bind(&status("0000000000000000"), "0\n"), "as containerd 2 sets it");
        assert!(may_not_bind(&status("0000000000000000"), "443\n"), "53 is still not free");
        assert!(may_not_bind("", ""));
    }
}

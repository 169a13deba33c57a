//! Addresses and ports that nobody else uses.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports by itself, so that nothing gets one of these
/// between the moment it is found free and the moment it is bound.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A loopback address that no other test of this run has.
pub fn address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [own_high, own_low] = (std::process::id() as u16).to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 254 * 4, "too many addresses for one run");
    // 127.64.0.0/10 and up: away from 127.0.0.0/16, which the samples and the system use.
    let second = 64 + (own_high & 0x2f) + (number / 254) as u8;
    Ipv4Addr::new(127, second, own_low, 1 + (number % 254) as u8).into()
}

/// A port that is free on every address.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16;
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

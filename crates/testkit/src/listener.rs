//! A fault from outside: a process loses a listening socket.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Shuts down the socket with which the process listens on this IPv4 address, as `ss -K` or a debugger
/// does. Nothing will be accepted on it any more.
///
/// # Panics
/// It does not listen there, or is not ours to look into.
pub fn lose(process: u32, address: SocketAddr) {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let wanted =
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let inode = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // State 0A listens.
        (fields[1] == wanted && fields[3] == "0A").then(|| fields[9].to_owned())
    });
    let name = format!("socket:[{}]", inode.unwrap_or_else(|| panic!("nobody on {address}")));
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let entry = entries
        .into_iter()
        .find(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == &*name));
    let entry = entry.unwrap_or_else(|| panic!("process {process} has no {name}"));
    let number = entry.file_name().to_str().unwrap().parse().unwrap();
    let id = Pid::from_raw(process.try_into().unwrap()).unwrap();
    let process = pidfd_open(id, PidfdFlags::empty()).unwrap();
    let socket: OwnedFd = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).unwrap();
    // It is no stream, but what is asked of it is the same system call.
    TcpStream::from(socket).shutdown(std::net::Shutdown::Both).unwrap();
}

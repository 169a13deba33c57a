//! What the program costs, by its process.

use crate::common::Process;

fn of(process: &Process, file: &str) -> String {
    format!("/proc/{}/{file}", process.id().expect("it runs"))
}

/// Resident memory, KiB.
pub(crate) fn memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(of(process, "status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Seconds of CPU that its threads have used.
pub(crate) fn cpu(process: &Process) -> f64 {
    let threads = std::fs::read_dir(of(process, "task")).unwrap();
    let nanos = threads.map(|thread| {
        // A thread may end in between.
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat"));
        let stat = stat.unwrap_or_default();
        stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0.0)
    });
    nanos.sum::<f64>() / 1e9
}

//! What the program costs, by its process.

use pilothouse_testkit::Process;

/// Resident memory, KiB.
pub(crate) fn memory(process: &Process) -> u64 {
    process.memory("VmRSS") as u64 >> 10
}

/// Seconds of CPU that its threads have used. From the scheduler, because `stat` counts hundredths.
pub(crate) fn cpu(process: &Process) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let nanos = threads.map(|thread| {
        // A thread may end in between.
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat"));
        let stat = stat.unwrap_or_default();
        stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0.0)
    });
    nanos.sum::<f64>() / 1e9
}

//! The figures as a table.

use clap::ValueEnum as _;

use crate::run::{Calls, Figures, Held};

pub(crate) fn print(all: &[Figures]) {
    row("", all, |one| {
        one.mode.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default()
    });
    row("start to ready, ms", all, |one| format!("{:.0}", one.ready_after));
    let held = |name: &str, of: fn(&Figures) -> &Held| {
        row(&format!("{name}: clusters"), all, |one| of(one).clusters.to_string());
        row(&format!("{name}: anonymous memory, MB"), all, |one| mb(of(one).memory as f64));
        row(&format!("{name}: received, MB"), all, |one| {
            format!("{:.3}", of(one).received as f64 / 1e6)
        });
    };
    held("at ready", |one| &one.at_ready);
    held("after its calls", |one| &one.after_calls);
    let calls = |name: &str, of: fn(&Figures) -> &Calls| {
        row(&format!("{name}: first request, p50 / p99 ms"), all, |one| spread(&of(one).first));
        row(&format!("{name}: second request"), all, |one| spread(&of(one).second));
        row(&format!("{name}: first TCP connection"), all, |one| spread(&of(one).first_tcp));
        row(&format!("{name}: second TCP connection"), all, |one| spread(&of(one).second_tcp));
    };
    calls("at rest", |one| &one.at_rest);
    calls("under changes", |one| &one.under_changes);
    row("changes a second", all, |one| format!("{:.0}", one.changes));
    row("  received a second, KB", all, |one| format!("{:.0}", one.received / 1e3));
    row("  CPU of Envoy", all, |one| format!("{:.1}%", one.envoy_cpu * 100.0));
    row("  CPU of the control plane", all, |one| format!("{:.1}%", one.control_cpu * 100.0));
    held("at the end", |one| &one.at_end);
    row("calls, of which failed", all, |one| format!("{}, {}", one.calls, one.failures.len()));
    for failure in all.iter().flat_map(|one| &one.failures).take(10) {
        println!("{failure}");
    }
    let failed = all.iter().any(|one| !one.failures.is_empty());
    assert!(!failed, "calls failed, to endpoints that live");
}

fn row(name: &str, all: &[Figures], figure: impl Fn(&Figures) -> String) {
    print!("{name:<44}");
    for one in all {
        print!(" {:>16}", figure(one));
    }
    println!();
}

fn mb(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

fn spread(of: &pilothouse_testkit::spread::Spread) -> String {
    format!("{:.1} / {:.1}", of.p50, of.p99)
}

//! What is logged. `tracing_subscriber` takes any word for the name of a part of the program, so
//! that a mistyped level would leave no log at all.

use tracing::level_filters::LevelFilter;

/// The parts of this program that log.
const PARTS: [&str; 30] = [
    "ads",
    "agent",
    "app",
    "cli",
    "debug",
    "descriptors",
    "doctor",
    "door",
    "escape",
    "flags",
    "http_server",
    "inject",
    "iptables",
    "logging",
    "metrics",
    "model",
    "names",
    "output",
    "parts",
    "proxies",
    "publish",
    "signals",
    "snapshot",
    "source",
    "subscription",
    "translate",
    "version",
    "view",
    "wire",
    "yaml",
];

/// The crates that the program is made of, of which some log.
const CRATES: &str = include_str!("../../Cargo.lock");

/// Directives with commas between them, each a level or `PART=LEVEL`. Before them stands one that
/// they can overrule: `notify` warns whenever a folder goes that it watches, which is what happens
/// each time a ConfigMap changes.
///
/// # Errors
/// The directive that names neither.
pub fn log_filter(text: &str) -> Result<String, String> {
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let directives: Vec<&str> = directives.collect();
    if directives.is_empty() {
        return Err("it must name a level (off, error, warn, info, debug or trace)".to_owned());
    }
    for directive in &directives {
        let (part, level) = match directive.split_once('=') {
            Some((part, level)) => (Some(part), level),
            None if is_part(directive) => continue,
            None => (None, *directive),
        };
        if level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{directive:?} names neither a level (off, error, warn, info, debug or trace) nor \
                 a part of this program (as in pilothouse::ads=debug)"
            ));
        }
        if let Some(part) = part
            && !is_part(part)
        {
            return Err(format!(
                "{part:?} is no part of this program: they are pilothouse, pilothouse::ads, \
                 pilothouse::source and so on, and the crates it is made of, like kube_client"
            ));
        }
    }
    Ok(format!("notify=off,{}", directives.join(",")))
}

/// Whether anything in the program may log by this name.
fn is_part(target: &str) -> bool {
    let mut names = target.split("::");
    let (first, second) = (names.next().unwrap_or_default(), names.next());
    match (first, second) {
        ("pilothouse", Some(part)) => PARTS.contains(&part),
        ("pilothouse", None) => true,
        (other, _) => crates().any(|name| name.replace('-', "_") == other),
    }
}

fn crates() -> impl Iterator<Item = &'static str> {
    let lines = CRATES.lines().filter_map(|line| line.strip_prefix("name = \""));
    lines.filter_map(|rest| rest.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_parts_of_the_program_are_known() {
        for good in [
            "info",
            "OFF",
            "warn,pilothouse::ads=debug",
            "info,kube_client=off,kube_runtime=off",
            "info,",
            "pilothouse",
            "pilothouse::source::files=trace",
            "error, hyper_util::client=debug",
        ] {
            let filter = log_filter(good).unwrap();
            assert!(filter.starts_with("notify=off,"), "{filter}");
            assert!(tracing_subscriber::EnvFilter::try_new(&filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn what_would_leave_no_log_is_refused() {
        for (wrong, word) in [
            ("", "must name a level"),
            (" , ", "must name a level"),
            ("inof", "\"inof\" names neither"),
            ("info,inof", "\"inof\" names neither"),
            ("pilothous=debug", "\"pilothous\" is no part"),
            ("pilothouse::adz=debug", "\"pilothouse::adz\" is no part"),
            ("pilothouse=dbug", "\"pilothouse=dbug\" names neither"),
            ("[span]=debug", "is no part"),
        ] {
            let error = log_filter(wrong).unwrap_err();
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_module_is_among_the_parts() {
        let modules = include_str!("../lib.rs").lines().filter_map(|line| {
            line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
        });
        let missing: Vec<_> = modules.filter(|module| !PARTS.contains(module)).collect();
        assert_eq!(missing, [""; 0]);
    }
}

//! What is logged. `tracing_subscriber` takes any word for the name of a part of the program, so
//! that a mistyped level would leave no log at all.

use tracing::level_filters::LevelFilter;

/// The parts of this program that log.
const PARTS: &[&str] = &[
    "ads",
    "app",
    "causes",
    "certificates",
    "changes",
    "cli",
    "debug",
    "descriptors",
    "door",
    "escape",
    "events",
    "exposition",
    "file_watch",
    "flags",
    "http_server",
    "identity",
    "kubeconfig",
    "local_host",
    "logging",
    "metrics",
    "model",
    "monitoring",
    "names",
    "operator",
    "output",
    "parts",
    "program",
    "proxies",
    "publish",
    "readiness",
    "route_status",
    "sidecar",
    "signals",
    "snapshot",
    "source",
    "translate",
    "version",
    "view",
    "well_known",
    "yaml",
];

/// Parts that stood at the top before they were `sidecar`'s: who names them still means them.
const OF_SIDECAR: [&str; 4] = ["agent", "doctor", "inject", "iptables"];

/// Parts of which all or most stands in the crate of the server today: who names them means that too.
const OF_SERVER: [(&str, &str); 3] = [
    ("ads", "pilothouse_xds_server"),
    ("door", "pilothouse_xds_server::listener"),
    ("proxies", "pilothouse_xds_server::proxies"),
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
    let directives: Vec<String> = directives.flat_map(with_present_names).collect();
    if directives.is_empty() {
        return Err("it must name a level (off, error, warn, info, debug or trace)".to_owned());
    }
    for directive in &directives {
        let (part, level) = match directive.split_once('=') {
            Some((part, level)) => (Some(part), level),
            None if is_part(directive) => continue,
            None => (None, directive.as_str()),
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

/// The directive, with the names that a moved part has today.
fn with_present_names(directive: &str) -> Vec<String> {
    let rest = directive.strip_prefix("pilothouse::").unwrap_or_default();
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (part, below) = rest.split_at(end);
    if OF_SIDECAR.contains(&part) {
        return vec![format!("pilothouse::sidecar::{rest}")];
    }
    let of_server = OF_SERVER.iter().find(|(moved, _)| *moved == part);
    let of_server = of_server.map(|(_, present)| format!("{present}{below}"));
    std::iter::once(directive.to_owned()).chain(of_server).collect()
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
    fn the_former_names_of_the_sidecars_parts_are_understood() {
        let filter = log_filter("info,pilothouse::agent::readiness=debug,pilothouse::doctor");
        let present = "notify=off,info,pilothouse::sidecar::agent::readiness=debug,\
                       pilothouse::sidecar::doctor";
        assert_eq!(filter.as_deref(), Ok(present));
        assert!(log_filter("pilothouse::agents=debug").is_err());
    }

    #[test]
    fn who_names_a_part_of_the_server_means_its_crate_too() {
        let filter = log_filter("warn,pilothouse::ads=debug,pilothouse::door").unwrap();
        let present = "notify=off,warn,pilothouse::ads=debug,pilothouse_xds_server=debug,\
                       pilothouse::door,pilothouse_xds_server::listener";
        assert_eq!(filter, present);
        let below = log_filter("pilothouse::ads::http::connection_task=trace").unwrap();
        assert!(below.ends_with(",pilothouse_xds_server::http::connection_task=trace"), "{below}");
        // A filter holds for all targets that begin with its name, the crate's as well.
        assert!(is_logged("warn,pilothouse=debug") && is_logged(&filter));
        assert!(!is_logged("warn,pilothouse::source=debug"));
    }

    /// Whether something that the server's crate logs at the level debug passes the filter.
    fn is_logged(filter: &str) -> bool {
        use tracing_subscriber::layer::SubscriberExt as _;
        let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap();
        let subscriber = tracing_subscriber::registry().with(filter);
        tracing::subscriber::with_default(
            subscriber,
            || tracing::enabled!(target: "pilothouse_xds_server::stream", tracing::Level::DEBUG),
        )
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

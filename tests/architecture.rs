//! Holds who may use whom, by reading the `use crate::` lines (and `crate::` paths) of each module.

// A test that cannot read the sources has failed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Module and what it may use: top-level ones, and the rooms of the sidecar's wing.
const MAY_USE: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("well_known", &[]),
    ("kubeconfig", &["causes"]),
    ("flags", &["names"]),
    ("view", &["names"]),
    ("identity", &["causes", "kubeconfig", "names"]),
    ("yaml", &[]),
    ("version", &[]),
    ("descriptors", &[]),
    ("model", &["names", "well_known"]),
    ("changes", &["model"]),
    ("file_watch", &[]),
    ("certificates", &["file_watch"]),
    ("source", &["causes", "file_watch", "kubeconfig", "model", "names", "yaml"]),
    ("translate", &["model", "names", "view", "well_known"]),
    ("snapshot", &["view"]),
    ("publish", &["changes", "model", "translate", "snapshot", "view", "names", "metrics"]),
    // Of any process.
    ("causes", &[]),
    ("readiness", &[]),
    ("door", &[]),
    ("escape", &[]),
    ("exposition", &[]),
    ("http_server", &["door"]),
    ("local_host", &[]),
    ("logging", &["escape", "output", "parts"]),
    ("output", &[]),
    ("parts", &[]),
    ("signals", &[]),
    ("ads", &["identity", "snapshot", "view", "names", "proxies", "metrics"]),
    ("proxies", &["identity", "view"]),
    ("monitoring", &["door", "exposition", "http_server", "readiness", "version"]),
    // Readers of everything, writers of nothing.
    (
        "metrics",
        &[
            "certificates",
            "door",
            "identity",
            "logging",
            "model",
            "names",
            "proxies",
            "snapshot",
            "source",
            "version",
        ],
    ),
    (
        "debug",
        &[
            "certificates",
            "changes",
            "descriptors",
            "identity",
            "local_host",
            "model",
            "monitoring",
            "names",
            "proxies",
            "readiness",
            "route_status",
            "snapshot",
            "source",
            "version",
            "view",
        ],
    ),
    (
        "events",
        &["causes", "escape", "kubeconfig", "metrics", "model", "names", "proxies", "snapshot"],
    ),
    ("route_status", &["causes", "kubeconfig", "metrics", "model"]),
    (
        "app",
        &[
            "ads",
            "certificates",
            "debug",
            "descriptors",
            "door",
            "events",
            "http_server",
            "identity",
            "metrics",
            "monitoring",
            "names",
            "parts",
            "proxies",
            "publish",
            "readiness",
            "route_status",
            "snapshot",
            "source",
            "version",
            "view",
        ],
    ),
    // The sidecar's wing: the control plane is met over the network only.
    ("sidecar", &[]),
    ("sidecar::credentials", &["causes", "sidecar::host_port"]),
    ("sidecar::host_port", &["well_known"]),
    ("sidecar::http_client", &["causes"]),
    ("sidecar::envoy_admin", &["names", "sidecar::http_client", "well_known"]),
    ("sidecar::proto_value", &[]),
    (
        "sidecar::agent",
        &[
            "causes",
            "descriptors",
            "door",
            "exposition",
            "flags",
            "http_server",
            "names",
            "output",
            "parts",
            "readiness",
            "sidecar::credentials",
            "sidecar::doctor",
            "sidecar::envoy_admin",
            "sidecar::host_port",
            "sidecar::http_client",
            "sidecar::proto_value",
            "signals",
            "version",
            "well_known",
            "yaml",
        ],
    ),
    ("sidecar::iptables", &["output", "well_known"]),
    (
        "sidecar::inject",
        &[
            "flags",
            "names",
            "output",
            "sidecar::agent",
            "sidecar::host_port",
            "sidecar::iptables",
            "well_known",
            "yaml",
        ],
    ),
    (
        "sidecar::injector",
        &[
            "causes",
            "door",
            "flags",
            "http_server",
            "kubeconfig",
            "monitoring",
            "output",
            "parts",
            "readiness",
            "sidecar::credentials",
            "sidecar::inject",
            "yaml",
        ],
    ),
    (
        "sidecar::doctor",
        &[
            "causes",
            "escape",
            "flags",
            "kubeconfig",
            "names",
            "output",
            "sidecar::credentials",
            "sidecar::envoy_admin",
            "sidecar::host_port",
            "sidecar::http_client",
            "sidecar::proto_value",
            "well_known",
        ],
    ),
    // The operator's, likewise; the page of the debug port is handed to it by whoever starts it.
    (
        "operator",
        &[
            "causes",
            "door",
            "escape",
            "flags",
            "http_server",
            "kubeconfig",
            "local_host",
            "output",
            "signals",
            "well_known",
        ],
    ),
    (
        "cli",
        &[
            "ads",
            "app",
            "certificates",
            "flags",
            "identity",
            "names",
            "operator",
            "publish",
            "sidecar::agent",
            "sidecar::doctor",
            "sidecar::inject",
            "sidecar::injector",
            "sidecar::iptables",
            "source",
            "view",
            "well_known",
        ],
    ),
    (
        "program",
        &[
            "app",
            "cli",
            "debug",
            "door",
            "logging",
            "operator",
            "output",
            "parts",
            "sidecar::agent",
            "sidecar::doctor",
            "sidecar::inject",
            "sidecar::injector",
            "sidecar::iptables",
            "signals",
            "version",
        ],
    ),
];

#[test]
fn modules_use_only_what_they_may() {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut problems = Vec::new();
    let mut used_by: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in files(&src) {
        if module == "main" || module == "lib" {
            continue;
        }
        let Some(may_use) = allowed.get(module.as_str()) else {
            problems.push(format!("module {module} is not in the list of tests/architecture.rs"));
            continue;
        };
        let used = uses(&fs::read_to_string(&file).unwrap());
        for used in &used {
            if *used != module && !may_use.contains(&used.as_str()) {
                problems.push(format!("{}: {module} must not use {used}", file.display()));
            }
        }
        used_by.entry(module).or_default().extend(used);
    }
    for (module, may_use) in allowed {
        let Some(used) = used_by.get(module) else {
            problems.push(format!("module {module} of the list is gone"));
            continue;
        };
        for grant in may_use.iter().filter(|grant| !used.contains(**grant)) {
            problems.push(format!("{module} may use {grant} and does not: take the grant away"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The files of each room of the sidecar's wing, by the names at its top.
#[test]
fn the_modules_of_a_room_use_each_other_in_no_circle() {
    let wing = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sidecar");
    for room in ["agent", "doctor", "inject", "injector", "iptables"] {
        let folder = wing.join(room);
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, file) in files(&folder) {
            let depth = file.strip_prefix(&folder).unwrap().iter().count();
            let text = fs::read_to_string(&file).unwrap();
            let own = uses.entry(module.clone()).or_default();
            let siblings = siblings(&text, depth, room).into_iter();
            own.extend(
                siblings.filter(|one| *one != module && folder.join(format!("{one}.rs")).exists()),
            );
        }
        // What uses nothing that is left is taken away, until nothing or a circle is left.
        loop {
            let known: BTreeSet<String> = uses.keys().cloned().collect();
            let before = uses.len();
            uses.retain(|_, used| used.intersection(&known).next().is_some());
            if uses.len() == before {
                break;
            }
        }
        assert!(uses.is_empty(), "a circle in {room}: {uses:?}");
    }
}

/// The modules of its own room that a file names, which lies `depth` folders below the room's own.
fn siblings(text: &str, depth: usize, room: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let (above, by_crate) = ("super::".repeat(depth), format!("crate::sidecar::{room}::"));
    let places = code.match_indices(above.as_str()).filter(|(at, _)| {
        !code[..*at].ends_with("super::") && !code[at + above.len()..].starts_with("super::")
    });
    let ends = places.map(|(at, found)| at + found.len());
    let ends = ends.chain(code.match_indices(&by_crate).map(|(at, found)| at + found.len()));
    ends.flat_map(|end| {
        let rest = &code[end..];
        let several = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let names = several.unwrap_or(rest).split(',').take(several.map_or(1, |_| usize::MAX));
        names
            .map(|name| {
                let in_name = |c: char| c.is_alphanumeric() || c == '_';
                name.trim().split(|c| !in_name(c)).next().unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

/// Module and file, for every Rust file that is not a test.
fn files(src: &Path) -> Vec<(String, std::path::PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let inside = path.strip_prefix(src).unwrap();
                let names = inside.with_extension("");
                let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
                found.push((module(&names), path));
            }
        }
    }
    found
}

/// What a path of names is a part of: its first one, and in the sidecar's wing the first two.
fn module(path: &[impl AsRef<str>]) -> String {
    match path {
        [wing, room, ..] if wing.as_ref() == "sidecar" => format!("sidecar::{}", room.as_ref()),
        [first, ..] => first.as_ref().to_owned(),
        [] => String::new(),
    }
}

/// The modules behind `crate::`, up to the file's inline tests; comments and docs do not count.
fn uses(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    paths.flat_map(named).collect()
}

/// The modules that the rest of a path after `crate::` names: one, or several in braces.
fn named(rest: &str) -> Vec<String> {
    let in_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let path = rest.split(|c| !in_name(c)).next().unwrap_or_default();
    let mut names: Vec<&str> = path.split("::").filter(|name| !name.is_empty()).collect();
    let several = rest[path.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
    let (Some(several), [] | ["sidecar"]) = (several, names.as_slice()) else {
        return vec![module(&names)];
    };
    let lasts = several.split(',').map(|last| last.trim().split("::").next().unwrap_or_default());
    lasts
        .map(|last| {
            names.push(last);
            let found = module(&names);
            names.pop();
            found
        })
        .collect()
}

#[test]
fn a_module_is_named_alone_and_in_braces() {
    let used = uses(
        "use crate::names;\nuse crate::sidecar::agent::{self, Args};\n\
         use crate::sidecar::{doctor, inject};\npub use crate::{door, view::View};",
    );
    let expected =
        ["door", "names", "sidecar::agent", "sidecar::doctor", "sidecar::inject", "view"];
    assert_eq!(used, expected.map(str::to_owned).into());
}

/// A log macro's arguments are not evaluated where its level is off, so nothing may happen in them.
#[test]
fn nothing_happens_in_the_arguments_of_a_log_macro() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = ["src", "crates/xds-server/src"].map(|folder| root.join(folder));
    let happens =
        [".await", ".next()", ".take()", "fetch_", ".insert(", ".send(", ".recv(", "&mut ", "?;"];
    let mut problems = Vec::new();
    for (_, file) in sources.iter().flat_map(|folder| files(folder)) {
        let text = fs::read_to_string(&file).unwrap();
        for arguments in log_arguments(&text) {
            for what in happens.iter().filter(|what| arguments.contains(**what)) {
                problems.push(format!("{}: {what} in the log macro {arguments}", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // The case that ended the program at once.
    let found = log_arguments("info!(\"{}: ending\", asked().await);\nlet x = 1;");
    assert_eq!(found, ["\"{}: ending\", asked().await"]);
}

/// What stands between the parentheses of each log macro.
fn log_arguments(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for name in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for (at, _) in text.match_indices(name) {
            let rest = &text[at + name.len()..];
            let mut depth = 1;
            let end = rest.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            found.extend(end.map(|end| &rest[..end]));
        }
    }
    found
}

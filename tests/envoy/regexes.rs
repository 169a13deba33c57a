//! Regular expressions of routes: what passes the check, Envoy's RE2 takes, and its program is not larger than it
//! is taken for.

use std::process::Command;

use pilothouse::model::route::regex::program_size;
use pilothouse_testkit::envoy;
use serde_json::{Value, json};

/// Pieces of which random expressions are made; `R` stands for another one.
const PIECES: [&str; 40] = [
    "a",
    "/",
    "abc",
    ".",
    "\\.",
    "\\d",
    "\\W",
    "\\s",
    "[^/]",
    "[a-z0-9_.-]",
    "[[:alpha:]]",
    "[^[:^space:]x]",
    "[]a]",
    "[a-]",
    "(R)",
    "(?:R)",
    "(?P<n>R)",
    "(?i)",
    "(?i:R)",
    "(?s:.)",
    "(?U)",
    "(?m)^",
    "R|R",
    "R|",
    "(R)*",
    "(R)+",
    "(?:R)?",
    "(R)*?",
    "[ab]{3}",
    "(R){2}",
    "(R){0,4}",
    "(R){1,}",
    "(?:R){2,3}?",
    "^",
    "$",
    "\\b",
    "\\x41",
    "\\-",
    "\\_",
    "\\{",
];

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

fn random(dice: &mut Dice, depth: usize) -> String {
    let mut text = String::new();
    for _ in 0..=dice.below(3) {
        let piece = PIECES[dice.below(PIECES.len())];
        for part in piece.split_inclusive('R') {
            match part.strip_suffix('R') {
                Some(before) if depth > 0 => {
                    text += &format!("{before}{}", random(dice, depth - 1))
                }
                Some(before) => text += &format!("{before}z"),
                None => text += part,
            }
        }
    }
    text
}

/// An Envoy's configuration with a route for each expression, whose program may be as large as it is taken for.
fn configuration(regexes: &[(String, usize)]) -> Value {
    let route = |(regex, size): &(String, usize)| {
        json!({ "match": { "safe_regex": { "regex": regex, "google_re2": { "max_program_size": size } } },
            "direct_response": { "status": 200 } })
    };
    let manager =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "envoy.extensions.filters.http.router.v3.Router";
    json!({ "static_resources": { "listeners": [{
        "name": "it", "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": {
            "@type": format!("type.googleapis.com/{manager}"), "stat_prefix": "it",
            "http_filters": [{ "name": "router",
                "typed_config": { "@type": format!("type.googleapis.com/{router}") } }],
            "route_config": { "virtual_hosts": [{ "name": "it", "domains": ["*"],
                "routes": regexes.iter().map(route).collect::<Vec<_>>() }] },
        } }] }],
    }] } })
}

#[test]
fn what_passes_the_check_passes_envoy() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut regexes = Vec::new();
    while regexes.len() < 5000 {
        let regex = random(&mut dice, 2);
        // Larger ones are as likely to be wrong, and slow.
        if let Ok(size) = program_size(&regex)
            && size <= 2000
        {
            regexes.push((regex, size));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.json");
    std::fs::write(&file, configuration(&regexes).to_string()).unwrap();
    let mut validate = Command::new(envoy::program());
    let output =
        validate.args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", &said[said.len().saturating_sub(2000)..]);
    // It can fail: one that is larger than it says.
    std::fs::write(&file, configuration(&[("a{50}".to_owned(), 40)]).to_string()).unwrap();
    let mut validate = Command::new(envoy::program());
    let refused =
        validate.args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
}

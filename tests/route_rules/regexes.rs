//! Regular expressions as RE2 has them in Envoy: of bytes.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::bytes::Regex;

/// Compiled once in a thread: that takes longer than everything else here.
pub(crate) fn re2(regex: &str) -> Regex {
    thread_local!(static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default());
    KNOWN.with_borrow_mut(|known| {
        // In RE2 a byte.
        let compile = || Regex::new(&regex.replace(r"\C", "(?s-u:.)")).unwrap();
        known.entry(regex.to_owned()).or_insert_with(compile).clone()
    })
}

/// The whole text matches.
pub(crate) fn is_whole(regex: &str, text: &str) -> bool {
    re2(&format!("^(?:{regex})$")).is_match(text.as_bytes())
}

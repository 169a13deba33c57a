//! What is wrong with YAML, in words for whoever wrote it. The library's own are partly about its
//! settings, which are no business of theirs.

use serde_saphyr::{Error, UserMessageFormatter};

pub const TEMPLATE: &str =
    "{{ is of a Helm template, which is to be rendered first: helm template CHART";

const TOO_MUCH: &str = "it is nested deeper, or repeats more by anchors, aliases and merge keys (<<), \
                        than the limit that keeps a small file from filling the memory: write it out";

/// The error; `text` is what was read.
pub fn explain(error: &Error, text: &[u8]) -> String {
    let said = error.render_with_formatter(&UserMessageFormatter);
    let said = if said.contains("untagged enum") {
        "not a YAML mapping with names as its keys".to_owned()
    } else if said.starts_with("YAML document too large or too complex") {
        let place = [" (defined at", " at line"].iter().find_map(|word| said.find(word));
        format!("{TOO_MUCH}{}", place.map_or("", |at| &said[at..]))
    } else {
        said
    };
    match text.windows(2).position(|two| two == b"{{") {
        Some(at) => {
            let line = text[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line}: {TEMPLATE} ({said})")
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(text: &str) -> String {
        let error = serde_saphyr::from_str::<serde_json::Value>(text).unwrap_err();
        explain(&error, text.as_bytes())
    }

    #[test]
    fn a_helm_template_is_recognised_and_what_to_do_is_said() {
        for template in ["a: b\nname: {{ .Values.name }}-x\n", "a: b\nport: {{ .Values.port }}\n"] {
            let said = explained(template);
            assert!(said.starts_with("line 2: {{ is of a Helm template"), "{said}");
            assert!(said.contains("helm template CHART"), "{said}");
        }
    }

    #[test]
    fn the_librarys_settings_are_not_mentioned() {
        for wrong in ["a: 1\na: 2\n", "a: *b\n", "<<: 1\n", "a: !!binary x\n", "a: [", "\t{"] {
            let said = explained(wrong);
            let leaked = ["Options", "Policy", "untagged", "serde", "enum"];
            assert!(leaked.iter().all(|word| !said.contains(word)), "{wrong:?}: {said}");
        }
        assert!(explained("a: 1\na: 2\n").contains("duplicate"));
    }
}

//! The diagnosis for people: the path link by link, the cause, what to do.

use std::fmt;

use super::finding::{Diagnosis, LinkState, Outcome};
use crate::escape::line;

/// Longer than this a line of it is not worth reading; `--json` has all of it.
const LINE: usize = 120;

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.links.iter().map(|link| link.name.len()).max().unwrap_or_default();
        for (number, link) in self.links.iter().enumerate() {
            if number > 0 {
                let whole = link.state != LinkState::Broken;
                writeln!(f, "  {}", if whole { "│" } else { "╳" })?;
            }
            let mark = match link.state {
                LinkState::Well => "ok",
                LinkState::Broken => "BROKEN",
                LinkState::Unknown => "?",
            };
            let said: String = line(&link.said).chars().take(LINE).collect();
            let millis = link.took.as_micros() as f64 / 1e3;
            writeln!(f, "  {:width$}  {mark:6}  {millis:8.1} ms  {said}", link.name)?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "Note:  {}.", line(note))?;
        }
        let verdict = match self.outcome {
            Outcome::Well => "Well: ",
            Outcome::Broken => "Cause:",
            Outcome::Unknown => "Could not tell:",
        };
        writeln!(f, "{verdict} {}. [{}]", line(&self.cause), self.code.as_str())?;
        if !self.fix.is_empty() {
            writeln!(f, "Fix:   {}.", line(&self.fix))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::{Code, Link};
    use super::*;

    #[test]
    fn what_others_say_is_escaped() {
        let said = "NACK\nWell:  all is well. [all_well]\u{1b}[2J".to_owned();
        let diagnosis = Diagnosis {
            code: Code::NameServerSilent,
            outcome: Outcome::Broken,
            cause: said.clone(),
            fix: said.clone(),
            links: Vec::new(),
            notes: vec![said],
            took: Duration::ZERO,
        };
        let text = diagnosis.to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("NACK\\nWell:"), "{text}");
    }

    #[test]
    fn the_broken_link_is_marked() {
        let link = |name, state, said: &str, micros| Link {
            name,
            state,
            said: said.to_owned(),
            took: Duration::from_micros(micros),
        };
        let diagnosis = Diagnosis {
            code: Code::NameServerSilent,
            outcome: Outcome::Broken,
            cause: "nobody answers".to_owned(),
            fix: "do this".to_owned(),
            links: vec![
                link("Envoy", LinkState::Well, "lives", 2300),
                link("name server", LinkState::Broken, "10.96.0.10: no answer", 1_500_100),
            ],
            notes: vec!["a thing".to_owned()],
            took: Duration::ZERO,
        };
        assert_eq!(
            diagnosis.to_string(),
            "  Envoy        ok           2.3 ms  lives\n  ╳\n  name server  BROKEN    1500.1 ms  \
             10.96.0.10: no answer\n\nNote:  a thing.\nCause: nobody answers. \
             [name_server_silent]\nFix:   do this.\n"
        );
    }
}

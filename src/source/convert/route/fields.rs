//! Fields of an object read by name, each with its path, and what is found to be wrong with them.
//!
//! Two sorts of trouble are told apart, because a manifest never met an API server: what the CRD's schema and
//! rules would have refused ([`Findings::invalid`]), and what they let pass though nobody here can serve it
//! ([`Findings::unserved`]).

use serde_json::{Map, Value};

use super::super::Rejection;
use crate::model::route::{AcceptedReason, Refusal};

/// More are only counted: nobody reads so many, and a status has a limit.
const MAX_PROBLEMS: usize = 16;
/// How much of a value is repeated in a message, in characters.
const MAX_SHOWN: usize = 80;

#[derive(Debug)]
struct Problem {
    at: Rejection,
    reason: AcceptedReason,
    /// The CRD would have refused it.
    invalid: bool,
}

/// What is wrong with an object, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    /// How many are not among `problems`.
    omitted: usize,
    notes: Vec<Rejection>,
}

impl Findings {
    /// Something that the API does not allow.
    pub(super) fn invalid(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.add(path, reason, AcceptedReason::UnsupportedValue, true);
    }

    /// Filters that the API does not allow together.
    pub(super) fn incompatible(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.add(path, reason, AcceptedReason::IncompatibleFilters, true);
    }

    /// Something that the API allows, and that is not served.
    pub(super) fn unserved(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.add(path, reason, AcceptedReason::UnsupportedValue, false);
    }

    /// Something that is ignored, as the API wants it.
    pub(super) fn note(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        if self.notes.len() < MAX_PROBLEMS {
            self.notes.push(Rejection::new(path, reason));
        }
    }

    fn add(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        accepted: AcceptedReason,
        invalid: bool,
    ) {
        if self.problems.len() < MAX_PROBLEMS {
            let at = Rejection::new(path, reason);
            self.problems.push(Problem { at, reason: accepted, invalid });
        } else {
            self.omitted += 1;
        }
    }

    /// Why the whole route is not served, if anything is wrong.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let first = self.problems.first()?;
        let more = match self.problems.len() - 1 + self.omitted {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!("{}{more}", first.at).into();
        Some(Refusal { reason: first.reason, message })
    }

    /// What a manifest is refused for, and what is only told.
    pub(super) fn into_flaws_and_notes(self) -> (Vec<Rejection>, Vec<Rejection>) {
        let (invalid, unserved): (Vec<_>, Vec<_>) =
            self.problems.into_iter().partition(|problem| problem.invalid);
        let refused = unserved.into_iter().map(|Problem { at, .. }| {
            Rejection::new(at.field, format!("{} (the route is not served)", at.reason))
        });
        let flaws = invalid.into_iter().map(|problem| problem.at).collect();
        (flaws, refused.chain(self.notes).collect())
    }
}

/// A value in quotes, cut where it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: &'a Value,
    pub(super) path: String,
}

impl<'a> Node<'a> {
    pub(super) fn new(value: &'a Value, path: impl Into<String>) -> Self {
        Self { value, path: path.into() }
    }

    pub(super) fn object(&self, findings: &mut Findings) -> Option<Object<'a>> {
        match self.value {
            Value::Object(fields) => Some(Object { fields, path: self.path.clone() }),
            Value::Null => {
                findings.invalid(&*self.path, "missing");
                None
            }
            _ => {
                findings.invalid(&*self.path, "not an object");
                None
            }
        }
    }

    pub(super) fn text(&self, findings: &mut Findings) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            findings.invalid(&*self.path, "not a string");
        }
        text
    }

    /// A text of a length within these bounds, in characters.
    pub(super) fn bounded_text(
        &self,
        (least, most): (usize, usize),
        findings: &mut Findings,
    ) -> Option<&'a str> {
        let text = self.text(findings)?;
        let length = text.chars().take(most + 1).count();
        if length < least {
            findings.invalid(&*self.path, "empty");
            return None;
        }
        if length > most {
            findings.invalid(&*self.path, format!("longer than {most} characters"));
            return None;
        }
        Some(text)
    }
}

/// An object and where it stands. A field that is `null` is absent.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    fields: &'a Map<String, Value>,
    pub(super) path: String,
}

impl<'a> Object<'a> {
    /// The path of a field.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some(Node::new(value, self.path_of(name)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str, findings: &mut Findings) -> Option<&'a str> {
        self.get(name)?.text(findings)
    }

    pub(super) fn bounded_text(
        &self,
        name: &str,
        bounds: (usize, usize),
        findings: &mut Findings,
    ) -> Option<&'a str> {
        self.get(name)?.bounded_text(bounds, findings)
    }

    /// The same of a field that must be there.
    pub(super) fn required_text(
        &self,
        name: &str,
        bounds: (usize, usize),
        findings: &mut Findings,
    ) -> Option<&'a str> {
        match self.get(name) {
            Some(node) => node.bounded_text(bounds, findings),
            None => {
                findings.invalid(self.path_of(name), "missing");
                None
            }
        }
    }

    /// A whole number within these bounds.
    pub(super) fn number(
        &self,
        name: &str,
        (least, most): (i64, i64),
        findings: &mut Findings,
    ) -> Option<i64> {
        let node = self.get(name)?;
        let number = node.value.as_i64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let value = shown(&node.value.to_string());
            let reason = format!("{value} is no whole number from {least} to {most}");
            findings.invalid(node.path, reason);
        }
        number
    }

    pub(super) fn port(&self, name: &str, findings: &mut Findings) -> Option<u16> {
        u16::try_from(self.number(name, (1, 65535), findings)?).ok()
    }

    pub(super) fn boolean(&self, name: &str, findings: &mut Findings) -> Option<bool> {
        let node = self.get(name)?;
        let value = node.value.as_bool();
        if value.is_none() {
            findings.invalid(node.path, "neither true nor false");
        }
        value
    }

    pub(super) fn object(&self, name: &str, findings: &mut Findings) -> Option<Object<'a>> {
        self.get(name)?.object(findings)
    }

    /// The items of a list, none if it is absent; no more than `most`.
    pub(super) fn list(&self, name: &str, most: usize, findings: &mut Findings) -> Vec<Node<'a>> {
        let Some(node) = self.get(name) else { return Vec::new() };
        let Value::Array(items) = node.value else {
            findings.invalid(node.path, "not a list");
            return Vec::new();
        };
        if items.len() > most {
            findings.invalid(&*node.path, format!("{} items, more than {most}", items.len()));
        }
        let items = items.iter().take(most).enumerate();
        items.map(|(index, item)| Node::new(item, format!("{}[{index}]", node.path))).collect()
    }

    /// Finds fields that are none of `known`. Those of `experimental` are not of the standard channel.
    pub(super) fn check_names(
        &self,
        known: &[&str],
        experimental: &[&str],
        findings: &mut Findings,
    ) {
        for (name, value) in self.fields {
            if value.is_null() || known.contains(&name.as_str()) {
                continue;
            }
            let path = self.path_of(&shown_name(name));
            if experimental.contains(&name.as_str()) {
                let reason = "not of the Gateway API's standard channel, and not served: remove it";
                findings.unserved(path, reason);
            } else {
                let reason = format!("not known; there are {}", known.join(", "));
                findings.invalid(path, reason);
            }
        }
    }
}

fn shown_name(name: &str) -> String {
    name.chars().take(MAX_SHOWN).collect()
}

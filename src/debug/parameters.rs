//! Query parameters. A parameter that the page does not have is refused: a misspelt filter would
//! otherwise show everything.

use std::collections::BTreeMap;

use axum::extract::{Query, RawPathParams};
use axum::http::Uri;

use super::DebugError;

/// Every page's.
const PRETTY: &str = "pretty";
/// Entries of a list that are given at once: if nothing is said, and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Those of a page that knows `known`, and `pretty`.
    pub(super) fn read(uri: &Uri, known: &[&'static str]) -> Result<Self, DebugError> {
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| DebugError::Query(error.body_text()))?;
        let mut read = BTreeMap::new();
        for (name, value) in given {
            if name != PRETTY && !known.contains(&&*name) {
                let known = known.iter().chain([&PRETTY]).copied().collect::<Vec<_>>();
                return Err(DebugError::UnknownParameter { name, known: known.join(", ") });
            }
            if read.insert(name.clone(), value).is_some() {
                return Err(DebugError::Twice(name));
            }
        }
        Ok(Self(read))
    }

    /// One parameter, for a page that is not asked for by URL.
    pub(super) fn one(name: &str, value: &str) -> Self {
        Self(BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    /// The same and the parts of the path. No page has a parameter by the name of one of them.
    pub(super) fn with_path(mut self, path: &RawPathParams) -> Self {
        self.0.extend(path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// `offset` and `limit` of a list.
    pub(super) fn range(&self) -> Result<(usize, usize), DebugError> {
        let number = |name, default| match self.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| DebugError::NoNumber { name, value: text.to_owned() })
            }
        };
        Ok((number("offset", 0)?, number("limit", LIMIT)?.min(MAX_LIMIT)))
    }

    /// None if it is empty, as in a form that was not filled in.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    pub(super) fn pretty(&self) -> Result<bool, DebugError> {
        self.flag(PRETTY)
    }

    /// Its name alone switches it on, as in Istio.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, DebugError> {
        match self.0.get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(DebugError::NoFlag { name, value: other.to_owned() }),
        }
    }
}

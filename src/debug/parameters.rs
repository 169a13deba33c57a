//! Query parameters. A parameter that the page does not have is refused: a misspelt filter would
//! otherwise show everything.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::Uri;

use super::Problem;

/// Every page's.
const PRETTY: &str = "pretty";

#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Those of a page that knows `known`, and `pretty`.
    pub(super) fn read(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::Query(error.body_text()))?;
        let mut read = BTreeMap::new();
        for (name, value) in given {
            if name != PRETTY && !known.contains(&&*name) {
                let known = known.iter().chain([&PRETTY]).copied().collect::<Vec<_>>();
                return Err(Problem::UnknownParameter { name, known: known.join(", ") });
            }
            if read.insert(name.clone(), value).is_some() {
                return Err(Problem::Twice(name));
            }
        }
        Ok(Self(read))
    }

    /// One parameter, for a page that is not asked for by URL.
    pub(super) fn one(name: &str, value: &str) -> Self {
        Self(BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    /// None if it is empty, as in a form that was not filled in.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value).filter(|value| !value.is_empty())
    }

    pub(super) fn pretty(&self) -> Result<bool, Problem> {
        self.flag(PRETTY)
    }

    /// Its name alone switches it on, as in Istio.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.0.get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Problem::NoFlag { name, value: other.to_owned() }),
        }
    }
}

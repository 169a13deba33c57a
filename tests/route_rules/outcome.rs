//! A request, and what becomes of it.

use std::collections::BTreeMap;

/// By lower-case name; values of a repeated header joined by commas.
pub(crate) type Headers = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// Empty for none.
    pub(crate) query: String,
    /// The Host as the client writes it.
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn headers(&self) -> Headers {
        let mut all = Headers::new();
        for (name, value) in &self.headers {
            append(&mut all, name, value);
        }
        all
    }

    /// Of this header (lower case), the Host among them.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let host = (name == "host").then_some(&*self.host);
        let others = self.headers.iter().filter(move |(other, _)| other == name);
        host.into_iter().chain(others.map(|(_, value)| &**value))
    }

    pub(crate) fn target(&self, path: &str) -> String {
        if self.query.is_empty() { path.to_owned() } else { format!("{path}?{}", self.query) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// 404.
    NoRule,
    /// 500, of a GRPCRoute 503 (UNAVAILABLE).
    InvalidBackend(u16),
    Redirect {
        status: u16,
        location: String,
        /// Those of the response that a rule has changed.
        response: Headers,
    },
    Forwarded {
        /// `NAMESPACE/NAME:PORT`.
        backend: String,
        host: String,
        /// Path and query.
        target: String,
        headers: Headers,
        /// The backend's [`answer`], changed.
        response: Headers,
        /// `NAMESPACE/NAME:PORT` and millionths of the requests.
        mirrors: Vec<(String, u64)>,
    },
}

/// The headers of every backend's response.
pub(crate) fn answer() -> Headers {
    [("x-a", "backend"), ("x-b", "backend")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

pub(crate) fn append(headers: &mut Headers, name: &str, value: &str) {
    let name = name.to_ascii_lowercase();
    let joined = match headers.get(&name) {
        Some(known) => format!("{known},{value}"),
        None => value.to_owned(),
    };
    headers.insert(name, joined);
}

/// What may become of a request, each with its weight.
pub(crate) type Outcomes = BTreeMap<Outcome, u64>;

pub(crate) fn certain(outcome: Outcome) -> Outcomes {
    Outcomes::from([(outcome, 1)])
}

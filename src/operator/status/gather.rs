//! The rows of all replicas, page by page, in one order.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use crate::operator::Outcome;
use crate::operator::answers::{ProxiesPage, Proxy, State};
use crate::operator::ask::{AskError, Replica, with_query};
use crate::operator::replicas::{Failure, ask_all};

/// Rows of a page, the most that a server gives.
const PAGE: usize = 1000;
/// Rows of one replica, at most: many times as many proxies as a replica serves.
pub(in crate::operator) const MAX_ROWS: usize = 100_000;

/// What rows are asked for; empty is any.
#[derive(Clone, Debug, Default)]
pub(in crate::operator) struct Filter {
    pub(in crate::operator) search: String,
    pub(in crate::operator) state: String,
    pub(in crate::operator) namespace: String,
    pub(in crate::operator) kind: String,
}

/// A replica that has answered.
#[derive(Clone, Debug, Serialize)]
pub(in crate::operator) struct Answered {
    pub(in crate::operator) replica: String,
    pub(in crate::operator) instance: String,
    pub(in crate::operator) generation: Option<u64>,
    pub(in crate::operator) proxies: usize,
    /// Its first page without the rows: counts over all that it has.
    #[serde(skip)]
    pub(in crate::operator) about: Value,
}

#[derive(Clone, Debug)]
pub(in crate::operator) struct Row {
    /// What asks it is known by.
    pub(in crate::operator) asked: String,
    pub(in crate::operator) proxy: Proxy,
    pub(in crate::operator) value: Value,
}

/// All rows, what is wrong first.
#[derive(Debug)]
pub(in crate::operator) struct Gathered {
    pub(in crate::operator) rows: Vec<Row>,
    pub(in crate::operator) replicas: Vec<Answered>,
    pub(in crate::operator) failures: Vec<Failure>,
}

impl Gathered {
    /// Leaves those that are called so, if there are any; else those that the server has found.
    pub(super) fn only_of_name(&mut self, wanted: &str) {
        let is_called = |row: &Row| {
            let proxy = &row.proxy;
            let pod = proxy.name.strip_suffix(&format!(".{}", proxy.namespace));
            proxy.name == wanted || proxy.node_id == wanted || pod == Some(wanted)
        };
        if self.rows.iter().any(is_called) {
            self.rows.retain(is_called);
        }
    }

    /// It may have streams to several replicas, until the older of them notices that it has gone.
    pub(super) fn is_one_proxy(&self) -> bool {
        let names: BTreeSet<&str> = self.rows.iter().map(|row| &*row.proxy.name).collect();
        names.len() == 1
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.failures.is_empty() { Outcome::Done } else { Outcome::Incomplete }
    }
}

/// Up to `most` rows of each replica.
pub(in crate::operator) async fn all(
    replicas: &[Replica],
    filter: &Filter,
    most: usize,
) -> Gathered {
    let asked = ask_all(replicas, |replica| of_replica(replica, filter.clone(), most)).await;
    let mut gathered =
        Gathered { rows: Vec::new(), replicas: Vec::new(), failures: asked.failures };
    for (name, (answered, rows)) in asked.answers {
        gathered.replicas.push(answered);
        let rows = rows.into_iter();
        gathered.rows.extend(rows.map(|(proxy, value)| {
            // By what it is asked by: of a server on a machine, its own name is the machine's.
            let proxy = Proxy { replica: name.clone(), ..proxy };
            Row { asked: name.clone(), proxy, value }
        }));
    }
    gathered.rows.sort_by(|one, other| worst_first(&one.proxy, &other.proxy));
    gathered
}

/// Up to `most` rows of one replica. Rows move between pages while they are read, so one may come twice.
async fn of_replica(
    replica: Replica,
    filter: Filter,
    most: usize,
) -> Result<(Answered, Vec<(Proxy, Value)>), AskError> {
    let mut rows = Vec::new();
    let mut keys = BTreeSet::new();
    let mut offset = 0;
    let mut first: Option<Value> = None;
    loop {
        let path = with_query(
            "/debug/proxies",
            &[
                ("search", &filter.search),
                ("state", &filter.state),
                ("namespace", &filter.namespace),
                ("kind", &filter.kind),
                ("offset", &offset.to_string()),
                ("limit", &PAGE.min(most).to_string()),
            ],
        );
        let mut about: Value = replica.json(&path).await?;
        let page = ProxiesPage::take(&mut about).map_err(AskError::Nonsense)?;
        let got = page.proxies.len();
        for value in page.proxies {
            let proxy = Proxy::read(&value).map_err(AskError::Nonsense)?;
            if keys.insert(proxy.key.clone()) {
                rows.push((proxy, value));
            }
        }
        offset += got;
        let about = first.get_or_insert(about);
        if got == 0 || offset >= page.matched || offset >= most {
            let answered = Answered {
                replica: replica.name.clone(),
                instance: page.instance,
                generation: page.generation,
                proxies: rows.len(),
                about: std::mem::take(about),
            };
            return Ok((answered, rows));
        }
    }
}

/// Worst first, then the oldest that is stale, then by name.
pub(in crate::operator) fn worst_first(one: &Proxy, other: &Proxy) -> Ordering {
    let rank = |proxy: &Proxy| State::read(&proxy.state).unwrap_or(State::Synced);
    let stale = |proxy: &Proxy| proxy.oldest_stale();
    rank(one)
        .cmp(&rank(other))
        .then_with(|| match (stale(one), stale(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            // Some before none.
            (one, other) => other.is_some().cmp(&one.is_some()),
        })
        .then_with(|| one.name.cmp(&other.name))
        .then_with(|| one.replica.cmp(&other.replica))
}

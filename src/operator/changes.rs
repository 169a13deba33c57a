//! `pilothouse changes`: what changed, when it was published, and who has it, over all replicas.

mod merge;

use std::time::SystemTime;

use serde_json::{Value, json};

use super::Outcome;
use super::answers::{age, short, time};
use super::args::{OutputArgs, OutputFormat, ReplicaArgs};
use super::ask::with_query;
use super::print;
use super::replicas::{ask_json, find_or_say};
use super::table::{Cell, Table, Tone, elastic, rigid};
use crate::output::{self, Unwritten};

pub(in crate::operator) use merge::{Change, ChangesPage, merge};

#[derive(Clone, Debug, clap::Args)]
pub struct ChangesArgs {
    /// Changes of objects whose kind, namespace or name contains this
    #[arg(value_name = "SEARCH")]
    pub search: Option<String>,

    /// How many, the newest first; 1 to 1000
    #[arg(
        long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub limit: u16,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(flatten)]
    pub replicas: ReplicaArgs,
}

impl ChangesArgs {
    /// Asks, and prints what was said.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub async fn run(&self) -> Result<Outcome, Unwritten> {
        let Some(replicas) = find_or_say(&self.replicas).await else {
            return Ok(Outcome::Incomplete);
        };
        let limit = self.limit.to_string();
        let search = self.search.as_deref().unwrap_or_default();
        let path = with_query("/debug/changes", &[("search", search), ("limit", &limit)]);
        let asked = ask_json::<ChangesPage>(&replicas, &path).await;
        let pages = asked.answers.iter().map(|(_, page)| page.changes.clone()).collect();
        let mut changes = merge(pages);
        changes.truncate(self.limit.into());
        let document = json!({
            "replicas": asked
                .answers
                .iter()
                .map(|(name, page)| json!({
                    "replica": name, "instance": page.instance, "generation": page.generation,
                }))
                .collect::<Vec<Value>>(),
            "unreachable": asked.failures,
            "changes": changes,
        });
        if !print::document(&self.output, &document)? {
            match changes.is_empty() {
                true if asked.answers.is_empty() => {}
                true => output::eprint_line("No changes found."),
                false => {
                    let wide = self.output.output == Some(OutputFormat::Wide);
                    let table = table(&changes, wide, SystemTime::now());
                    output::print(&table.render(print::screen(&self.output)))?;
                }
            }
        }
        print::failures(&asked.failures);
        Ok(if asked.failures.is_empty() { Outcome::Done } else { Outcome::Incomplete })
    }
}

fn table(changes: &[Change], wide: bool, now: SystemTime) -> Table {
    let mut columns = vec![rigid("SEEN"), rigid("KIND"), elastic("OBJECT"), rigid("ACTION")];
    if wide {
        columns.extend([rigid("VERSION"), rigid("REPLICAS"), rigid("SENT")]);
    }
    columns.extend([
        rigid("PUBLISHED"),
        rigid("ACKNOWLEDGED"),
        rigid("LAST ACK"),
        elastic("STRAGGLERS"),
    ]);
    let mut table = Table::new(&columns);
    for change in changes {
        let seen = age(&change.seen, now).unwrap_or_default();
        let object = match (change.namespace.as_str(), change.name.as_str()) {
            ("", "") => "all".to_owned(),
            ("", name) => name.to_owned(),
            (namespace, "") => format!("{namespace}/all"),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        let mut row: Vec<Cell> =
            [&seen, &change.kind, &object, &change.action].map(|text| Cell::new(text)).to_vec();
        if wide {
            let counts = [change.replicas.to_string(), change.sent.to_string()];
            row.push(Cell::new(change.resource_version.as_deref().unwrap_or_default()));
            row.extend(counts.map(|text| Cell::new(&text)));
        }
        let since_seen = |moment: Option<&str>| {
            let after = time(moment?)?.duration_since(time(&change.seen)?).unwrap_or_default();
            Some(format!("after {}", short(after)))
        };
        row.push(match since_seen(change.published.as_deref()) {
            Some(after) => Cell::new(&after),
            None => Cell::toned("not yet", Tone::Waiting),
        });
        let acknowledged = format!("{}/{}", change.acknowledged, change.proxies);
        row.push(match change.published.is_some() && change.acknowledged >= change.proxies {
            true => Cell::toned(&acknowledged, Tone::Good),
            false => Cell::toned(&acknowledged, Tone::Waiting),
        });
        row.push(Cell::new(&since_seen(change.last_acknowledged.as_deref()).unwrap_or_default()));
        row.push(stragglers(change));
        table.rows.push(row);
    }
    table
}

/// The worst by name, and how many more.
fn stragglers(change: &Change) -> Cell {
    let Some(first) = change.stragglers.first() else { return Cell::new("") };
    let name = first["name"].as_str().unwrap_or("?");
    let more = match change.stragglers_total.saturating_sub(1) {
        0 => String::new(),
        more => format!(" +{more}"),
    };
    let rejected = first["state"].as_str() == Some("REJECTED");
    Cell::toned(&format!("{name}{more}"), if rejected { Tone::Bad } else { Tone::Waiting })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::table::Screen;

    #[test]
    fn a_row_a_change() {
        let page: ChangesPage = serde_json::from_value(json!({
            "replica": "a", "instance": "a/1", "generation": 7, "changes": [
                { "id": 2, "kind": "Service", "namespace": "default", "name": "reviews", "action": "applied",
                  "resource_version": "12", "seen": "2026-11-26T14:00:00.000Z",
                  "published": "2026-11-26T14:00:00.104Z", "proxies": 3, "sent": 3, "acknowledged": 1,
                  "last_acknowledged": "2026-11-26T14:00:02.000Z", "stragglers_total": 2,
                  "stragglers": [{ "name": "a.default", "type": "CDS", "state": "REJECTED" }] },
                { "id": 1, "kind": "Node", "namespace": null, "name": "n1", "action": "deleted",
                  "resource_version": null, "seen": "2026-11-26T13:59:00Z", "published": null },
            ],
        }))
        .unwrap();
        let now = time("2026-11-26T14:00:05Z").unwrap();
        let text = table(&merge(vec![page.changes]), false, now)
            .render(Screen { width: None, colors: false });
        assert_eq!(
            text,
            "SEEN   KIND      OBJECT            ACTION    PUBLISHED     ACKNOWLEDGED   LAST ACK   STRAGGLERS\n\
             5s     Service   default/reviews   applied   after 104ms   1/3            after 2s   a.default +1\n\
             65s    Node      n1                deleted   not yet       0/0            -          -\n"
        );
    }
}

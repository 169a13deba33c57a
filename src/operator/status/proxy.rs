//! One proxy: what it has of each type, Envoy's words for what it rejected, and what was sent last.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::StatusArgs;
use super::gather::{Gathered, Row};
use super::table::state_cell;
use crate::operator::Outcome;
use crate::operator::answers::{Event, NamedClusters, Proxy, TYPES, age};
use crate::operator::args::OutputFormat;
use crate::operator::ask::{Replica, encoded};
use crate::operator::print;
use crate::operator::replicas::Failure;
use crate::operator::table::{Cell, Screen, Table, Tone, elastic, rigid};
use crate::output::{self, Unwritten};

/// Of its responses and answers, so many are shown; wide shows all that there are.
const SHOWN: usize = 10;

/// Asks each replica that it is connected to for its page.
pub(super) async fn run(
    args: &StatusArgs,
    replicas: &[Replica],
    mut gathered: Gathered,
) -> Result<Outcome, Unwritten> {
    let mut pages = Vec::new();
    for row in &gathered.rows {
        match page(replicas, row).await {
            Ok(page) => pages.push(page),
            Err(error) => {
                gathered.failures.push(Failure { replica: row.asked.clone(), error });
            }
        }
    }
    let values: Vec<&Value> = pages.iter().map(|(_, value)| value).collect();
    let document = json!({ "unreachable": gathered.failures, "proxies": values });
    if !print::document(&args.output, &document)? {
        let (screen, now) = (print::screen(&args.output), SystemTime::now());
        let wide = args.output.output == Some(OutputFormat::Wide);
        let texts: Vec<String> =
            pages.iter().map(|(proxy, _)| describe(proxy, wide, screen, now)).collect();
        output::print(&texts.join("\n"))?;
    }
    print::failures(&gathered.failures);
    Ok(gathered.outcome())
}

async fn page(replicas: &[Replica], row: &Row) -> Result<(Proxy, Value), String> {
    let replica = replicas.iter().find(|replica| replica.name == row.asked);
    let replica = replica.ok_or_else(|| "it is not there any more".to_owned())?;
    let path = format!("/debug/proxies/{}", encoded(&row.proxy.key));
    let value: Value = replica.json(&path).await.map_err(|error| error.to_string())?;
    // By what it is asked by, as in the table.
    Ok((Proxy { replica: row.asked.clone(), ..Proxy::read(&value)? }, value))
}

fn describe(proxy: &Proxy, wide: bool, screen: Screen, now: SystemTime) -> String {
    let mut head = Table::new(&[rigid(""), elastic("")]);
    let connected =
        age(&proxy.connected, now).map(|age| format!("{} ({age} ago)", proxy.connected));
    let generation = proxy.generation_acknowledged.map(|number| number.to_string());
    let mut discovery = match &proxy.clusters {
        Some(NamedClusters { subscribed, available, unknown, passed_through }) => {
            let mut text = format!("{}, {subscribed} of {available} clusters", proxy.discovery);
            if *unknown > 0 {
                text += &format!(", {unknown} unknown");
            }
            if *passed_through > 0 {
                text += &format!(" ({passed_through} passed through)");
            }
            text
        }
        None => proxy.discovery.clone(),
    };
    if !proxy.uses_unknown.is_empty() {
        discovery += &format!("; said to be used and unknown: {}", proxy.uses_unknown.join(", "));
    }
    for (name, value) in [
        ("Name:", &proxy.name),
        ("Node id:", &proxy.node_id),
        ("Kind:", &proxy.kind),
        ("Namespace:", &proxy.namespace),
        ("Zone:", &proxy.zone),
        ("Version:", &proxy.version),
        ("Replica:", &proxy.replica),
        ("Address:", &proxy.address),
        ("Identity:", &proxy.identity),
        ("Protocol:", &proxy.protocol),
        ("Discovery:", &discovery),
        ("Connected:", &connected.unwrap_or_default()),
        ("View:", &proxy.view),
        ("Acknowledged generation:", &generation.unwrap_or_default()),
    ] {
        head.rows.push(vec![Cell::new(name), Cell::new(value)]);
    }
    let mut text: String =
        head.render(screen).lines().skip(1).map(|line| format!("{line}\n")).collect();
    text.push('\n');
    text.push_str(&types(proxy, now).render(screen));
    for of in TYPES {
        let Some(status) = proxy.of(of).filter(|status| !status.error.is_empty()) else { continue };
        let ago = age(&status.error_at, now).map(|age| format!(" {age} ago")).unwrap_or_default();
        // Whole: it is what the operator has come for.
        text.push_str(&format!("\n{of} rejected{ago}:\n"));
        for line in status.error.lines() {
            text.push_str(&format!("  {}\n", crate::escape::line(line)));
        }
    }
    let history = proxy.history.as_deref().unwrap_or_default();
    if !history.is_empty() {
        let shown = if wide { history.len() } else { SHOWN };
        text.push('\n');
        text.push_str(&events(&history[..history.len().min(shown)]).render(screen));
    }
    text
}

fn types(proxy: &Proxy, now: SystemTime) -> Table {
    let mut table = Table::new(&[
        rigid("TYPE"),
        rigid("STATE"),
        rigid("RESOURCES"),
        rigid("SENT"),
        rigid("ACKS"),
        rigid("NACKS"),
        rigid("LAST SENT"),
        rigid("LAST ACK"),
    ]);
    for of in TYPES {
        let Some(status) = proxy.of(of) else { continue };
        let mut row = vec![Cell::new(of), state_cell(Some(status), now)];
        let counts = [status.resources, status.sent, status.acknowledged, status.rejected];
        row.extend(counts.map(count));
        let ago =
            |moment: &str| age(moment, now).map(|age| format!("{age} ago")).unwrap_or_default();
        row.extend([&status.last_sent, &status.last_acknowledged].map(|at| Cell::new(&ago(at))));
        table.rows.push(row);
    }
    table
}

/// The newest first.
fn events(history: &[Event]) -> Table {
    let mut table = Table::new(&[
        rigid("AT"),
        rigid("TYPE"),
        rigid("WHAT"),
        rigid("NONCE"),
        rigid("RESOURCES"),
        rigid("REMOVED"),
        rigid("BYTES"),
        rigid("GENERATION"),
        elastic("ERROR"),
    ]);
    for event in history {
        let tone = match &*event.what {
            "ack" => Tone::Good,
            "nack" => Tone::Bad,
            _ => Tone::Plain,
        };
        let mut row =
            vec![Cell::new(&event.at), Cell::new(&event.of), Cell::toned(&event.what, tone)];
        row.push(Cell::new(&event.nonce));
        let counts = [event.resources, event.removed, event.bytes, event.generation];
        row.extend(counts.map(count));
        row.push(Cell::new(&event.error));
        table.rows.push(row);
    }
    table
}

fn count(count: Option<u64>) -> Cell {
    Cell::new(&count.map(|count| count.to_string()).unwrap_or_default())
}

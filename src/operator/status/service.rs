//! One service: what there is, what is left out of it and why, and who lags behind.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{StatusArgs, rules};
use crate::flags;
use crate::operator::Outcome;
use crate::operator::args::OutputFormat;
use crate::operator::ask::{AskError, Replica, encoded, with_query};
use crate::operator::print;
use crate::operator::replicas::ask_all;
use crate::operator::table::{Cell, Screen, Table, Tone, elastic, rigid};
use crate::output::{self, Unwritten};

/// `NAMESPACE/NAME`.
pub(super) fn name(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text
        .split_once('/')
        .ok_or_else(|| "it must be NAMESPACE/NAME, as in default/reviews".to_owned())?;
    let name = flags::namespace(name).map_err(|_| format!("{name:?} is no name of a service"))?;
    Ok((flags::namespace(namespace)?, name))
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    kind: Option<String>,
    host: String,
    resource_version: Option<String>,
    ports: Vec<Value>,
    flaws: Vec<Value>,
    rules: Value,
    endpoints: Vec<Value>,
    endpoints_total: Option<usize>,
    sent: Value,
    view: Option<String>,
    /// Whether a proxy of that namespace and zone is connected, so that `sent` is what it has been sent.
    exact: Option<bool>,
    lagging: Vec<String>,
    lagging_total: usize,
}

pub(super) async fn run(
    args: &StatusArgs,
    replicas: &[Replica],
    namespace: &str,
    name: &str,
) -> Result<Outcome, Unwritten> {
    let path = with_query(
        &format!("/debug/services/{}/{}", encoded(namespace), encoded(name)),
        &[
            ("from", args.namespace.as_deref().unwrap_or_default()),
            ("zone", args.zone.as_deref().unwrap_or_default()),
        ],
    );
    let asked = ask_all(replicas, |replica| one(replica, path.clone())).await;
    let unknown_to: Vec<&String> =
        asked.answers.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| name).collect();
    let known: Vec<(&String, &Service, &Value)> = asked
        .answers
        .iter()
        .filter_map(|(replica, found)| found.as_ref().map(|(one, value)| (replica, one, value)))
        .collect();
    let document = json!({
        "unreachable": asked.failures,
        "unknownTo": unknown_to,
        "replicas": known
            .iter()
            .map(|(replica, _, value)| json!({ "replica": replica, "service": value }))
            .collect::<Vec<_>>(),
    });
    let mut outcome = Outcome::Done;
    if !print::document(&args.output, &document)? && !known.is_empty() {
        let wide = args.output.output == Some(OutputFormat::Wide);
        // What replicas agree on is said once.
        let same = |one: &Service, other: &Service| {
            one.ports == other.ports && one.endpoints == other.endpoints && one.rules == other.rules
        };
        let agree = known.windows(2).all(|two| same(two[0].1, two[1].1));
        let shown = if agree { &known[..1] } else { &known[..] };
        let mut text = String::new();
        for (replica, service, _) in shown {
            if !agree {
                text.push_str(&format!("As {} has it:\n", crate::escape::line(replica)));
            }
            text.push_str(&describe(service, wide, print::screen(&args.output)));
        }
        text.push_str(&lagging(&known));
        output::print(&text)?;
        if !agree {
            print::warn("the replicas do not have the same of it: one of them is behind");
        }
    }
    for replica in &unknown_to {
        print::warn(&format!("the replica {replica} knows no service {namespace}/{name}"));
        outcome = Outcome::Incomplete;
    }
    print::failures(&asked.failures);
    Ok(if asked.failures.is_empty() { outcome } else { Outcome::Incomplete })
}

/// `None` if it knows no such service.
async fn one(replica: Replica, path: String) -> Result<Option<(Service, Value)>, AskError> {
    match replica.json::<Value>(&path).await {
        Ok(value) => {
            let service = serde_json::from_value(value.clone());
            let service = service.map_err(|error| AskError::Nonsense(error.to_string()))?;
            Ok(Some((service, value)))
        }
        Err(AskError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(service: &Service, wide: bool, screen: Screen) -> String {
    let mut text = String::new();
    let line = |text: &mut String, name: &str, value: &str| {
        text.push_str(&format!("{name:<18}{}\n", crate::escape::line(value)));
    };
    line(&mut text, "Host:", &service.host);
    line(&mut text, "Kind:", service.kind.as_deref().unwrap_or("-"));
    line(&mut text, "Resource version:", service.resource_version.as_deref().unwrap_or("-"));
    for flaw in &service.flaws {
        line(&mut text, "Flaw:", &format!("{}: {}", field(flaw, "field"), field(flaw, "reason")));
    }
    let mut ports = Table::new(&[
        rigid("PORT"),
        elastic("NAME"),
        rigid("PROTOCOL"),
        rigid("TARGET"),
        elastic("CLUSTER"),
    ]);
    for port in &service.ports {
        let names = ["port", "name", "protocol", "target_port", "cluster"];
        ports.rows.push(names.map(|name| Cell::new(&field(port, name))).to_vec());
    }
    text.push('\n');
    text.push_str(&ports.render(screen));
    let mut columns =
        vec![rigid("ENDPOINT"), elastic("POD"), rigid("ZONE"), rigid("STATE"), rigid("SERVED")];
    if wide {
        columns.extend([elastic("NODE"), elastic("SLICE")]);
    }
    columns.push(elastic("REASON"));
    let mut endpoints = Table::new(&columns);
    for endpoint in &service.endpoints {
        let port = field(endpoint, "port");
        let address = match field(endpoint, "address") {
            v6 if v6.contains(':') => format!("[{v6}]:{port}"),
            v4 => format!("{v4}:{port}"),
        };
        let served = match endpoint["served"].as_bool() {
            Some(true) => Cell::toned("yes", Tone::Good),
            Some(false) => Cell::toned("no", Tone::Waiting),
            None => Cell::new(""),
        };
        let mut row = vec![Cell::new(&address)];
        row.extend(["pod", "zone", "state"].map(|name| Cell::new(&field(endpoint, name))));
        row.push(served);
        if wide {
            row.extend(["node", "slice"].map(|name| Cell::new(&field(endpoint, name))));
        }
        row.push(Cell::new(&field(endpoint, "reason")));
        endpoints.rows.push(row);
    }
    text.push('\n');
    match endpoints.rows.is_empty() {
        true => text.push_str("It has no endpoints.\n"),
        false => text.push_str(&endpoints.render(screen)),
    }
    let more = service.endpoints_total.unwrap_or_default().saturating_sub(service.endpoints.len());
    if more > 0 {
        text.push_str(&format!("and {more} more endpoints\n"));
    }
    text.push_str(&rules::describe(&service.rules, screen));
    text.push('\n');
    text.push_str(&sent(service));
    text
}

/// What a proxy is sent for it.
fn sent(service: &Service) -> String {
    if service.sent.is_null() {
        return "No proxy is connected, so nothing is sent to anybody.\n".to_owned();
    }
    let view = crate::escape::line(service.view.as_deref().unwrap_or("-")).into_owned();
    let mut text = format!("Sent to proxies of the view {view}");
    text.push_str(match service.exact {
        Some(false) => ", as none of those that were asked about is connected:\n",
        _ => ":\n",
    });
    for (title, name) in
        [("clusters", "clusters"), ("listeners", "listeners"), ("routes", "routes")]
    {
        let named = service.sent[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<String> = named
            .iter()
            .map(|one| one.as_str().map_or_else(|| route(one), str::to_owned))
            .map(|one| crate::escape::line(&one).into_owned())
            .collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        text.push_str(&format!("  {title}: {names}\n"));
    }
    text
}

/// A route table by its name.
fn route(of: &Value) -> String {
    let named = ["table", "name"].iter().find_map(|name| of[name].as_str());
    named.map_or_else(|| of.to_string(), str::to_owned)
}

/// Proxies of all replicas that do not have the newest of it.
fn lagging(known: &[(&String, &Service, &Value)]) -> String {
    let names: BTreeSet<&str> =
        known.iter().flat_map(|(_, service, _)| &service.lagging).map(String::as_str).collect();
    let total: usize = known.iter().map(|(_, service, _)| service.lagging_total).sum();
    if total == 0 {
        return "No proxy lags behind.\n".to_owned();
    }
    let mut text = format!("Lagging behind ({total}):\n");
    for name in &names {
        text.push_str(&format!("  {}\n", crate::escape::line(name)));
    }
    if total > names.len() {
        text.push_str(&format!("  and {} more\n", total - names.len()));
    }
    text
}

fn field(of: &Value, name: &str) -> String {
    match &of[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

//! `pilothouse uses`: which workloads call which services, over all replicas, as far as their proxies are on demand.

mod merge;

use serde_json::{Value, json};

use super::Outcome;
use super::args::{OutputArgs, ReplicaArgs};
use super::ask::{AskError, Replica, with_query};
use super::print;
use super::replicas::{ask_all, find_or_say};
use super::table::{Cell, Table, elastic, rigid};
use crate::flags;
use crate::output::{self, Unwritten};
use merge::{Merged, UsesPage};

/// Entries of a list that are asked for at once, the most that a server gives.
const PAGE: usize = 1000;
/// Services that are read of one replica, at most.
const MAX_SERVICES: usize = 100_000;

#[derive(Clone, Debug, clap::Args)]
pub struct UsesArgs {
    /// Who calls this service: NAME.NAMESPACE, NAMESPACE/NAME or its host
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// What proxies call that have this in their name (POD.NAMESPACE)
    #[arg(long, value_name = "PROXY")]
    pub proxy: Option<String>,

    /// What proxies of this namespace call
    #[arg(short, long, value_name = "NAMESPACE", value_parser = flags::namespace)]
    pub namespace: Option<String>,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(flatten)]
    pub replicas: ReplicaArgs,
}

impl UsesArgs {
    /// Asks, and prints what was said.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub async fn run(&self) -> Result<Outcome, Unwritten> {
        let Some(replicas) = find_or_say(&self.replicas).await else {
            return Ok(Outcome::Incomplete);
        };
        let asked = ask_all(&replicas, |replica| self.of_replica(replica)).await;
        let mut merged = Merged::default();
        let mut answered = Vec::new();
        for (name, pages) in &asked.answers {
            let Some(first) = pages.first() else { continue };
            answered.push(json!({ "replica": name, "instance": first.instance }));
            merged.add_replica(first);
            pages.iter().for_each(|page| merged.add_services(page));
        }
        let document = json!({
            "replicas": answered,
            "unreachable": asked.failures,
            "discovery": merged.discovery,
            "namesUnknown": merged.unknown,
            "workloadsLeftOut": merged.left_out,
            "uses": merged.uses.iter().map(merge::document).collect::<Vec<Value>>(),
        });
        if !print::document(&self.output, &document)? && !asked.answers.is_empty() {
            match merged.uses.is_empty() {
                true => output::eprint_line("No uses found."),
                false => output::print(&table(&merged).render(print::screen(&self.output)))?,
            }
            output::eprint_line(summary(&merged));
        }
        if merged.left_out > 0 {
            print::warn(&format!(
                "{} workloads are left out: replicas name 100 of a service",
                merged.left_out
            ));
        }
        print::failures(&asked.failures);
        Ok(if asked.failures.is_empty() { Outcome::Done } else { Outcome::Incomplete })
    }

    /// All pages of one replica. Services may come and go while they are read.
    async fn of_replica(&self, replica: Replica) -> Result<Vec<UsesPage>, AskError> {
        let given = |text: &Option<String>| text.clone().unwrap_or_default();
        let (service, proxy) = (given(&self.service), given(&self.proxy));
        let namespace = given(&self.namespace);
        let mut pages: Vec<UsesPage> = Vec::new();
        loop {
            let offset = pages.len() * PAGE;
            let path = with_query(
                "/debug/uses",
                &[
                    ("service", &service),
                    ("proxy", &proxy),
                    ("namespace", &namespace),
                    ("offset", &offset.to_string()),
                    ("limit", &PAGE.to_string()),
                ],
            );
            let page: UsesPage = replica.json(&path).await?;
            let most = page.services_total.max(page.matched).min(MAX_SERVICES);
            pages.push(page);
            if offset + PAGE >= most {
                return Ok(pages);
            }
        }
    }
}

fn table(merged: &Merged) -> Table {
    let mut table =
        Table::new(&[elastic("CALLER"), elastic("SERVICE"), rigid("PORTS"), rigid("PROXIES")]);
    for ((caller, service), uses) in &merged.uses {
        let ports: Vec<String> = uses.ports.iter().map(ToString::to_string).collect();
        table.rows.push(vec![
            Cell::new(&caller.to_string()),
            Cell::new(service),
            Cell::new(&ports.join(",")),
            Cell::new(&uses.proxies.to_string()),
        ]);
    }
    table
}

/// How many proxies say what they use, and how many do not.
fn summary(merged: &Merged) -> String {
    let count = |of: &str| merged.discovery.get(of).copied().unwrap_or_default();
    let proxies = |count: u64| format!("{count} prox{}", if count == 1 { "y" } else { "ies" });
    let unknown = match merged.unknown {
        0 => String::new(),
        1 => "; 1 name that was asked for is unknown".to_owned(),
        more => format!("; {more} names that were asked for are unknown"),
    };
    let all = match count("all") {
        0 => String::new(),
        all => format!("; {} of all clusters, which do not say what they use", proxies(all)),
    };
    format!("{} on demand{all}{unknown}", proxies(count("on-demand")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::table::Screen;

    fn page(proxies: u64, callers: Value) -> UsesPage {
        serde_json::from_value(json!({
            "instance": "a/1", "discovery": { "all": 1, "on-demand": proxies }, "matched": proxies,
            "services_total": 1,
            "services": [{
                "service": "reviews.shop", "ports": [9080], "proxies": proxies,
                "workloads": callers, "workloads_total": 3,
            }],
            "proxies": [{ "name": "x", "unknown": 2 }],
        }))
        .unwrap()
    }

    #[test]
    fn replicas_see_proxies_of_the_same_workload() {
        let mut merged = Merged::default();
        let caller = |workload: &str, namespace: Value, proxies: u64| json!({ "workload": workload, "namespace": namespace, "proxies": proxies });
        let web = |proxies| caller("web\u{202e}", json!("shop"), proxies);
        let one =
            page(3, json!([web(2), caller("edge", Value::Null, 1), caller("a", json!("b"), 1)]));
        let other = page(4, json!([web(4)]));
        for page in [&one, &other] {
            merged.add_replica(page);
            merged.add_services(page);
        }
        let text = table(&merged).render(Screen { width: None, colors: false });
        assert_eq!(
            text,
            "CALLER             SERVICE        PORTS   PROXIES\n\
             edge               reviews.shop   9080    1\n\
             a.b                reviews.shop   9080    1\n\
             web\\u{202e}.shop   reviews.shop   9080    6\n"
        );
        assert_eq!(merged.left_out, 2);
        assert_eq!(
            summary(&merged),
            "7 proxies on demand; 2 proxies of all clusters, which do not say what they use; 4 names that \
             were asked for are unknown"
        );
    }
}

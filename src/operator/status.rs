//! `pilothouse status`: who has what, over all replicas; one proxy; one service.

mod gather;
mod proxy;
mod rules;
mod service;
mod table;

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::json;

use super::Outcome;
use super::answers::State;
use super::args::{OutputArgs, OutputFormat, ReplicaArgs};
use super::print;
use super::replicas::find_or_say;
use crate::flags;
use crate::output::{self, Unwritten};

pub(in crate::operator) use gather::{Filter, Gathered, MAX_ROWS, all, worst_first};

#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// One proxy, by its name (POD or POD.NAMESPACE); by a part of it if no name is that
    #[arg(value_name = "PROXY", conflicts_with = "service")]
    pub proxy: Option<String>,

    /// One service: its ports, its endpoints with the reason of each that is left out, what a proxy is
    /// sent for it, and which proxies lag behind
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service::name)]
    pub service: Option<(String, String)>,

    /// Proxies of this namespace; with --service, what a proxy of this namespace is sent
    #[arg(short, long, value_name = "NAMESPACE", value_parser = flags::namespace)]
    pub namespace: Option<String>,

    /// With --service, what a proxy in this zone is sent
    #[arg(long, value_name = "ZONE", requires = "service")]
    pub zone: Option<String>,

    /// Proxies in this state: rejected, stale, not-sent or synced
    #[arg(long, value_name = "STATE", value_parser = state, conflicts_with = "service")]
    pub state: Option<&'static str>,

    /// Proxies of this kind: sidecar, router or standalone
    #[arg(long, value_name = "KIND", conflicts_with = "service")]
    pub kind: Option<String>,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(flatten)]
    pub replicas: ReplicaArgs,
}

fn state(text: &str) -> Result<&'static str, String> {
    let state = State::read(text).map(State::as_str);
    state.ok_or_else(|| "the states are rejected, stale, not-sent and synced".to_owned())
}

impl StatusArgs {
    /// Asks, and prints what was said.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub async fn run(&self) -> Result<Outcome, Unwritten> {
        let Some(replicas) = find_or_say(&self.replicas).await else {
            return Ok(Outcome::Incomplete);
        };
        if let Some((namespace, name)) = &self.service {
            return service::run(self, &replicas, namespace, name).await;
        }
        let filter = Filter {
            search: self.proxy.clone().unwrap_or_default(),
            state: self.state.unwrap_or_default().to_owned(),
            namespace: self.namespace.clone().unwrap_or_default(),
            kind: self.kind.clone().unwrap_or_default(),
        };
        let mut gathered = all(&replicas, &filter, MAX_ROWS).await;
        if let Some(wanted) = &self.proxy {
            gathered.only_of_name(wanted);
            if gathered.rows.is_empty() {
                print::failures(&gathered.failures);
                print::error(&format!("no proxy that is connected is called {wanted}"));
                return Ok(Outcome::Incomplete);
            }
            if gathered.is_one_proxy() {
                return proxy::run(self, &replicas, gathered).await;
            }
        }
        self.print_table(&gathered)?;
        print::failures(&gathered.failures);
        Ok(gathered.outcome())
    }

    fn print_table(&self, gathered: &Gathered) -> Result<(), Unwritten> {
        let document = json!({
            "replicas": gathered.replicas,
            "unreachable": gathered.failures,
            "proxies": gathered.rows.iter().map(|row| &row.value).collect::<Vec<_>>(),
        });
        if print::document(&self.output, &document)? {
            return Ok(());
        }
        if gathered.rows.is_empty() {
            if !gathered.replicas.is_empty() {
                output::eprint_line("No proxies found.");
            }
            return Ok(());
        }
        let wide = self.output.output == Some(OutputFormat::Wide);
        let table =
            table::of_proxies(gathered.rows.iter().map(|row| &row.proxy), wide, SystemTime::now());
        output::print(&table.render(print::screen(&self.output)))?;
        output::eprint_line(summary(gathered));
        Ok(())
    }
}

/// How many are in which state, the worst first.
fn summary(gathered: &Gathered) -> String {
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let (proxies, replicas) = (gathered.rows.len(), gathered.replicas.len());
    let mut said = String::new();
    for state in State::ALL {
        let of_state = |row: &&gather::Row| State::read(&row.proxy.state) == Some(state);
        let count = gathered.rows.iter().filter(of_state).count();
        if count > 0 {
            let comma = if said.is_empty() { "" } else { ", " };
            // A String takes everything.
            _ = write!(said, "{comma}{count} {}", state.as_str());
        }
    }
    let at = format!("{replicas} replica{}", plural(replicas));
    format!("{proxies} prox{} at {at}: {said}", if proxies == 1 { "y" } else { "ies" })
}

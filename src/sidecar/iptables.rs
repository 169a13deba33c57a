//! `pilothouse iptables`, which is what istio-init does: a pod's TCP traffic is led to its Envoy,
//! outbound to 15001 and inbound to 15006, by Istio's own chains in the table `nat`.
//!
//! Here is what the rules are ([`Capture::rules`]) and how they get into a table that has something
//! in it already ([`apply`], [`clean`]): text in, text out. `run` feeds it to iptables-restore, which
//! takes a table as a whole or not at all. Nothing of the control plane is used.

use std::net::IpAddr;

mod args;
mod run;

pub use args::{IptablesArgs, Ipv6Mode};
pub use run::run;

use crate::well_known::UNCAPTURED_PORTS;

const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";
/// Each after those that jump to it, so that they can be deleted in this order.
const CHAINS: [&str; 4] = [INBOUND, OUTPUT, IN_REDIRECT, REDIRECT];

const DNS_PORT: u16 = 53;

/// A protocol family, each with tables and programs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    /// The address that Envoy's inbound passthrough calls the application from: such connections
    /// must not come back to it.
    fn inbound_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::6/128",
        }
    }
}

/// A range of addresses as iptables writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    fn is_of(&self, family: Family) -> bool {
        self.address.is_ipv4() == (family == Family::V4)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    /// `10.96.0.0/12`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a range of addresses like 10.96.0.0/12 or fd00::/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
            None => most,
        };
        Ok(Self { address, bits })
    }
}

/// `*`, or a list of which nothing is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection<T> {
    All,
    Only(Vec<T>),
}

impl<T> Selection<T> {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Only(items) if items.is_empty())
    }
}

/// What is led to Envoy and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub proxy_uids: Vec<u32>,
    pub proxy_gids: Vec<u32>,
    /// Inbound: to these ports, but not to those.
    pub inbound_ports: Selection<u16>,
    pub inbound_ports_excluded: Vec<u16>,
    /// Outbound: to these addresses or to these ports anywhere, but not to those.
    pub outbound_ranges: Selection<Cidr>,
    pub outbound_ranges_excluded: Vec<Cidr>,
    pub outbound_ports: Vec<u16>,
    pub outbound_ports_excluded: Vec<u16>,
    pub interfaces_excluded: Vec<String>,
}

impl Capture {
    /// The rules of one family as iptables-save writes them; the first that matches decides.
    #[must_use]
    pub fn rules(&self, family: Family) -> Vec<String> {
        let mut rules = vec![
            format!("-A {REDIRECT} -p tcp -j REDIRECT --to-ports {}", self.outbound_port),
            format!("-A {IN_REDIRECT} -p tcp -j REDIRECT --to-ports {}", self.inbound_port),
        ];
        if !self.inbound_ports.is_empty() {
            rules.push(format!("-A PREROUTING -p tcp -j {INBOUND}"));
            self.inbound(&mut rules);
        }
        // Without capture of outbound traffic calls to oneself must still meet the inbound side.
        rules.push(format!("-A OUTPUT -p tcp -j {OUTPUT}"));
        self.outbound(family, &mut rules);
        rules
    }

    fn inbound(&self, rules: &mut Vec<String>) {
        let mut rule = |rest: String| rules.push(format!("-A {INBOUND} {rest}"));
        for interface in &self.interfaces_excluded {
            rule(format!("-i {interface} -j RETURN"));
        }
        for port in distinct(UNCAPTURED_PORTS.iter().chain(&self.inbound_ports_excluded)) {
            rule(format!("-p tcp --dport {port} -j RETURN"));
        }
        match &self.inbound_ports {
            Selection::All => rule(format!("-p tcp -j {IN_REDIRECT}")),
            Selection::Only(ports) => {
                for port in distinct(ports) {
                    rule(format!("-p tcp --dport {port} -j {IN_REDIRECT}"));
                }
            }
        }
    }

    fn outbound(&self, family: Family, rules: &mut Vec<String>) {
        let mut rule = |rest: String| rules.push(format!("-A {OUTPUT} {rest}"));
        let loopback = family.loopback();
        for interface in &self.interfaces_excluded {
            rule(format!("-o {interface} -j RETURN"));
        }
        for port in distinct([&DNS_PORT].into_iter().chain(&self.outbound_ports_excluded)) {
            rule(format!("-p tcp --dport {port} -j RETURN"));
        }
        rule(format!("-s {} -o lo -j RETURN", family.inbound_source()));
        let uids = self.proxy_uids.iter().map(|id| ("uid", id));
        for (kind, id) in uids.chain(self.proxy_gids.iter().map(|id| ("gid", id))) {
            // The application calls its own service, and Envoy chose this very pod: through the
            // inbound side, as from any other pod.
            if !self.inbound_ports.is_empty() {
                rule(format!(
                    "! -d {loopback} -o lo -p tcp -m owner --{kind}-owner {id} -j {IN_REDIRECT}"
                ));
            }
            // The application calls its own pod's address.
            rule(format!("-o lo -m owner ! --{kind}-owner {id} -j RETURN"));
            // Envoy's own traffic must not come back to it.
            rule(format!("-m owner --{kind}-owner {id} -j RETURN"));
        }
        rule(format!("-d {loopback} -j RETURN"));
        for range in self.outbound_ranges_excluded.iter().filter(|range| range.is_of(family)) {
            rule(format!("-d {range} -j RETURN"));
        }
        for port in distinct(&self.outbound_ports) {
            rule(format!("-p tcp --dport {port} -j {REDIRECT}"));
        }
        match &self.outbound_ranges {
            Selection::All => rule(format!("-j {REDIRECT}")),
            Selection::Only(ranges) => {
                for range in ranges.iter().filter(|range| range.is_of(family)) {
                    rule(format!("-d {range} -j {REDIRECT}"));
                }
            }
        }
    }
}

/// In the order of their first appearance.
fn distinct<'a>(ports: impl IntoIterator<Item = &'a u16>) -> Vec<u16> {
    let mut seen = Vec::new();
    for port in ports {
        if !seen.contains(port) {
            seen.push(*port);
        }
    }
    seen
}

/// What iptables-restore must be told for `rules` to be in force, whatever of ours stands in
/// `saved`, the output of iptables-save: afterwards each rule is there once. The rules of others
/// stay, before ours.
#[must_use]
pub fn apply(rules: &[String], saved: &str) -> String {
    let mut text = "*nat\n".to_owned();
    for chain in CHAINS {
        // Makes the chain, or empties it where it exists.
        text += &format!(":{chain} - [0:0]\n");
    }
    for jump in jumps(saved) {
        text += &format!("{jump}\n");
    }
    for rule in rules {
        text += &format!("{rule}\n");
    }
    text + "COMMIT\n"
}

/// What iptables-restore must be told so that nothing of ours is left; none where nothing is.
#[must_use]
pub fn clean(saved: &str) -> Option<String> {
    let existing = |chain: &&str| {
        saved
            .lines()
            .any(|line| line.strip_prefix(':').is_some_and(|rest| names_chain(rest, chain)))
    };
    let chains: Vec<&str> = CHAINS.into_iter().filter(existing).collect();
    if chains.is_empty() {
        return None;
    }
    let jumps = jumps(saved);
    let emptied = chains.iter().map(|chain| format!("-F {chain}"));
    let removed = chains.iter().map(|chain| format!("-X {chain}"));
    let lines: Vec<String> = jumps.into_iter().chain(emptied).chain(removed).collect();
    Some(format!("*nat\n{}\nCOMMIT\n", lines.join("\n")))
}

fn names_chain(rest: &str, chain: &str) -> bool {
    rest.split_whitespace().next() == Some(chain)
}

/// Deletions of the rules that lead from the kernel's own chains into ours.
fn jumps(saved: &str) -> Vec<String> {
    let ours = |line: &str| {
        let target = line.split_once(" -j ").map(|(_, target)| target.trim());
        target.is_some_and(|target| CHAINS.contains(&target))
    };
    saved
        .lines()
        .filter_map(|line| line.strip_prefix("-A "))
        .filter(|rule| !CHAINS.iter().any(|chain| names_chain(rule, chain)) && ours(rule))
        .map(|rule| format!("-D {rule}"))
        .collect()
}

#[cfg(test)]
mod tests;

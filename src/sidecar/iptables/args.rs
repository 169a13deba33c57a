//! The flags of `pilothouse iptables`, which are istio-iptables' own.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use clap::{Parser as _, ValueEnum};

use super::{Capture, Cidr, Family, Selection};
use crate::well_known::{INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT, PROXY_UID};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ipv6Mode {
    /// Where the pod has an IPv6 address beyond its own links
    Auto,
    Yes,
    No,
}

/// Istio's modes of inbound capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Redirect;

impl FromStr for Redirect {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "REDIRECT" => Ok(Self),
            "TPROXY" => {
                Err("TPROXY is not supported: use REDIRECT, with which the application sees \
                             127.0.0.6 as the caller's address")
            }
            _ => Err("the mode is REDIRECT; there is no other"),
        }
    }
}

/// Lead this pod's TCP traffic to its Envoy, as istio-init does: needs root and NET_ADMIN, once, before
/// the application starts.
#[derive(Clone, Debug, clap::Args)]
pub struct IptablesArgs {
    /// Port of Envoy that takes outbound traffic
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = Port::from_number(OUTBOUND_CAPTURE_PORT))]
    envoy_port: Port,

    /// Port of Envoy that takes inbound traffic
    #[arg(short = 'z', long, value_name = "PORT", default_value_t = Port::from_number(INBOUND_CAPTURE_PORT))]
    inbound_capture_port: Port,

    /// User ids whose traffic is Envoy's own and not captured
    #[arg(short = 'u', long, value_name = "UIDS", default_value_t = List(vec![PROXY_UID]))]
    proxy_uid: List<u32>,

    /// Group ids likewise
    #[arg(short = 'g', long, value_name = "GIDS", default_value_t = List(vec![PROXY_UID]))]
    proxy_gid: List<u32>,

    /// How inbound traffic is captured; REDIRECT alone is supported
    #[arg(short = 'm', long, value_name = "MODE", default_value = "REDIRECT")]
    istio_inbound_interception_mode: Redirect,

    /// Capture outbound traffic to these ranges of addresses; * for all, "" for none
    #[arg(short = 'i', long, value_name = "CIDRS", default_value = "*")]
    istio_service_cidr: AllOrList<Cidr>,

    /// Leave outbound traffic to these ranges alone
    #[arg(short = 'x', long, value_name = "CIDRS", default_value = "")]
    istio_service_exclude_cidr: List<Cidr>,

    /// Capture inbound traffic to these ports; * for all, "" for none
    #[arg(short = 'b', long, value_name = "PORTS", default_value = "*")]
    istio_inbound_ports: AllOrList<Port>,

    /// Leave inbound traffic to these ports alone; 15000, 15020, 15021 and 15090 are always
    #[arg(short = 'd', long, value_name = "PORTS", default_value = "")]
    istio_local_exclude_ports: List<Port>,

    /// Capture outbound traffic to these ports, whatever the address
    #[arg(short = 'q', long, value_name = "PORTS", default_value = "")]
    istio_outbound_ports: List<Port>,

    /// Leave outbound traffic to these ports alone; 53 (DNS) always is
    #[arg(short = 'o', long, value_name = "PORTS", default_value = "")]
    istio_local_outbound_ports_exclude: List<Port>,

    /// Leave traffic of these network interfaces alone
    #[arg(short = 'c', long, value_name = "INTERFACES", default_value = "")]
    istio_exclude_interfaces: List<Interface>,

    /// Whether IPv6 is captured too. Only where Envoy listens on IPv6: Pilothouse's own sidecar
    /// listeners are IPv4's, and captured connections would be refused
    #[arg(long, value_enum, default_value = "no")]
    pub(super) ipv6: Ipv6Mode,

    /// Print what iptables-restore would be told, for tables without rules of ours, and change nothing
    #[arg(short = 'n', long, conflicts_with = "clean")]
    pub(super) dry_run: bool,

    /// Remove every rule that an earlier run made
    #[arg(long)]
    pub(super) clean: bool,
}

/// The flags on their own.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
struct StandaloneArgs {
    #[command(flatten)]
    args: IptablesArgs,
}

impl IptablesArgs {
    /// Whether these flags, each with its value, fit together.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(flags: &[&str]) -> Result<(), String> {
        match StandaloneArgs::try_parse_from(flags) {
            Ok(standalone) => standalone.args.contradiction().map_or(Ok(()), Err),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                Err(source.unwrap_or_else(|| error.kind().to_string()))
            }
        }
    }

    /// What makes no sense although each flag does: rules that would lead Envoy's own traffic back to
    /// it, or that would capture nothing of what was asked for.
    pub(super) fn contradiction(&self) -> Option<String> {
        if self.envoy_port == self.inbound_capture_port {
            return Some(format!(
                "-p and -z are both {}: Envoy tells outbound from inbound traffic by the port that takes \
                 it, so give two",
                self.envoy_port.0
            ));
        }
        if self.proxy_uid.0.is_empty() && self.proxy_gid.0.is_empty() {
            return Some(format!(
                "-u and -g are both empty: nothing would spare Envoy's own traffic, which would come \
                 back to it for ever. Give its user or its group, {PROXY_UID} as a rule"
            ));
        }
        let only_ipv6 = self.lacks(Family::V4) && !self.lacks(Family::V6);
        if only_ipv6 && self.ipv6 == Ipv6Mode::No {
            return Some(format!(
                "-i {} names IPv6 only, which is not captured: no outbound traffic would be. Give IPv4 \
                 ranges too, \"\" for none, or --ipv6 yes",
                self.shown_ranges()
            ));
        }
        None
    }

    /// What is done as asked, as Istio does it too, and might not have been meant.
    pub(super) fn warning(&self, v6: bool) -> Option<String> {
        let none = |family: &str, other: &str| {
            format!(
                "-i {} names {other} ranges only: no outbound {family} traffic is captured",
                self.shown_ranges()
            )
        };
        match (self.lacks(Family::V4), self.lacks(Family::V6)) {
            (true, false) => Some(none("IPv4", "IPv6")),
            (false, true) if v6 => Some(none("IPv6", "IPv4")),
            _ => None,
        }
    }

    /// Whether ranges are listed, and none is of this family.
    fn lacks(&self, family: Family) -> bool {
        match &self.istio_service_cidr.0 {
            Selection::All => false,
            Selection::Only(ranges) => !ranges.iter().any(|range| range.is_of(family)),
        }
    }

    fn shown_ranges(&self) -> String {
        match &self.istio_service_cidr.0 {
            Selection::All => "*".to_owned(),
            Selection::Only(ranges) => {
                ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        }
    }

    pub(super) fn capture(&self) -> Capture {
        let Redirect = self.istio_inbound_interception_mode;
        let numbers = |ports: &[Port]| ports.iter().map(|port| port.0.get()).collect();
        Capture {
            outbound_port: self.envoy_port.0.get(),
            inbound_port: self.inbound_capture_port.0.get(),
            proxy_uids: self.proxy_uid.0.clone(),
            proxy_gids: self.proxy_gid.0.clone(),
            inbound_ports: match &self.istio_inbound_ports.0 {
                Selection::All => Selection::All,
                Selection::Only(ports) => Selection::Only(numbers(ports)),
            },
            inbound_ports_excluded: numbers(&self.istio_local_exclude_ports.0),
            outbound_ranges: self.istio_service_cidr.0.clone(),
            outbound_ranges_excluded: self.istio_service_exclude_cidr.0.clone(),
            outbound_ports: numbers(&self.istio_outbound_ports.0),
            outbound_ports_excluded: numbers(&self.istio_local_outbound_ports_exclude.0),
            interfaces_excluded: self
                .istio_exclude_interfaces
                .0
                .iter()
                .map(|i| i.0.clone())
                .collect(),
        }
    }
}

/// A port that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port(NonZeroU16);

impl Port {
    /// One of [`crate::well_known`].
    const fn from_number(number: u16) -> Self {
        match NonZeroU16::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU16::MIN),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "not a port: a number from 1 to 65535")
    }
}

/// `a,b,c`; nothing is the empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List<T>(Vec<T>);

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&items.join(","))
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let read = |item: &str| {
            item.parse().map_err(|error: T::Err| match error.to_string() {
                said if said.contains(item) => said,
                said => format!("{item:?}: {said}"),
            })
        };
        items.map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// `*` or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllOrList<T>(Selection<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for AllOrList<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self(Selection::All));
        }
        text.parse::<List<T>>().map(|list| Self(Selection::Only(list.0)))
    }
}

/// A name that the kernel accepts, so that it cannot be anything else in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interface(String);

impl FromStr for Interface {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
        if text.len() <= 15 && !text.starts_with('-') && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("not the name of a network interface, like eth0")
        }
    }
}

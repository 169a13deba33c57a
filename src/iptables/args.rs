//! The flags of `pilothouse iptables`, which are istio-iptables' own.

use std::fmt;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser as _, ValueEnum};

use super::{Capture, Cidr, Selection};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Toggle {
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
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Port of Envoy that takes outbound traffic
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 15001)]
    envoy_port: u16,

    /// Port of Envoy that takes inbound traffic
    #[arg(short = 'z', long, value_name = "PORT", default_value_t = 15006)]
    inbound_capture_port: u16,

    /// User ids whose traffic is Envoy's own and not captured
    #[arg(short = 'u', long, value_name = "UIDS", default_value = "1337")]
    proxy_uid: List<u32>,

    /// Group ids likewise
    #[arg(short = 'g', long, value_name = "GIDS", default_value = "1337")]
    proxy_gid: List<u32>,

    /// How inbound traffic is captured; REDIRECT alone is supported
    #[arg(short = 'm', long, value_name = "MODE", default_value = "REDIRECT")]
    istio_inbound_interception_mode: Redirect,

    /// Capture outbound traffic to these ranges of addresses; * for all, "" for none
    #[arg(short = 'i', long, value_name = "CIDRS", default_value = "*")]
    istio_service_cidr: Starred<Cidr>,

    /// Leave outbound traffic to these ranges alone
    #[arg(short = 'x', long, value_name = "CIDRS", default_value = "")]
    istio_service_exclude_cidr: List<Cidr>,

    /// Capture inbound traffic to these ports; * for all, "" for none
    #[arg(short = 'b', long, value_name = "PORTS", default_value = "*")]
    istio_inbound_ports: Starred<u16>,

    /// Leave inbound traffic to these ports alone; 15000, 15020, 15021 and 15090 are always
    #[arg(short = 'd', long, value_name = "PORTS", default_value = "")]
    istio_local_exclude_ports: List<u16>,

    /// Capture outbound traffic to these ports, whatever the address
    #[arg(short = 'q', long, value_name = "PORTS", default_value = "")]
    istio_outbound_ports: List<u16>,

    /// Leave outbound traffic to these ports alone; 53 (DNS) always is
    #[arg(short = 'o', long, value_name = "PORTS", default_value = "")]
    istio_local_outbound_ports_exclude: List<u16>,

    /// Leave traffic of these network interfaces alone
    #[arg(short = 'c', long, value_name = "INTERFACES", default_value = "")]
    istio_exclude_interfaces: List<Interface>,

    /// Whether IPv6 is captured too. Only where Envoy listens on IPv6: Pilothouse's own sidecar
    /// listeners are IPv4's, and captured connections would be refused
    #[arg(long, value_enum, default_value = "no")]
    pub(super) ipv6: Toggle,

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
struct Alone {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// Whether a flag may have this value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(flag: &str, value: &str) -> Result<(), String> {
        match Alone::try_parse_from([flag, value]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                Err(source.unwrap_or_else(|| error.kind().to_string()))
            }
        }
    }

    pub(super) fn capture(&self) -> Capture {
        let Redirect = self.istio_inbound_interception_mode;
        Capture {
            outbound_port: self.envoy_port,
            inbound_port: self.inbound_capture_port,
            proxy_uids: self.proxy_uid.0.clone(),
            proxy_gids: self.proxy_gid.0.clone(),
            inbound_ports: self.istio_inbound_ports.0.clone(),
            inbound_ports_excluded: self.istio_local_exclude_ports.0.clone(),
            outbound_ranges: self.istio_service_cidr.0.clone(),
            outbound_ranges_excluded: self.istio_service_exclude_cidr.0.clone(),
            outbound_ports: self.istio_outbound_ports.0.clone(),
            outbound_ports_excluded: self.istio_local_outbound_ports_exclude.0.clone(),
            interfaces_excluded: self
                .istio_exclude_interfaces
                .0
                .iter()
                .map(|i| i.0.clone())
                .collect(),
        }
    }
}

/// `a,b,c`; nothing is the empty list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List<T>(Vec<T>);

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
struct Starred<T>(Selection<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for Starred<T> {
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

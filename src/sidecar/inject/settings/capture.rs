//! What traffic of a pod is captured, as annotations and settings say it, in Istio's words; each is a
//! flag of `pilothouse iptables`.

use serde::Deserialize;

use crate::sidecar::iptables::IptablesArgs;

/// What is captured in pods whose annotations `traffic.sidecar.istio.io/...` say nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Capture {
    /// Capture inbound traffic to these ports; * for all, "" for none [default: all]
    #[arg(long, value_name = "PORTS")]
    pub include_inbound_ports: Option<String>,

    /// Leave inbound traffic to these ports alone
    #[arg(long, value_name = "PORTS")]
    pub exclude_inbound_ports: Option<String>,

    /// Capture outbound traffic to these ranges of addresses; * for all, "" for none [default: all]
    #[arg(long, value_name = "CIDRS")]
    #[serde(rename = "includeOutboundIPRanges")]
    pub include_outbound_ip_ranges: Option<String>,

    /// Leave outbound traffic to these ranges alone
    #[arg(long, value_name = "CIDRS")]
    #[serde(rename = "excludeOutboundIPRanges")]
    pub exclude_outbound_ip_ranges: Option<String>,

    /// Capture outbound traffic to these ports, whatever the address
    #[arg(long, value_name = "PORTS")]
    pub include_outbound_ports: Option<String>,

    /// Leave outbound traffic to these ports alone
    #[arg(long, value_name = "PORTS")]
    pub exclude_outbound_ports: Option<String>,

    /// Leave traffic of these network interfaces alone
    #[arg(long, value_name = "INTERFACES")]
    pub exclude_interfaces: Option<String>,
}

impl Capture {
    /// The flags of `pilothouse iptables`, with what is given for each.
    pub(in crate::sidecar::inject) fn flags(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("-b", self.include_inbound_ports.as_deref()),
            ("-d", self.exclude_inbound_ports.as_deref()),
            ("-i", self.include_outbound_ip_ranges.as_deref()),
            ("-x", self.exclude_outbound_ip_ranges.as_deref()),
            ("-q", self.include_outbound_ports.as_deref()),
            ("-o", self.exclude_outbound_ports.as_deref()),
            ("-c", self.exclude_interfaces.as_deref()),
        ]
    }

    /// Whether istio-init would take each, and all of them together.
    pub(super) fn check(&self) -> Result<(), String> {
        const NAMES: [&str; 7] = [
            "includeInboundPorts",
            "excludeInboundPorts",
            "includeOutboundIPRanges",
            "excludeOutboundIPRanges",
            "includeOutboundPorts",
            "excludeOutboundPorts",
            "excludeInterfaces",
        ];
        let mut all = Vec::new();
        for (name, (flag, value)) in NAMES.into_iter().zip(self.flags()) {
            let Some(value) = value else { continue };
            IptablesArgs::check(&[flag, value]).map_err(|error| format!("{name}: {error}"))?;
            all.extend([flag, value]);
        }
        IptablesArgs::check(&all).map_err(|error| format!("capture: {error}"))
    }
}

//! The port numbers, the user and the address on which Istio's world agrees: the control plane serves
//! them, the sidecar is built around them, and whoever knows Istio looks for them. Named here and
//! nowhere else, so that the two wings cannot differ.

/// The control plane: xDS over plaintext gRPC.
pub const XDS_PORT: u16 = 15010;
/// The control plane: xDS over TLS.
pub const SECURE_XDS_PORT: u16 = 15012;
/// The control plane: `/ready`, `/live`, `/metrics`, `/version`.
pub const MONITORING_PORT: u16 = 15014;
/// The control plane: the debug pages.
pub const DEBUG_PORT: u16 = 8080;

/// The sidecar: Envoy's admin.
pub const ENVOY_ADMIN_PORT: u16 = 15000;
/// The sidecar: the listener that iptables redirects outgoing connections to.
pub const OUTBOUND_CAPTURE_PORT: u16 = 15001;
/// The sidecar: the listener that iptables redirects incoming connections to.
pub const INBOUND_CAPTURE_PORT: u16 = 15006;
/// The sidecar: the agent's own pages (probes, statistics).
pub const AGENT_STATUS_PORT: u16 = 15020;
/// The sidecar: Envoy's listener for probes, which asks the agent.
pub const ENVOY_HEALTH_PORT: u16 = 15021;
/// The sidecar: Envoy's listener for Prometheus.
pub const ENVOY_PROMETHEUS_PORT: u16 = 15090;

/// The ports on which a sidecar's Envoy listens on every address. A connection that is captured on its
/// way to another host's port of such a number ends there, unless a listener for that very address
/// takes it.
pub const ENVOY_LISTENER_PORTS: [u16; 4] =
    [OUTBOUND_CAPTURE_PORT, INBOUND_CAPTURE_PORT, ENVOY_HEALTH_PORT, ENVOY_PROMETHEUS_PORT];
/// What else is bound where a sidecar runs: Envoy's admin and the agent.
pub const AGENT_PORTS: [u16; 2] = [ENVOY_ADMIN_PORT, AGENT_STATUS_PORT];
/// The ports of a sidecar that are asked for directly, whatever state Envoy's listeners are in: iptables
/// leaves them alone.
pub const UNCAPTURED_PORTS: [u16; 4] =
    [ENVOY_ADMIN_PORT, AGENT_STATUS_PORT, ENVOY_HEALTH_PORT, ENVOY_PROMETHEUS_PORT];

/// The user and the group that Envoy runs as, by which iptables tells its traffic from the
/// application's.
pub const PROXY_UID: u32 = 1337;

/// Where a proxy looks for its control plane unless it is told otherwise: `SERVICE.NAMESPACE:PORT`.
pub const DEFAULT_DISCOVERY_ADDRESS: &str = "istio-pilot.istio-system:15010";
/// The same over TLS; with `svc`, as the control plane's certificate names it first.
pub const DEFAULT_SECURE_DISCOVERY_ADDRESS: &str = "istio-pilot.istio-system.svc:15012";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_discovery_address_has_the_xds_port() {
        for (address, wanted) in [
            (DEFAULT_DISCOVERY_ADDRESS, XDS_PORT),
            (DEFAULT_SECURE_DISCOVERY_ADDRESS, SECURE_XDS_PORT),
        ] {
            assert_eq!(address.rsplit(':').next().unwrap(), wanted.to_string());
        }
    }
}

//! What is found: codes that machines may rely on, sentences for people.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Every code, its stable spelling, and how bad it is.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal $outcome:ident,)*) => {
        /// What was found, for machines: the spelling does not change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }
        }
    };
}

codes! {
    AllWell = "all_well" Well,
    /// There was not enough time to find out.
    OutOfTime = "out_of_time" Unknown,
    /// Not in a pod, beside no Envoy, and no fault to be seen from here.
    OutsideCluster = "outside_cluster" Unknown,
    /// Nothing is wrong as far as it was looked at, but what matters was not.
    NotAllExamined = "not_all_examined" Unknown,
    /// The service that was asked about cannot be looked at from here.
    ServiceNotExamined = "service_not_examined" Unknown,

    EnvoyNotRunning = "envoy_not_running" Broken,
    EnvoySilent = "envoy_silent" Broken,
    AdminPortTaken = "admin_port_taken" Broken,

    ResolvConfUnreadable = "resolv_conf_unreadable" Broken,
    NameServerSilent = "name_server_silent" Broken,
    NameServerRefused = "name_server_refused" Broken,
    NameServerUnreachable = "name_server_unreachable" Broken,
    /// An answer of REFUSED or SERVFAIL.
    NameServerFailed = "name_server_failed" Broken,
    /// resolv.conf names another address than the Service kube-dns has.
    KubeDnsMoved = "kube_dns_moved" Broken,
    KubeDnsMissing = "kube_dns_missing" Broken,
    KubeDnsNoEndpoints = "kube_dns_no_endpoints" Broken,
    NameNotFound = "name_not_found" Broken,
    PilotNotInstalled = "pilot_not_installed" Broken,
    PilotElsewhere = "pilot_in_another_namespace" Broken,

    AddressUnreachable = "address_unreachable" Broken,
    /// The name leads to another address than the Service has.
    AddressStale = "address_not_of_service" Broken,
    ConnectionRefused = "connection_refused" Broken,
    /// The pods take connections, so somebody on the way refuses them.
    ConnectionRejected = "connection_rejected" Broken,
    PacketsDropped = "packets_dropped" Broken,
    /// Nothing listens on the TLS port, while the plaintext port is there.
    OnlyPlaintextServed = "only_plaintext_port_open" Broken,
    /// The other way round.
    OnlyTlsServed = "only_tls_port_open" Broken,
    PilotSelectsNoPod = "pilot_selects_no_pod" Broken,
    PilotPortMismatch = "pilot_port_mismatch" Broken,
    PilotPodsNotReady = "pilot_pods_not_ready" Broken,

    PortSpeaksHttp1 = "port_speaks_http1" Broken,
    PlaintextToTls = "plaintext_to_tls_port" Broken,
    TlsToPlaintext = "tls_to_plaintext_port" Broken,
    PortSpeaksOther = "port_speaks_something_else" Broken,
    PilotSilent = "pilot_silent" Broken,
    NotGrpc = "not_grpc" Broken,
    NotAPilot = "not_a_pilot" Broken,

    /// The file with the authorities is missing or of no use.
    TlsCaUnusable = "tls_ca_unusable" Broken,
    /// Every authority in it is out of its time, by whichever clock.
    TlsCaExpired = "tls_ca_expired" Broken,
    ServerCertificateExpired = "server_certificate_expired" Broken,
    ServerCertificateNotYetValid = "server_certificate_not_yet_valid" Broken,
    ServerCertificateWrongName = "server_certificate_wrong_name" Broken,
    ServerCertificateUnknownCa = "server_certificate_unknown_ca" Broken,
    /// Whatever else is wrong with it.
    ServerCertificateUnusable = "server_certificate_unusable" Broken,
    /// The control plane wants one, and there is none.
    ClientCertificateMissing = "client_certificate_missing" Broken,
    ClientCertificateUnusable = "client_certificate_unusable" Broken,
    ClientCertificateExpired = "client_certificate_expired" Broken,
    ClientCertificateNotYetValid = "client_certificate_not_yet_valid" Broken,
    ClientCertificateRefused = "client_certificate_refused" Broken,
    AlpnMissing = "alpn_missing" Broken,
    TlsHandshakeFailed = "tls_handshake_failed" Broken,
    /// What is out of its time by one clock is not by the other.
    ClockSkew = "clock_skew" Broken,

    TokenMissing = "token_missing" Broken,
    TokenUnusable = "token_unusable" Broken,
    TokenExpired = "token_expired" Broken,
    TokenNotYetValid = "token_not_yet_valid" Broken,
    TokenWrongAudience = "token_wrong_audience" Broken,
    TokenRefused = "token_refused" Broken,
    /// The control plane cannot verify tokens at the moment.
    TokenNotVerified = "token_not_verified" Broken,
    /// The control plane wants to know who asks, and is told nothing.
    IdentityMissing = "identity_missing" Broken,
    /// The identity is of another namespace than the proxy's node.
    NamespaceMismatch = "namespace_mismatch" Broken,

    PilotNotReady = "pilot_not_ready" Broken,
    /// Proxies are served, but one of the replicas does not become ready.
    PilotReplicaNotReady = "pilot_replica_not_ready" Broken,
    PilotStale = "pilot_stale" Broken,
    NodeRefused = "node_refused" Broken,
    LimitRefused = "limit_refused" Broken,
    StreamRefused = "stream_refused" Broken,
    StreamSilent = "stream_silent" Broken,

    ConfigRejected = "config_rejected" Broken,
    EnvoyNotConnected = "envoy_not_connected" Broken,
    WorkersNotStarted = "workers_not_started" Broken,
    /// Clusters on demand, and SotW.
    OnDemandNeedsDelta = "on_demand_needs_delta" Broken,
    /// They were asked for, and this proxy cannot have them.
    OnDemandNotPossible = "on_demand_not_possible" Broken,
    /// The control plane sends all.
    OnDemandNotServed = "on_demand_not_served" Broken,
    CaptureMissing = "capture_missing" Broken,
    CaptureLoops = "capture_loops" Broken,

    ServiceNotFound = "service_not_found" Broken,
    ServicePortNotFound = "service_port_not_found" Broken,
    ServiceSelectsNoPod = "service_selects_no_pod" Broken,
    ServicePortMismatch = "service_port_mismatch" Broken,
    ServicePodsNotReady = "service_pods_not_ready" Broken,
    /// It has none, and from here it cannot be seen why.
    ServiceNoEndpoints = "service_no_endpoints" Broken,
    /// Endpoints there are, none of which takes connections.
    ServiceConnectionsFail = "service_connections_fail" Broken,
    /// Every request that Envoy had for it has failed.
    ServiceRequestsFail = "service_requests_fail" Broken,
    /// An HTTP port whose server speaks before it is asked.
    ServiceSpeaksFirst = "service_speaks_first" Broken,
    /// An HTTP port whose server answers with something else, or whose Envoy says so.
    ServiceNotHttp = "service_not_http" Broken,

    /// A route names the service as a parent and does not apply.
    RouteNotAccepted = "route_not_accepted" Broken,
    RouteReferenceNotGranted = "route_reference_not_granted" Broken,
    RouteBackendNotFound = "route_backend_not_found" Broken,
    /// It is there and cannot be led to, or it is not known what is wrong with it.
    RouteBackendInvalid = "route_backend_invalid" Broken,
    RouteBackendsNoEndpoints = "route_backends_no_endpoints" Broken,
    /// For the request that was asked about.
    RouteNoRuleMatches = "route_no_rule_matches" Broken,
    /// Kubernetes has routes, and the control plane does not know them.
    RoutesNotSeen = "routes_not_seen" Broken,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How it stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Well,
    Broken,
    /// Could not tell.
    Unknown,
}

impl Outcome {
    /// The program's exit code. Not 2, which is a mistake in the arguments, as everywhere.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Broken => 1,
            Self::Unknown => 3,
        }
    }
}

/// A fault, its cause and what to do, each a sentence without a full stop.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) cause: String,
    pub(super) fix: String,
}

impl Finding {
    pub(super) fn new(code: Code, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, cause: cause.into(), fix: fix.into() }
    }
}

/// How one link of the path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    Well,
    Broken,
    /// It could not be looked at, which is no fault.
    Unknown,
}

/// One link of the path, as far as it was walked.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    pub name: &'static str,
    pub state: LinkState,
    /// What was seen.
    pub said: String,
    /// How long looking took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

/// What the walk found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    pub code: Code,
    pub outcome: Outcome,
    /// The cause in one sentence.
    pub cause: String,
    /// What to do, in one sentence; empty if nothing.
    pub fix: String,
    /// The links in their order, up to the first broken one.
    pub links: Vec<Link>,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // To the microsecond: more is noise, and f64 would show it.
    serializer.serialize_f64(duration.as_micros() as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_told_once_and_stands_in_the_docs() {
        let docs = include_str!("../../../docs/doctor.md");
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?} has another's spelling");
            assert!(docs.contains(&format!("`{}`", code.as_str())), "{code:?} is not in the docs");
        }
    }
}

//! What is behind a service's port that has endpoints: whether they take connections, who speaks first,
//! and what became of Envoy's own requests. Kubernetes knows none of that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::connect::{self, ConnectError};
use super::finding::{Code, Finding};
use crate::names::{ClusterName, Spoken};

/// Endpoints of a port that are tried: if all of these have the same fault, so have the others.
const MAX_PROBED: usize = 3;
/// How long a server that speaks first may take to begin.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_millis(500);

/// What an endpoint does with a connection on which nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// It waits, as a server of HTTP does.
    Waits,
    Refused,
    /// From here it cannot be reached, which says nothing about it.
    Unreachable,
    /// It speaks first.
    SpeaksFirst(String),
}

/// One port of a service.
#[derive(Clone, Debug)]
pub(super) struct PortToProbe {
    pub(super) port: u16,
    pub(super) spoken: Spoken,
    pub(super) addresses: Vec<SocketAddr>,
    /// That it leads to a port that the pods do not declare.
    pub(super) undeclared: Option<String>,
}

/// What Envoy has counted for a cluster, over the endpoints that it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterCounters {
    pub(super) connections: u64,
    pub(super) failed_connections: u64,
    pub(super) successes: u64,
    pub(super) errors: u64,
}

impl ClusterCounters {
    /// Reads `/clusters?format=json`.
    pub(super) fn read(page: &Value, host: &str, port: u16) -> Self {
        let mut counts = Self::default();
        let all = page["cluster_statuses"].as_array().into_iter().flatten();
        let own = all.filter(|cluster| {
            let name = cluster["name"].as_str().and_then(ClusterName::parse);
            name == Some(ClusterName::Outbound { port, host })
        });
        let hosts = own.filter_map(|cluster| cluster["host_statuses"].as_array()).flatten();
        for stat in hosts.filter_map(|host| host["stats"].as_array()).flatten() {
            // A counter is a string of digits, as protoJSON has 64 bits.
            let text = stat["value"].as_str().and_then(|text| text.parse().ok());
            let value: u64 = text.or_else(|| stat["value"].as_u64()).unwrap_or_default();
            match stat["name"].as_str() {
                Some("cx_total") => counts.connections += value,
                Some("cx_connect_fail") => counts.failed_connections += value,
                Some("rq_success") => counts.successes += value,
                Some("rq_error") => counts.errors += value,
                _ => {}
            }
        }
        counts
    }
}

/// Tries some endpoints. Those of this pod itself are asked past its Envoy, which would take every
/// connection and say nothing.
pub(super) async fn probe_endpoints(
    addresses: &[SocketAddr],
    own: &[IpAddr],
    limit: Duration,
) -> Vec<(SocketAddr, ProbeResult)> {
    let tried = addresses.iter().take(MAX_PROBED).map(async |place| {
        let address = match (own.contains(&place.ip()), place) {
            (true, SocketAddr::V4(_)) => (Ipv4Addr::LOCALHOST, place.port()).into(),
            (true, SocketAddr::V6(_)) => (Ipv6Addr::LOCALHOST, place.port()).into(),
            (false, _) => *place,
        };
        (*place, probe_endpoint(address, limit).await)
    });
    futures::future::join_all(tried).await
}

async fn probe_endpoint(address: SocketAddr, limit: Duration) -> ProbeResult {
    let mut stream = match connect::tcp(address, limit.saturating_sub(FIRST_BYTES_TIMEOUT)).await {
        Ok(stream) => stream,
        Err(ConnectError::Refused) => return ProbeResult::Refused,
        Err(ConnectError::Unreachable(_) | ConnectError::Timeout) => {
            return ProbeResult::Unreachable;
        }
    };
    let mut heard = [0; 64];
    match timeout(FIRST_BYTES_TIMEOUT, stream.read(&mut heard)).await {
        Ok(Ok(length @ 1..)) => {
            ProbeResult::SpeaksFirst(connect::printable(heard.get(..length).unwrap_or_default()))
        }
        // Whoever hangs up at once may just not like strangers.
        Ok(_) | Err(_) => ProbeResult::Waits,
    }
}

/// What is wrong with a port of the service `name`, if anything.
pub(super) fn port_fault(
    name: &str,
    port: &PortToProbe,
    probes: &[(SocketAddr, ProbeResult)],
    counts: ClusterCounters,
) -> Option<Finding> {
    let spoke = probes.iter().find_map(|(place, probe)| match probe {
        ProbeResult::SpeaksFirst(words) => Some((place, words)),
        _ => None,
    });
    let number = port.port;
    if let (Some((place, words)), true) = (spoke, port.spoken.is_http()) {
        return Some(Finding::new(
            Code::ServiceSpeaksFirst,
            format!(
                "port {number} of service {name} is spoken to as HTTP, by its name or appProtocol, \
                 but its server speaks first, which no HTTP server does: {place} says {words:?}; so \
                 client and server wait for each other"
            ),
            "rename the Service's port (tcp-db, mysql), or set its appProtocol to tcp",
        ));
    }
    let refused =
        !probes.is_empty() && probes.iter().all(|(_, probe)| *probe == ProbeResult::Refused);
    let unconnected =
        counts.failed_connections > 0 && counts.failed_connections >= counts.connections;
    let unanswered = counts.errors > 0 && counts.successes == 0;
    let (code, seen) = if refused {
        let addresses: Vec<String> = probes.iter().map(|(place, _)| place.to_string()).collect();
        let seen = format!("nobody listens there: {} refuse connections", addresses.join(", "));
        (Code::ServiceConnectionsFail, seen)
    } else if unconnected {
        let seen = format!("Envoy's {} attempts to connect all failed", counts.failed_connections);
        (Code::ServiceConnectionsFail, seen)
    } else if unanswered {
        let seen = format!("all of Envoy's {} requests to it failed", counts.errors);
        (Code::ServiceRequestsFail, seen)
    } else {
        return None;
    };
    let (why, fix) = match &port.undeclared {
        Some(undeclared) => (
            format!("; {undeclared}"),
            "correct the Service's targetPort: it is the port on which the application listens",
        ),
        None => (
            String::new(),
            "see whether the Service's targetPort is the port on which the application listens, on \
             the pod's address and not on 127.0.0.1 alone, and what its log says",
        ),
    };
    let cause = format!("port {number} of service {name} has endpoints, but {seen}{why}");
    Some(Finding::new(code, cause, fix))
}

/// What is worth knowing of a port without being a fault.
pub(super) fn port_note(name: &str, port: &PortToProbe, port_name: &str) -> Option<String> {
    if port.spoken == Spoken::Unsaid {
        return Some(format!(
            "port {} of service {name} is spoken to as TCP since its name {port_name:?} says no \
             protocol; if it is HTTP, call it http-{} or set its appProtocol to http",
            port.port,
            if port_name.is_empty() { "web" } else { port_name },
        ));
    }
    port.undeclared.as_ref().map(|undeclared| format!("service {name}: {undeclared}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(spoken: Spoken) -> PortToProbe {
        let addresses = vec!["10.1.2.3:3306".parse().unwrap()];
        PortToProbe { port: 3306, spoken, addresses, undeclared: None }
    }

    fn code(port: &PortToProbe, probe: ProbeResult, counts: ClusterCounters) -> Option<Code> {
        port_fault("db", port, &[(port.addresses[0], probe)], counts).map(|finding| finding.code)
    }

    #[test]
    fn a_server_that_speaks_first_is_a_fault_of_an_http_port_only() {
        let spoke = ProbeResult::SpeaksFirst("5.7.44-log".to_owned());
        let none = ClusterCounters::default();
        for spoken in [Spoken::Http, Spoken::Http2, Spoken::Grpc] {
            assert_eq!(
                code(&port(spoken), spoke.clone(), none),
                Some(Code::ServiceSpeaksFirst),
                "{spoken:?}"
            );
        }
        for spoken in [Spoken::Tcp, Spoken::Tls, Spoken::Unsaid] {
            assert_eq!(code(&port(spoken), spoke.clone(), none), None, "{spoken:?}");
        }
        assert_eq!(code(&port(Spoken::Http), ProbeResult::Waits, none), None);
    }

    #[test]
    fn failures_count_only_if_nothing_succeeds() {
        let http = port(Spoken::Http);
        let none = ClusterCounters::default();
        assert_eq!(code(&http, ProbeResult::Refused, none), Some(Code::ServiceConnectionsFail));
        assert_eq!(code(&http, ProbeResult::Unreachable, none), None, "from here");
        let counts = |connections, failed_connections, successes, errors| ClusterCounters {
            connections,
            failed_connections,
            successes,
            errors,
        };
        let of = |counts| code(&http, ProbeResult::Waits, counts);
        assert_eq!(of(counts(3, 3, 0, 3)), Some(Code::ServiceConnectionsFail));
        assert_eq!(of(counts(3, 1, 7, 3)), None);
        assert_eq!(of(counts(1, 0, 0, 9)), Some(Code::ServiceRequestsFail));
        assert_eq!(of(counts(1, 0, 1, 9)), None);
    }

    #[test]
    fn a_wrong_target_port_is_the_cause_where_it_is_seen() {
        let undeclared = Some("its port 80 leads to port 9999 of the pods".to_owned());
        let wrong = PortToProbe { undeclared, ..port(Spoken::Http) };
        let probes = [(wrong.addresses[0], ProbeResult::Refused)];
        let found = port_fault("a", &wrong, &probes, ClusterCounters::default()).unwrap();
        assert!(found.cause.contains("leads to port 9999"), "{}", found.cause);
        assert!(found.fix.contains("targetPort"), "{}", found.fix);
        assert!(port_note("a", &wrong, "http").unwrap().contains("9999"));
    }

    #[test]
    fn a_name_without_a_protocol_is_noted() {
        let said = port_note("a", &port(Spoken::Unsaid), "web").unwrap();
        let words = "spoken to as TCP since its name \"web\" says no protocol";
        assert!(said.contains(words) && said.contains("http-web"), "{said}");
        assert_eq!(port_note("a", &port(Spoken::Http), "http"), None);
        assert_eq!(port_note("a", &port(Spoken::Tcp), "mysql"), None);
    }

    #[test]
    fn envoys_page_is_summed_over_a_clusters_hosts() {
        let stats = |errors: &str| {
            json!([{ "name": "cx_total", "value": "2" }, { "name": "cx_connect_fail" },
                { "name": "rq_error", "value": errors }, { "name": "rq_success", "value": 1 }])
        };
        let page = json!({ "cluster_statuses": [
            { "name": "outbound|80||a.default.svc.cluster.local",
              "host_statuses": [{ "stats": stats("3") }, { "stats": stats("4") }] },
            { "name": "outbound|81||a.default.svc.cluster.local",
              "host_statuses": [{ "stats": stats("90") }] },
        ]});
        let counts = ClusterCounters::read(&page, "a.default.svc.cluster.local", 80);
        let wanted =
            ClusterCounters { connections: 4, failed_connections: 0, successes: 2, errors: 7 };
        assert_eq!(counts, wanted);
    }
}

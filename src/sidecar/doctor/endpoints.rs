//! What is behind a service's port that has endpoints, by what they do with connections and by what became
//! of Envoy's own requests: Kubernetes knows none of that. Pure.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::endpoint_probe::ProbeResult;
use super::finding::{Code, Finding};

use crate::names::{self, ClusterName, PortProtocol};

/// One port of a service.
#[derive(Clone, Debug)]
pub(super) struct PortToProbe {
    pub(super) port: u16,
    pub(super) spoken: PortProtocol,
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
            let name = service_cluster(cluster).and_then(ClusterName::parse);
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

/// The name of a cluster of `/clusters?format=json` as it has the Service: on demand a cluster may be
/// called by an address, and its statistics are the Service's.
pub(super) fn service_cluster(cluster: &Value) -> Option<&str> {
    let name = cluster["name"].as_str()?;
    let by_address = match ClusterName::parse(name) {
        Some(ClusterName::Outbound { host, .. }) => host.parse::<IpAddr>().is_ok(),
        _ => false,
    };
    let of_statistics = cluster["observability_name"].as_str().filter(|_| by_address);
    Some(of_statistics.map_or(name, |name| names::named_by_stat_name(name).unwrap_or(name)))
}

/// What is wrong with a port of the service `name`, if anything.
pub(super) fn port_fault(
    name: &str,
    port: &PortToProbe,
    probes: &[(SocketAddr, ProbeResult)],
    counts: ClusterCounters,
) -> Option<Finding> {
    let not_http = probes.iter().find_map(|(place, probe)| not_http(name, port, *place, probe));
    if not_http.is_some() {
        return not_http;
    }
    let number = port.port;
    let nobody =
        |probe: &ProbeResult| matches!(probe, ProbeResult::Refused | ProbeResult::NobodyBehind(_));
    let refused = !probes.is_empty() && probes.iter().all(|(_, probe)| nobody(probe));
    let unconnected =
        counts.failed_connections > 0 && counts.failed_connections >= counts.connections;
    let unanswered = counts.errors > 0 && counts.successes == 0;
    let (code, seen) = if refused {
        let addresses: Vec<String> =
            probes.iter().map(|(place, probe)| nobody_listens(*place, probe)).collect();
        let seen = format!("nobody listens there: {}", addresses.join(", "));
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

/// A port of HTTP whose server speaks something else.
fn not_http(
    name: &str,
    port: &PortToProbe,
    place: SocketAddr,
    probe: &ProbeResult,
) -> Option<Finding> {
    if !port.spoken.is_http() {
        return None;
    }
    let (code, but) = match probe {
        ProbeResult::SpeaksFirst(words) => (
            Code::ServiceSpeaksFirst,
            format!(
                "its server speaks first, which no HTTP server does: {place} says {words:?}; so \
                 client and server wait for each other"
            ),
        ),
        ProbeResult::NotHttp(words) => {
            (Code::ServiceNotHttp, format!("asked for a page {place} answers {words:?}"))
        }
        ProbeResult::NotHttpBehind(words) => (
            Code::ServiceNotHttp,
            format!(
                "its server speaks something else: asked for a page the Envoy of {place} answers \
                 {words:?}. A server that speaks first, as those of databases do, shows itself so \
                 behind a sidecar, and its clients wait for ever"
            ),
        ),
        ProbeResult::Http2Only => (
            Code::ServiceNotHttp,
            format!("{place} speaks HTTP/2 alone, while Envoy speaks HTTP/1 to it"),
        ),
        ProbeResult::Waits
        | ProbeResult::Refused
        | ProbeResult::Unreachable
        | ProbeResult::NobodyBehind(_) => return None,
    };
    let fix = match probe {
        ProbeResult::Http2Only => {
            "rename the Service's port (http2-web, grpc-api), or set its appProtocol"
        }
        _ => "rename the Service's port (tcp-db, mysql), or set its appProtocol to tcp",
    };
    let cause = format!(
        "port {} of service {name} is spoken to as HTTP, by its name or appProtocol, but {but}",
        port.port
    );
    Some(Finding::new(code, cause, fix))
}

/// How it shows that nobody listens at an endpoint.
fn nobody_listens(place: SocketAddr, probe: &ProbeResult) -> String {
    match probe {
        ProbeResult::NobodyBehind(words) => format!("the Envoy of {place} answers {words:?}"),
        _ => format!("{place} refuses the connection"),
    }
}

/// What is worth knowing of a port without being a fault.
pub(super) fn port_note(name: &str, port: &PortToProbe, port_name: &str) -> Option<String> {
    if port.spoken == PortProtocol::Unknown {
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

    fn port(spoken: PortProtocol) -> PortToProbe {
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
        for spoken in [PortProtocol::Http, PortProtocol::Http2, PortProtocol::Grpc] {
            assert_eq!(
                code(&port(spoken), spoke.clone(), none),
                Some(Code::ServiceSpeaksFirst),
                "{spoken:?}"
            );
        }
        for spoken in [PortProtocol::Tcp, PortProtocol::Tls, PortProtocol::Unknown] {
            assert_eq!(code(&port(spoken), spoke.clone(), none), None, "{spoken:?}");
        }
        assert_eq!(code(&port(PortProtocol::Http), ProbeResult::Waits, none), None);
    }

    #[test]
    fn a_server_behind_an_envoy_that_speaks_no_http_is_told() {
        let none = ClusterCounters::default();
        for probe in [
            ProbeResult::NotHttp("-ERR".to_owned()),
            ProbeResult::NotHttpBehind("reset reason: protocol error".to_owned()),
            ProbeResult::Http2Only,
        ] {
            let http = code(&port(PortProtocol::Http), probe.clone(), none);
            assert_eq!(http, Some(Code::ServiceNotHttp), "{probe:?}");
            assert_eq!(code(&port(PortProtocol::Tcp), probe, none), None);
        }
        let nobody = ProbeResult::NobodyBehind("remote connection failure".to_owned());
        let found = code(&port(PortProtocol::Http), nobody, none);
        assert_eq!(found, Some(Code::ServiceConnectionsFail));
    }

    #[test]
    fn failures_count_only_if_nothing_succeeds() {
        let http = port(PortProtocol::Http);
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
        let wrong = PortToProbe { undeclared, ..port(PortProtocol::Http) };
        let probes = [(wrong.addresses[0], ProbeResult::Refused)];
        let found = port_fault("a", &wrong, &probes, ClusterCounters::default()).unwrap();
        assert!(found.cause.contains("leads to port 9999"), "{}", found.cause);
        assert!(found.fix.contains("targetPort"), "{}", found.fix);
        assert!(port_note("a", &wrong, "http").unwrap().contains("9999"));
    }

    #[test]
    fn a_name_without_a_protocol_is_noted() {
        let said = port_note("a", &port(PortProtocol::Unknown), "web").unwrap();
        let words = "spoken to as TCP since its name \"web\" says no protocol";
        assert!(said.contains(words) && said.contains("http-web"), "{said}");
        assert_eq!(port_note("a", &port(PortProtocol::Http), "http"), None);
        assert_eq!(port_note("a", &port(PortProtocol::Tcp), "mysql"), None);
    }

    #[test]
    fn a_cluster_by_address_is_the_services() {
        let cluster = json!({
            "name": "outbound|80||10.96.1.1",
            "observability_name": "outbound|80||a.default.svc.cluster.local;",
        });
        assert_eq!(service_cluster(&cluster), Some("outbound|80||a.default.svc.cluster.local"));
        let plain = json!({ "name": "outbound|80||a", "observability_name": "outbound|80||b;" });
        assert_eq!(service_cluster(&plain), Some("outbound|80||a"));
        assert_eq!(service_cluster(&json!({})), None);
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

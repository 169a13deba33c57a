//! What a broken link means, and what to do: from what was seen to a finding. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::connect::{ConnectError, Protocol};
use super::dns::{QueryError, Reply};
use super::envoy::{Envoy, Rejection};
use super::finding::{Code, Finding};
use crate::sidecar::host_port::HostPort;

/// No name server is of use.
pub(super) fn no_name_server(
    replies: &[(SocketAddr, Result<Reply, QueryError>)],
    path: &str,
) -> Finding {
    let of = |wanted: fn(&Result<Reply, QueryError>) -> bool| -> Vec<String> {
        let fitting = replies.iter().filter(|(_, reply)| wanted(reply));
        fitting.map(|(server, _)| server.ip().to_string()).collect()
    };
    let failed = replies.iter().find_map(|(server, reply)| match reply {
        Ok(Reply::Error(code)) => Some((server.ip(), *code)),
        _ => None,
    });
    if let Some((server, code)) = failed {
        return Finding::new(
            Code::NameServerFailed,
            format!("name server {server} of {path} answers every question with {code}"),
            "look into its log (kubectl -n kube-system logs -l k8s-app=kube-dns) and its \
             configuration",
        );
    }
    let refused = of(|reply| matches!(reply, Err(QueryError::Refused)));
    if !refused.is_empty() {
        return Finding::new(
            Code::NameServerRefused,
            format!(
                "name server {} of {path} is refused: nothing listens on its port",
                refused.join(", ")
            ),
            "see whether kube-dns has pods that are ready (kubectl -n kube-system get pods -l \
             k8s-app=kube-dns) and whether the address is its Service's",
        );
    }
    let unreachable =
        of(|reply| matches!(reply, Err(QueryError::Unreachable(_) | QueryError::Malformed(_))));
    if !unreachable.is_empty() {
        let why: Vec<String> = replies
            .iter()
            .filter_map(|(_, reply)| reply.as_ref().err())
            .map(ToString::to_string)
            .collect();
        return Finding::new(
            Code::NameServerUnreachable,
            format!("name server {} of {path}: {}", unreachable.join(", "), why.join("; ")),
            "see whether the address is that of the Service kube-dns (kubectl -n kube-system get \
             service kube-dns) and whether kube-proxy runs on this node",
        );
    }
    Finding::new(
        Code::NameServerSilent,
        format!(
            "name server {} of {path} does not answer",
            of(|reply| matches!(reply, Err(QueryError::Timeout))).join(", ")
        ),
        "compare the address with the Service's (kubectl -n kube-system get service kube-dns); if \
         it is the same, look at kube-dns' pods, at kube-proxy and at NetworkPolicies",
    )
}

pub(super) fn no_such_name(
    discovery: &HostPort,
    server: IpAddr,
    asked: &[String],
    outside: Option<&(String, String)>,
) -> Finding {
    let outside = outside.map_or_else(String::new, |(name, why)| {
        format!("; {name}, which is no name of the cluster, gets {why}")
    });
    let place = match discovery.service() {
        Some((name, Some(namespace))) => {
            format!("there is no Service {name} in namespace {namespace}, as far as DNS knows")
        }
        _ => "no such name is known".to_owned(),
    };
    Finding::new(
        Code::NameNotFound,
        format!(
            "name server {server} says that {} does not exist (asked for {}): {place}{outside}",
            discovery.host,
            asked.join(", ")
        ),
        "install Pilot (kubectl apply -k manifests), or correct the discovery address: the name is \
         SERVICE.NAMESPACE (kubectl get services -A | grep pilot)",
    )
}

pub(super) fn no_connection(
    discovery: &HostPort,
    errors: &[(SocketAddr, ConnectError)],
    limit: Duration,
) -> (String, Finding) {
    let of = |wanted: fn(&ConnectError) -> bool| {
        errors.iter().find(|(_, error)| wanted(error)).map(|(address, _)| *address)
    };
    let named = |address: SocketAddr| match discovery.address() {
        Some(_) => address.to_string(),
        None => format!("{address} ({})", discovery.host),
    };
    if let Some(address) = of(|error| matches!(error, ConnectError::Refused)) {
        let finding = Finding::new(
            Code::ConnectionRefused,
            format!("{} refuses the connection: nothing listens on that port", named(address)),
            "see whether Pilot's pods are ready (kubectl -n istio-system get pods -l istio=pilot) \
             and whether the port is its ADS port, 15010; if they are, something on the way \
             rejects it (a NetworkPolicy, a firewall)",
        );
        return (format!("{address}: connection refused"), finding);
    }
    let unreachable = errors.iter().find_map(|(address, error)| match error {
        ConnectError::Unreachable(why) => Some((*address, why)),
        _ => None,
    });
    if let Some((address, why)) = unreachable {
        let finding = Finding::new(
            Code::AddressUnreachable,
            format!("nobody is at {}: {why}", named(address)),
            "correct the address, or the Service and the DNS entry that it comes from; if it is \
             right, see whether kube-proxy runs on this node",
        );
        return (format!("{address}: {why}"), finding);
    }
    let address = of(|error| matches!(error, ConnectError::Timeout));
    let address = address.map(named).unwrap_or_else(|| discovery.to_string());
    let finding = Finding::new(
        Code::PacketsDropped,
        format!("packets to {address} are dropped: nothing came back within {limit:?}"),
        "look for a NetworkPolicy or firewall between the pod and Pilot, and see whether the \
         address is still Pilot's",
    );
    (format!("{address}: nothing comes back"), finding)
}

pub(super) fn pilot_silent(address: SocketAddr, seen: &str, limit: Duration) -> (String, Finding) {
    let finding = Finding::new(
        Code::PilotSilent,
        format!("Pilot hangs: {seen} is answered by {address} within {limit:?}"),
        "see whether its process is stopped or starved of CPU (kubectl -n istio-system top pods), \
         and restart it if it stays so",
    );
    ("no answer".to_owned(), finding)
}

pub(super) fn wrong_protocol(
    speech: &Protocol,
    address: SocketAddr,
    limit: Duration,
) -> Option<(String, Finding)> {
    let (code, said, fix) = match speech {
        Protocol::Http2 => return None,
        Protocol::Silent => {
            return Some(pilot_silent(address, "connections are taken, but nothing", limit));
        }
        Protocol::Http1 => (
            Code::PortSpeaksHttp1,
            "HTTP/1, not HTTP/2".to_owned(),
            "correct the port of the discovery address: Pilot serves ADS on 15010 (8080 and 15014 \
             are its pages); a proxy in between must pass HTTP/2 on",
        ),
        Protocol::Tls => (
            Code::PlaintextToTls,
            "TLS, and is spoken to in plaintext".to_owned(),
            "use the plaintext port (15010), or speak TLS: the agent's --tls certificate or --tls \
             token (PILOTHOUSE_TLS), with which the port is 15012",
        ),
        Protocol::Other(other) => (
            Code::PortSpeaksOther,
            format!("neither HTTP nor TLS: {other}"),
            "correct the discovery address: something else than Pilot listens there",
        ),
    };
    Some((said.clone(), Finding::new(code, format!("{address} speaks {said}"), fix)))
}

/// Envoy's own words come in several lines, a log record and a sentence have one.
pub(super) fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

pub(super) fn rejected(what: &str, details: &str) -> Finding {
    Finding::new(
        Code::ConfigRejected,
        format!("Envoy rejects {what} that Pilot sends: {}", one_line(details)),
        "change what Envoy complains of (the Service it comes from, or what else takes the port or \
         name); Envoy goes on with what it had",
    )
}

/// Rejections that are told in full; of what else there is, the number.
const REJECTIONS: usize = 10;

fn rejected_listeners(all: &[Rejection]) -> (String, Finding) {
    let told: Vec<String> = all
        .iter()
        .take(REJECTIONS)
        .map(|one| format!("{} ({})", one.name, one_line(&one.details)))
        .collect();
    let more = match all.len().saturating_sub(REJECTIONS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = format!("{} {}s", all.len(), all.first().map_or("resource", |one| one.kind));
    let finding = rejected(&what, &format!("{}{more}", told.join(", ")));
    (format!("{what} are rejected"), finding)
}

/// What is wrong with an Envoy whose path to the control plane is sound.
pub(super) fn configuration_fault(envoy: &Envoy) -> Option<(String, Finding)> {
    match envoy.rejections.as_slice() {
        [] => {}
        [one] => {
            let what = format!("the {} {}", one.kind, one.name);
            return Some((format!("{what} is rejected"), rejected(&what, &one.details)));
        }
        all => return Some(rejected_listeners(all)),
    }
    for (kind, updates) in [("cluster", envoy.stats.cds), ("listener", envoy.stats.lds)] {
        if updates.rejected > 0 && updates.successful == 0 {
            let finding = rejected(
                &format!("every {kind} update"),
                "its log, and Pilot's /debug/syncz, have the reason",
            );
            return Some((format!("{kind}s are rejected"), finding));
        }
    }
    if !envoy.stats.connected {
        let finding = Finding::new(
            Code::EnvoyNotConnected,
            "the path to Pilot is sound, but Envoy has no stream: it tries again with growing \
             pauses, or tries another address",
            "wait half a minute; if it stays so, compare the control plane's cluster in Envoy's \
             bootstrap with the discovery address, and look into Envoy's log",
        );
        return Some(("Envoy has no stream to Pilot".to_owned(), finding));
    }
    if !envoy.stats.workers_started {
        let waits = match envoy.waits_for.as_slice() {
            [] if envoy.state == "PRE_INITIALIZING" => {
                "the first configuration of its clusters (state PRE_INITIALIZING)".to_owned()
            }
            [] => format!("something that it does not name (state {})", envoy.state),
            targets => targets.join(", "),
        };
        let finding = Finding::new(
            Code::WorkersNotStarted,
            format!("Envoy runs but serves nothing, because its start waits for {waits}"),
            "see to it that what it waits for is served: a source of configuration that its \
             bootstrap names must answer, or have an initial_fetch_timeout",
        );
        return Some((format!("waits for {waits}"), finding));
    }
    None
}

/// Nothing is wrong with the cluster as far as it can be seen from outside of it.
pub(super) fn outside_cluster(found: &Finding) -> Finding {
    Finding::new(
        Code::OutsideCluster,
        format!("this is neither a pod nor beside an Envoy, and from here {}", found.cause),
        "run it where an Envoy is (kubectl exec POD -c istio-proxy -- pilothouse doctor), or \
         through a port-forward: --no-envoy --discovery-address 127.0.0.1:15010",
    )
}

/// All is well as far as it was seen; `unseen` has what matters and was not: a link and why.
pub(super) fn all_well(unseen: &[(&str, &str)]) -> Finding {
    if unseen.is_empty() {
        return Finding::new(Code::AllWell, "every link from Envoy to Pilot and back is sound", "");
    }
    let listed: Vec<String> = unseen.iter().map(|(link, why)| format!("{link} ({why})")).collect();
    Finding::new(
        Code::NotAllExamined,
        format!(
            "every link that could be looked at is sound, but these could not: {}",
            listed.join(", ")
        ),
        "run it beside an Envoy (kubectl exec POD -c istio-proxy -- pilothouse doctor), or say that \
         there is none (--no-envoy); give Pilot's monitoring port, 15014, by --monitoring-address, \
         and let the pod reach it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejected_listener_is_named_with_envoys_words() {
        let rejection = |number: usize| Rejection {
            kind: "listener",
            name: format!("0.0.0.0_{number}"),
            details: format!("cannot bind {number}:\n Address already in use\n"),
        };
        let said = |count: usize| {
            let envoy =
                Envoy { rejections: (1..=count).map(rejection).collect(), ..Envoy::default() };
            configuration_fault(&envoy).unwrap().1.cause
        };
        let three = said(3);
        assert!(three.starts_with("Envoy rejects 3 listeners"), "{three}");
        for number in 1..=3 {
            let words = format!("0.0.0.0_{number} (cannot bind {number}:; Address already in use)");
            assert!(three.contains(&words), "{words:?} is not in {three}");
        }
        assert!(!three.contains('\n'), "{three:?}");
        assert!(said(12).ends_with("and 2 more"), "{}", said(12));
        assert!(said(1).starts_with("Envoy rejects the listener 0.0.0.0_1"), "{}", said(1));
    }

    #[test]
    fn what_was_not_looked_at_is_not_called_well() {
        assert_eq!(all_well(&[]).code, Code::AllWell);
        let found = all_well(&[("Envoy", "none here"), ("Pilot", "no answer")]);
        assert_eq!(found.code, Code::NotAllExamined);
        assert!(found.cause.contains("Envoy (none here), Pilot (no answer)"), "{}", found.cause);
    }
}

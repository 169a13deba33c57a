//! What Kubernetes knows turns a symptom into its cause. Pure.

use std::net::IpAddr;

use super::finding::{Code, Finding};
use super::kubernetes::Kubernetes;
use super::observations::Observations;
use super::service::{ServiceFault, ServiceView};
use super::verdict::outside_cluster;
use crate::sidecar::host_port::HostPort;

/// The finding, or a better one if Kubernetes explains it.
pub(super) fn explain(found: Finding, kubernetes: &Kubernetes, seen: &Observations) -> Finding {
    let better = match found.code {
        Code::NameServerSilent | Code::NameServerRefused | Code::NameServerUnreachable => {
            explain_name_server(&found, kubernetes, &seen.servers)
        }
        // A server that answers is sound if Kubernetes has nothing against it: the name is wrong.
        Code::NameServerFailed => explain_name_server(&found, kubernetes, &seen.servers)
            .or_else(|| explain_name(kubernetes, seen.discovery.as_ref())),
        Code::NameNotFound => explain_name(kubernetes, seen.discovery.as_ref()),
        Code::ConnectionRefused
        | Code::PacketsDropped
        | Code::AddressUnreachable
        | Code::PilotSilent => explain_connection(&found, kubernetes, seen),
        // What keeps a new replica from being ready makes the old ones stale.
        Code::PilotStale => replica_not_ready(kubernetes).map(|replica| Finding {
            cause: format!("{}; {}", found.cause, replica.cause),
            ..replica
        }),
        _ => None,
    };
    better.unwrap_or(found)
}

/// The same for a place that is not in the cluster, whose own resolver says nothing about pods:
/// only what Kubernetes says of Pilot counts.
pub(super) fn explain_outside_cluster(
    found: &Finding,
    kubernetes: &Kubernetes,
    seen: &Observations,
) -> Finding {
    let of_pilot = explain_name(kubernetes, seen.discovery.as_ref())
        .or_else(|| explain_pods("Pilot cannot answer", kubernetes, seen));
    of_pilot.unwrap_or_else(|| outside_cluster(found))
}

fn explain_name_server(
    found: &Finding,
    kubernetes: &Kubernetes,
    servers: &[IpAddr],
) -> Option<Finding> {
    let listed: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let server = listed.join(", ");
    let Some(kube_dns) = kubernetes.kube_dns.as_ref().ok()? else {
        return Some(Finding::new(
            Code::KubeDnsMissing,
            format!(
                "resolv.conf points to {server}, but there is no Service kube-system/kube-dns: \
                 nobody answers for names"
            ),
            format!("create the Service kube-system/kube-dns again, with clusterIP: {server}"),
        ));
    };
    // Other addresses than a ClusterIP may be meant: a cache on the node, a company's name server.
    if !listed.iter().any(|server| kube_dns.cluster_ips.contains(server)) {
        let address = kube_dns.cluster_ips.join(", ");
        return Some(Finding::new(
            Code::KubeDnsMoved,
            format!(
                "resolv.conf points to {server}, where nobody answers: Service \
                 kube-system/kube-dns has ClusterIP {address}"
            ),
            format!(
                "create the Service kube-system/kube-dns anew with spec.clusterIP: {server} (a \
                 ClusterIP cannot be changed in place), or set the kubelets' clusterDNS to \
                 {address} and restart the pods"
            ),
        ));
    }
    let fault = kube_dns.fault(None)?;
    let (ServiceFault::SelectsNoPod(why)
    | ServiceFault::PortMismatch(why)
    | ServiceFault::NotReady(why)
    | ServiceFault::NoSuchPort(why)) = &fault;
    Some(Finding::new(
        Code::KubeDnsNoEndpoints,
        format!(
            "{}: Service kube-system/kube-dns has no endpoint that is ready ({why})",
            found.cause
        ),
        "bring kube-dns' pods up (kubectl -n kube-system get pods -l k8s-app=kube-dns, and their \
         logs)",
    ))
}

fn explain_name(kubernetes: &Kubernetes, discovery: Option<&HostPort>) -> Option<Finding> {
    let (name, namespace) = discovery?.service()?;
    let wanted = match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    if kubernetes.pilot.as_ref().ok()?.is_some() {
        return None;
    }
    match kubernetes.pilot_namespaces.as_deref() {
        Ok([elsewhere, ..]) => Some(Finding::new(
            Code::PilotElsewhere,
            format!("there is no Service {wanted}; {name} is in namespace {elsewhere}"),
            format!(
                "set the discovery address to {name}.{elsewhere}:{}, or install Pilot where the \
                 proxies look for it",
                discovery?.port
            ),
        )),
        _ => Some(Finding::new(
            Code::PilotNotInstalled,
            format!("Pilot is not installed: Kubernetes has no Service {wanted}"),
            "install it (kubectl apply -k manifests), or correct the discovery address",
        )),
    }
}

fn explain_connection(
    found: &Finding,
    kubernetes: &Kubernetes,
    seen: &Observations,
) -> Option<Finding> {
    let discovery = seen.discovery.as_ref()?;
    let pilot: &ServiceView = kubernetes.pilot.as_ref().ok()?.as_ref()?;
    let addresses: Vec<String> = seen.addresses.iter().map(ToString::to_string).collect();
    let headless = pilot.cluster_ips.iter().any(|address| address == "None");
    let known = addresses.iter().any(|address| pilot.cluster_ips.contains(address));
    if !headless && !pilot.cluster_ips.is_empty() && !known {
        return Some(Finding::new(
            Code::AddressStale,
            format!(
                "{} resolves to {}, where nobody is: its Service has ClusterIP {}",
                discovery.host,
                addresses.join(", "),
                pilot.cluster_ips.join(", ")
            ),
            "find out who answers with the old address: kube-dns' records (kubectl -n kube-system \
             logs -l k8s-app=kube-dns) or an entry in /etc/hosts or hostAliases",
        ));
    }
    let of_pods = explain_pods(&found.cause, kubernetes, seen);
    of_pods.or_else(|| rejected_on_the_way(found, pilot, discovery))
}

/// Refused although there are pods that are ready.
fn rejected_on_the_way(
    found: &Finding,
    pilot: &ServiceView,
    discovery: &HostPort,
) -> Option<Finding> {
    let ready = pilot.endpoints.iter().filter(|one| one.ready).count();
    (found.code == Code::ConnectionRefused && ready > 0).then(|| {
        Finding::new(
            Code::ConnectionRejected,
            format!(
                "{}, while Pilot's Service has port {} and {ready} pods that are ready: the \
                 connection is rejected on the way",
                found.cause, discovery.port
            ),
            "look for what rejects it: a NetworkPolicy, an iptables rule with REJECT on this node or \
             the pods', a kube-proxy that has not heard of the endpoints; and see whether Pilot \
             listens on the Service's targetPort (--grpc-addr)",
        )
    })
}

/// Proxies are served, but a replica of the control plane says that it is not ready.
pub(super) fn replica_not_ready(kubernetes: &Kubernetes) -> Option<Finding> {
    if kubernetes.unready_pilots.is_empty() {
        return None;
    }
    Some(Finding::new(
        Code::PilotReplicaNotReady,
        format!("not every replica of Pilot is ready: {}", quoted(&kubernetes.unready_pilots)),
        "give it what it waits for: that is the API server, and the rights to list Services and \
         EndpointSlices (kubectl apply -k manifests)",
    ))
}

fn quoted(pods: &[(String, String)]) -> String {
    let all: Vec<String> =
        pods.iter().map(|(pod, said)| format!("{pod} says \"{said}\"")).collect();
    all.join(", ")
}

fn explain_pods(symptom: &str, kubernetes: &Kubernetes, seen: &Observations) -> Option<Finding> {
    let pilot = kubernetes.pilot.as_ref().ok()?.as_ref()?;
    let discovery = seen.discovery.as_ref()?;
    let (code, why) = match pilot.fault(Some(discovery.port))? {
        ServiceFault::SelectsNoPod(why) => {
            (Code::PilotSelectsNoPod, format!("its Service matches no pod ({why})"))
        }
        ServiceFault::NotReady(why) => {
            let said = match kubernetes.unready_pilots.as_slice() {
                [] => String::new(),
                pods => format!("; {}", quoted(pods)),
            };
            (Code::PilotPodsNotReady, format!("no pod of its Service is ready: {why}{said}"))
        }
        ServiceFault::PortMismatch(why) | ServiceFault::NoSuchPort(why) => {
            (Code::PilotPortMismatch, format!("its Service has {why}"))
        }
    };
    Some(Finding::new(
        code,
        format!("{symptom}; {why}"),
        "look at the Service and the pods of Pilot (kubectl -n istio-system get \
         service,endpointslices,pods; kubectl -n istio-system describe pods -l istio=pilot)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Observations {
        Observations {
            discovery: Some("istio-pilot.istio-system:15010".parse().unwrap()),
            servers: vec!["10.96.0.10".parse().unwrap()],
            addresses: vec!["10.96.3.3".parse().unwrap()],
            ..Observations::default()
        }
    }

    fn service_view(address: &str) -> ServiceView {
        ServiceView { cluster_ips: vec![address.to_owned()], ..ServiceView::default() }
    }

    fn kubernetes() -> Kubernetes {
        Kubernetes {
            kube_dns: Ok(Some(service_view("10.96.0.77"))),
            pilot: Ok(None),
            pilot_namespaces: Ok(Vec::new()),
            unready_pilots: Vec::new(),
            service: Err(String::new()),
            routes: Err(String::new()),
            clock: None,
        }
    }

    fn explained(code: Code, kubernetes: &Kubernetes) -> Finding {
        explain(Finding::new(code, "symptom", "fix"), kubernetes, &seen())
    }

    #[test]
    fn the_famous_case_names_both_addresses() {
        let found = explained(Code::NameServerSilent, &kubernetes());
        assert_eq!(found.code, Code::KubeDnsMoved);
        assert!(found.cause.contains("10.96.0.10") && found.cause.contains("10.96.0.77"));
        assert!(found.fix.contains("clusterIP: 10.96.0.10"), "{}", found.fix);
    }

    #[test]
    fn kube_dns_that_is_gone_or_empty_is_said() {
        let gone = Kubernetes { kube_dns: Ok(None), ..kubernetes() };
        assert_eq!(explained(Code::NameServerSilent, &gone).code, Code::KubeDnsMissing);
        let empty = Kubernetes { kube_dns: Ok(Some(service_view("10.96.0.10"))), ..kubernetes() };
        assert_eq!(explained(Code::NameServerRefused, &empty).code, Code::KubeDnsNoEndpoints);
        let denied = Kubernetes { kube_dns: Err("no".to_owned()), ..kubernetes() };
        assert_eq!(explained(Code::NameServerSilent, &denied).code, Code::NameServerSilent);
    }

    #[test]
    fn a_missing_name_is_told_from_one_elsewhere() {
        assert_eq!(explained(Code::NameNotFound, &kubernetes()).code, Code::PilotNotInstalled);
        let elsewhere =
            Kubernetes { pilot_namespaces: Ok(vec!["mesh".to_owned()]), ..kubernetes() };
        let found = explained(Code::NameNotFound, &elsewhere);
        assert_eq!(found.code, Code::PilotElsewhere);
        assert!(found.fix.contains("istio-pilot.mesh:15010"), "{}", found.fix);
        let there = Kubernetes { pilot: Ok(Some(service_view("10.96.3.3"))), ..kubernetes() };
        assert_eq!(explained(Code::NameNotFound, &there).code, Code::NameNotFound);
    }

    #[test]
    fn a_connection_that_fails_is_explained_by_the_service() {
        let stale = Kubernetes { pilot: Ok(Some(service_view("10.96.9.9"))), ..kubernetes() };
        assert_eq!(explained(Code::PacketsDropped, &stale).code, Code::AddressStale);
        let port = super::super::service::Port { port: 15010, ..Default::default() };
        let empty = ServiceView { ports: vec![port], ..service_view("10.96.3.3") };
        let empty = Kubernetes { pilot: Ok(Some(empty)), ..kubernetes() };
        assert_eq!(explained(Code::ConnectionRefused, &empty).code, Code::PilotSelectsNoPod);
        let outside = Finding::new(Code::NameServerSilent, "symptom", "fix");
        assert_eq!(
            explain_outside_cluster(&outside, &empty, &seen()).code,
            Code::PilotSelectsNoPod
        );
        assert_eq!(explained(Code::StreamRefused, &empty).code, Code::StreamRefused);
    }

    fn running(ready: bool) -> ServiceView {
        let port = super::super::service::Port {
            name: "grpc".to_owned(),
            port: 15010,
            ..Default::default()
        };
        let endpoint = super::super::service::Endpoint {
            ports: [("grpc".to_owned(), 15010)].into(),
            ready,
            ..Default::default()
        };
        ServiceView { ports: vec![port], endpoints: vec![endpoint], ..service_view("10.96.3.3") }
    }

    #[test]
    fn refused_while_the_pods_are_ready_is_rejected_on_the_way() {
        let ready = Kubernetes { pilot: Ok(Some(running(true))), ..kubernetes() };
        let found = explained(Code::ConnectionRefused, &ready);
        assert_eq!(found.code, Code::ConnectionRejected);
        assert!(found.cause.contains("rejected on the way"), "{}", found.cause);
        assert_eq!(explained(Code::PacketsDropped, &ready).code, Code::PacketsDropped);
    }

    #[test]
    fn a_pod_that_is_not_ready_is_quoted() {
        let why = "not ready: services: forbidden: User pilot cannot list resource services";
        let unready_pilots = vec![("istio-pilot-1".to_owned(), why.to_owned())];
        let none = Kubernetes { pilot: Ok(Some(running(false))), ..kubernetes() };
        let none = Kubernetes { unready_pilots, ..none };
        let found = explained(Code::ConnectionRefused, &none);
        assert_eq!(found.code, Code::PilotPodsNotReady);
        assert!(found.cause.contains("cannot list resource services"), "{}", found.cause);
        // Where another replica serves, it is told all the same.
        let found = replica_not_ready(&none).unwrap();
        assert_eq!(found.code, Code::PilotReplicaNotReady);
        assert!(found.cause.contains("istio-pilot-1") && found.cause.contains("cannot list"));
        assert!(replica_not_ready(&kubernetes()).is_none());
    }

    #[test]
    fn a_replica_that_lacks_a_right_is_why_the_others_are_stale() {
        let why = "not ready: services: forbidden: cannot list resource \"services\"";
        let unready_pilots = vec![("istio-pilot-1".to_owned(), why.to_owned())];
        let pilot = Ok(Some(running(true)));
        let one_left = Kubernetes { pilot, unready_pilots, ..kubernetes() };
        let found = explained(Code::PilotStale, &one_left);
        assert_eq!(found.code, Code::PilotReplicaNotReady);
        assert!(found.cause.contains("symptom") && found.cause.contains(why), "{}", found.cause);
        assert_eq!(explained(Code::PilotStale, &kubernetes()).code, Code::PilotStale);
    }

    #[test]
    fn a_service_that_is_missing_is_blamed_before_a_kube_dns_that_is_sound() {
        let kube_dns = ServiceView { ports: Vec::new(), ..running(true) };
        let kube_dns = ServiceView { cluster_ips: vec!["10.96.0.10".to_owned()], ..kube_dns };
        let sound = Kubernetes { kube_dns: Ok(Some(kube_dns)), ..kubernetes() };
        assert_eq!(explained(Code::NameServerFailed, &sound).code, Code::PilotNotInstalled);
    }
}

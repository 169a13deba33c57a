//! What the Kubernetes API server says of kube-dns, of Pilot, and of a service that is asked about.
//!
//! Reads only, and only what it may: each answer is there or the reason why it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::{Api, Client, Error};
use tokio::time::timeout;

use super::clock::OtherClock;
use super::pilot;
use super::routes::RouteView;
use super::service::{Endpoint, Port, ServiceView};
use crate::causes::with_causes;
use crate::kubeconfig;
use crate::names::PortProtocol;
use crate::sidecar::http_client::http_date;
use crate::well_known::MONITORING_PORT;

mod routes;

/// What was asked for, or why it could not be had.
pub(super) type ApiResult<T> = Result<T, String>;

#[derive(Debug)]
pub(super) struct Kubernetes {
    /// `None`: there is no such Service.
    pub(super) kube_dns: ApiResult<Option<ServiceView>>,
    pub(super) pilot: ApiResult<Option<ServiceView>>,
    /// Pods of it that are not ready, and why, in their own words.
    pub(super) unready_pilots: Vec<(String, String)>,
    /// Namespaces that have a Service of Pilot's name.
    pub(super) pilot_namespaces: ApiResult<Vec<String>>,
    pub(super) service: ApiResult<Option<ServiceView>>,
    /// Routes that name it as a parent.
    pub(super) routes: ApiResult<Vec<RouteView>>,
    /// The API server's clock.
    pub(super) clock: Option<OtherClock>,
}

/// Services to look at: name and namespace.
#[derive(Clone, Debug)]
pub(super) struct ServicesToQuery {
    pub(super) pilot: Option<(String, String)>,
    pub(super) service: Option<(String, String)>,
    /// Whose requests to the service count.
    pub(super) client_namespace: String,
}

/// Asks for all of it side by side.
///
/// # Errors
/// If there is no API server to ask.
pub(super) async fn query(
    context: Option<&str>,
    services: &ServicesToQuery,
    limit: Duration,
) -> ApiResult<Kubernetes> {
    let asked = async {
        let client = connect(context, limit).await?;
        let pilot = services.pilot.as_ref();
        let of_service = services.service.as_ref().map(|(name, ns)| (&**name, &**ns));
        let routes = async {
            let Some(of_service) = of_service else { return Err("not asked for".to_owned()) };
            routes::routes_of_service(&client, of_service, Some(&services.client_namespace)).await
        };
        let (kube_dns, pilot, pilot_namespaces, service, routes, clock) = tokio::join!(
            service_view(&client, Some(("kube-dns", "kube-system"))),
            service_view(&client, pilot.map(|(name, namespace)| (&**name, &**namespace))),
            namespaces_of(&client, pilot.map(|(name, _)| &**name)),
            service_view(&client, of_service),
            routes,
            clock(&client),
        );
        let unready_pilots = match &pilot {
            Ok(Some(pilot)) => unready_reasons(pilot, limit / 3).await,
            _ => Vec::new(),
        };
        Ok(Kubernetes { kube_dns, pilot, unready_pilots, pilot_namespaces, service, routes, clock })
    };
    let late = || Err(format!("the API server does not answer within {limit:?}"));
    timeout(limit, asked).await.unwrap_or_else(|_| late())
}

/// Pods that are asked at most: they say the same.
const MAX_PODS_ASKED: usize = 3;

/// What those of Pilot's pods say that are not ready, by the Service's endpoints: for that, nobody
/// needs the right to look at pods.
async fn unready_reasons(of: &ServiceView, limit: Duration) -> Vec<(String, String)> {
    let unready = of.endpoints.iter().filter(|one| !one.ready);
    // The slices of both families have each pod.
    let pods: BTreeMap<String, IpAddr> = unready
        .filter_map(|one| Some((one.pod.clone().unwrap_or_default(), one.address?)))
        .collect();
    let asked = pods.into_iter().take(MAX_PODS_ASKED).map(async |(pod, address)| {
        let address = SocketAddr::new(address, MONITORING_PORT);
        let why = pilot::why_not_ready(address, limit).await?;
        Some((if pod.is_empty() { address.ip().to_string() } else { pod }, why))
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

async fn connect(context: Option<&str>, limit: Duration) -> ApiResult<Client> {
    let chosen = kubeconfig::choose(context).await;
    let mut config =
        chosen.map_err(|error| format!("no API server is known: {}", with_causes(&error)))?;
    config.connect_timeout = Some(limit);
    config.default_retry = false;
    Client::try_from(config).map_err(|error| with_causes(&error))
}

/// By the `date` of an answer, whatever it is.
async fn clock(client: &Client) -> Option<OtherClock> {
    let request = http::Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let answer = client.send(request).await.ok()?;
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    Some(OtherClock::now("the API server", http_date(date)?))
}

/// A Service with its endpoints, and its pods if they may be seen.
async fn service_view(client: &Client, of: Option<(&str, &str)>) -> ApiResult<Option<ServiceView>> {
    let Some((name, namespace)) = of else { return Err("not asked for".to_owned()) };
    let all: Api<Service> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let (service, slices) = tokio::join!(all.get_opt(name), slices.list(&selector));
    let Some(service) = service.map_err(api_error)? else { return Ok(None) };
    let mut service_view = view_of_service(&service);
    let slices = slices.map_err(api_error)?;
    service_view.endpoints = slices.items.iter().flat_map(endpoints_of_slice).collect();
    if let Some(selector) = service_view.selector.as_ref().filter(|selector| !selector.is_empty()) {
        let labels: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pods = pods.list(&ListParams::default().labels(&labels.join(","))).await;
        if let Ok(pods) = pods {
            service_view.pods = Some(pods.items.iter().map(pod_state).collect());
            service_view.container_ports = pods.items.iter().flat_map(container_ports).collect();
        }
    }
    Ok(Some(service_view))
}

async fn namespaces_of(client: &Client, name: Option<&str>) -> ApiResult<Vec<String>> {
    let Some(name) = name else { return Err("not asked for".to_owned()) };
    let all: Api<Service> = Api::all(client.clone());
    let found = all.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await;
    let found = found.map_err(api_error)?;
    Ok(found.items.into_iter().filter_map(|one| one.metadata.namespace).collect())
}

fn api_error(error: Error) -> String {
    match &error {
        Error::Api(status) if status.code == 403 => format!("not allowed: {}", status.message),
        Error::Api(status) => format!("{} {}", status.code, status.message),
        other => with_causes(other),
    }
}

fn view_of_service(service: &Service) -> ServiceView {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|port| {
        let name = port.name.unwrap_or_default();
        Some(Port {
            spoken: PortProtocol::from_port(port.app_protocol.as_deref(), &name),
            name,
            port: port.port.try_into().ok()?,
            target: match port.target_port {
                Some(IntOrString::Int(number)) => number.to_string(),
                Some(IntOrString::String(name)) => name,
                None => String::new(),
            },
        })
    });
    ServiceView {
        cluster_ips: spec.cluster_ips.unwrap_or_default(),
        external: spec.type_.as_deref() == Some("ExternalName"),
        ports: ports.collect(),
        selector: Some(spec.selector.unwrap_or_default()),
        ..ServiceView::default()
    }
}

fn endpoints_of_slice(slice: &EndpointSlice) -> impl Iterator<Item = Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports: BTreeMap<String, u16> = ports
        .filter_map(|port| {
            // None stands for every port, which nothing can be said about.
            let number = port.port.unwrap_or_default().try_into().ok()?;
            Some((port.name.clone().unwrap_or_default(), number))
        })
        .collect();
    let endpoints = slice.endpoints.clone();
    endpoints.into_iter().map(move |endpoint| Endpoint {
        ports: ports.clone(),
        address: endpoint.addresses.first().and_then(|address| address.parse().ok()),
        pod: endpoint.target_ref.and_then(|pod| pod.name),
        // Unknown counts as ready (discovery.k8s.io/v1).
        ready: endpoint.conditions.and_then(|conditions| conditions.ready) != Some(false),
    })
}

/// The ports that a pod's containers say they listen on; the sidecar is not what is called.
fn container_ports(pod: &Pod) -> BTreeSet<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let own = containers.filter(|container| container.name != "istio-proxy");
    let ports = own.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| port.container_port.try_into().ok()).collect()
}

/// A pod's name, and in what state it is: the reason of the first container that waits, else the
/// phase.
fn pod_state(pod: &Pod) -> (String, String) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let waiting = containers
        .iter()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let ready = !containers.is_empty() && containers.iter().all(|container| container.ready);
    let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
    let state = waiting.unwrap_or_else(|| match (&*phase, ready) {
        ("Running", false) => "Running but not ready".to_owned(),
        _ => phase,
    });
    (name, state)
}

//! The object that is waited for, in kubectl's spellings, and its version of now.

use std::fmt;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::causes::with_causes;
use crate::operator::replicas::Cluster;

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Node,
    HttpRoute,
    GrpcRoute,
    ReferenceGrant,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Node => "Node",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    pub(super) fn is_namespaced(self) -> bool {
        self != Self::Node
    }

    /// Singular, plural or short, in any case, with or without the group.
    fn read(text: &str) -> Option<Self> {
        let kind = text.to_ascii_lowercase();
        Some(match kind.split('.').next().unwrap_or_default() {
            "service" | "services" | "svc" => Self::Service,
            "endpointslice" | "endpointslices" => Self::EndpointSlice,
            "endpoints" | "endpoint" | "ep" => Self::Endpoints,
            "node" | "nodes" | "no" => Self::Node,
            "httproute" | "httproutes" => Self::HttpRoute,
            "grpcroute" | "grpcroutes" => Self::GrpcRoute,
            "referencegrant" | "referencegrants" | "refgrant" => Self::ReferenceGrant,
            _ => return None,
        })
    }
}

/// `KIND/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    pub kind: Kind,
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str().to_ascii_lowercase(), self.name)
    }
}

pub(super) fn name(text: &str) -> Result<ObjectName, String> {
    let (kind, name) = text
        .split_once('/')
        .ok_or_else(|| "it must be KIND/NAME, as in service/reviews".to_owned())?;
    let kind = Kind::read(kind).ok_or_else(|| {
        format!(
            "{kind:?} is no kind that the control plane watches: those are service, endpointslice, \
             endpoints, node, httproute, grpcroute and referencegrant"
        )
    })?;
    // What it may be, the API server decides.
    match name.is_empty() || name.contains('/') {
        true => Err("it must be KIND/NAME, as in service/reviews".to_owned()),
        false => Ok(ObjectName { kind, name: name.to_owned() }),
    }
}

/// Versions are numbers that grow (KEP-5504), as far as anything is compared with them.
pub(super) fn resource_version(text: &str) -> Result<String, String> {
    match text.parse::<u64>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it must be a number, as .metadata.resourceVersion has it".to_owned()),
    }
}

/// Which state of the object is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Of(String),
    /// There is no such object now; all that happened up to this version has to be seen.
    Gone {
        by: String,
    },
    /// The last change that a replica knows of: nobody else can be asked.
    LastKnown,
}

impl Version {
    pub(super) fn resource_version(&self) -> Option<&str> {
        match self {
            Self::Of(version) | Self::Gone { by: version } => Some(version),
            Self::LastKnown => None,
        }
    }
}

/// The object's version of now, by the API server.
pub(super) async fn version(
    cluster: &Cluster,
    object: &ObjectName,
    namespace: &str,
    limit: Duration,
) -> Result<Version, String> {
    let client = cluster.client.clone();
    let name = &*object.name;
    let asked = async {
        match object.kind {
            Kind::Service => of(&in_namespace::<Service>(cluster, namespace), name).await,
            Kind::EndpointSlice => {
                of(&in_namespace::<EndpointSlice>(cluster, namespace), name).await
            }
            Kind::Endpoints => of(&in_namespace::<Endpoints>(cluster, namespace), name).await,
            Kind::Node => of(&Api::<Node>::all(client), name).await,
            Kind::HttpRoute | Kind::GrpcRoute | Kind::ReferenceGrant => {
                let kind = GroupVersionKind::gvk(GATEWAY_API, "v1", object.kind.as_str());
                let resource = ApiResource::from_gvk(&kind);
                let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
                of(&api, name).await
            }
        }
    };
    let answer = timeout(limit, asked).await;
    let answer = answer.map_err(|_| format!("the API server does not answer within {limit:?}"))?;
    answer.map_err(|error| {
        let why = with_causes(&error);
        format!("the API server does not say the version of {object}: {why}. --resource-version gives it")
    })
}

fn in_namespace<K>(cluster: &Cluster, namespace: &str) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(cluster.client.clone(), namespace)
}

async fn of<K>(api: &Api<K>, name: &str) -> Result<Version, kube::Error>
where
    K: Clone + fmt::Debug + DeserializeOwned,
{
    if let Some(found) = api.get_metadata_opt(name).await?
        && let Some(version) = found.metadata.resource_version
    {
        return Ok(Version::Of(version));
    }
    // A list is of a moment after the deletion.
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(Version::Gone { by: list.metadata.resource_version.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_spellings_are_read() {
        for (text, shown) in [
            ("svc/reviews", "service/reviews"),
            ("Service/reviews", "service/reviews"),
            ("services/reviews", "service/reviews"),
            ("endpointslices.discovery.k8s.io/reviews-x7k2p", "endpointslice/reviews-x7k2p"),
            ("ep/reviews", "endpoints/reviews"),
            ("no/n1.example.com", "node/n1.example.com"),
            ("httproutes.gateway.networking.k8s.io/split", "httproute/split"),
        ] {
            assert_eq!(name(text).unwrap().to_string(), shown);
        }
        for wrong in ["reviews", "svc/", "svc/a/b", "pod/reviews", "/reviews", ""] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}

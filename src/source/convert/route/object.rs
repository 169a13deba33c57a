//! The objects of the Gateway API that are served, as an API server or a manifest has them.
//!
//! Their `spec` stays a tree. An API server has checked it by a schema, and whose is not known: an older or a
//! newer CRD, or the experimental channel's. So every field is read by name ([`super::fields`]), and one that
//! nobody here knows is found, where a type would pass over it.

use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::model::RouteKind;
use crate::model::route::{API_VERSION, GROUP};

/// A kind, in the version [`API_VERSION`].
pub trait GatewayKind: Clone + std::fmt::Debug + Send + Sync + 'static {
    const KIND: &'static str;
    /// As in a URL.
    const PLURAL: &'static str;
    /// As an error about a right names it.
    const RESOURCE: &'static str;
}

#[derive(Clone, Copy, Debug)]
pub enum HttpRouteV1 {}

impl GatewayKind for HttpRouteV1 {
    const KIND: &'static str = RouteKind::Http.as_str();
    const PLURAL: &'static str = RouteKind::Http.plural();
    const RESOURCE: &'static str = "httproutes.gateway.networking.k8s.io";
}

#[derive(Clone, Copy, Debug)]
pub enum GrpcRouteV1 {}

impl GatewayKind for GrpcRouteV1 {
    const KIND: &'static str = RouteKind::Grpc.as_str();
    const PLURAL: &'static str = RouteKind::Grpc.plural();
    const RESOURCE: &'static str = "grpcroutes.gateway.networking.k8s.io";
}

#[derive(Clone, Copy, Debug)]
pub enum ReferenceGrantV1 {}

impl GatewayKind for ReferenceGrantV1 {
    const KIND: &'static str = "ReferenceGrant";
    const PLURAL: &'static str = "referencegrants";
    const RESOURCE: &'static str = "referencegrants.gateway.networking.k8s.io";
}

/// An object of kind `K`, its status left out.
#[derive(Clone, Debug, Deserialize)]
pub struct GatewayObject<K> {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Value,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<K: GatewayKind> k8s_openapi::Resource for GatewayObject<K> {
    const API_VERSION: &'static str = API_VERSION;
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = K::KIND;
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = K::PLURAL;
    type Scope = NamespaceResourceScope;
}

impl<K: GatewayKind> k8s_openapi::Metadata for GatewayObject<K> {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

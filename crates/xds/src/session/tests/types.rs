//! The table of types in these tests: the usual four.

use crate::resource_type::{ServedType, TypeIndex};

pub(super) static TABLE: [ServedType; 4] =
    [ServedType::CLUSTER, ServedType::ENDPOINT, ServedType::LISTENER, ServedType::ROUTE];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ResourceType {
    Cluster,
    Endpoint,
    Listener,
    Route,
}

impl ResourceType {
    pub(super) const COUNT: usize = 4;
    pub(super) const IN_ORDER: [Self; Self::COUNT] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    pub(super) fn index(self) -> usize {
        self as usize
    }

    pub(super) fn type_url(self) -> &'static str {
        TABLE[self.index()].type_url
    }

    pub(super) fn from_type_url(url: &str) -> Option<Self> {
        Self::IN_ORDER.into_iter().find(|known| known.type_url() == url)
    }

    pub(super) fn short(self) -> &'static str {
        ["cds", "eds", "lds", "rds"][self.index()]
    }

    pub(super) fn is_full_state(self) -> bool {
        TABLE[self.index()].full_state
    }
}

impl From<ResourceType> for TypeIndex {
    fn from(resource_type: ResourceType) -> Self {
        Self(resource_type.index())
    }
}

impl From<TypeIndex> for ResourceType {
    fn from(index: TypeIndex) -> Self {
        Self::IN_ORDER[index.0]
    }
}

impl AsRef<str> for ResourceType {
    fn as_ref(&self) -> &str {
        self.type_url()
    }
}

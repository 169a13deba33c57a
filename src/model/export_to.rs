//! Which namespaces see a service.

use std::sync::Arc;

/// Whose proxies know of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportTo {
    #[default]
    Everyone,
    /// Those of these namespaces, sorted; of none at all if it is empty.
    Only(Arc<[Arc<str>]>),
}

impl ExportTo {
    /// Whether proxies of this namespace (of none) see the service.
    pub fn reaches(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only(namespaces) => namespaces.iter().any(|one| Some(&**one) == namespace),
        }
    }

    /// Those that see both.
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Everyone, one) | (one, Self::Everyone) => one.clone(),
            (Self::Only(namespaces), other) => {
                let both = namespaces.iter().filter(|one| other.reaches(Some(one)));
                Self::Only(both.cloned().collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_must_reach_a_namespace() {
        let only = |some: &[&str]| ExportTo::Only(some.iter().map(|one| (*one).into()).collect());
        let everyone = ExportTo::Everyone;
        assert_eq!(everyone.and(&everyone), everyone);
        assert_eq!(everyone.and(&only(&["a"])), only(&["a"]));
        assert_eq!(only(&["a"]).and(&everyone), only(&["a"]));
        assert_eq!(only(&["a", "b"]).and(&only(&["b", "c"])), only(&["b"]));
        assert_eq!(only(&["a"]).and(&only(&[])), only(&[]));
    }
}

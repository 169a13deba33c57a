//! The sets of one type in every variant that views need, each sharing what does not differ.
//!
//! They are stacked: what everybody sees; over it, what proxies of a namespace see in its place;
//! over that, what follows from something else about the proxy (its zone, its inbound ports). A
//! layer that adds nothing is not there: it is the very set below. What a layer adds is the
//! caller's to know and comes in by closures, asked only about names that have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::{Resource, TypeSet};

/// Names with what is under them now; `None` for nothing.
pub(super) type ResourceChanges = Vec<(Arc<str>, Option<Arc<Resource>>)>;

/// What a layer has under a name.
#[derive(Debug)]
pub(super) enum Override {
    /// What is below.
    Inherit,
    /// This, in the place of what is below.
    Replace(Arc<Resource>),
    /// Nothing, whatever is below.
    Hide,
}

impl Override {
    /// The same as a change of what is below; none where it inherits.
    pub(super) fn into_change(self, name: Arc<str>) -> Option<(Arc<str>, Option<Arc<Resource>>)> {
        match self {
            Self::Inherit => None,
            Self::Replace(resource) => Some((name, Some(resource))),
            Self::Hide => Some((name, None)),
        }
    }
}

/// Up to this many overrides, a layer is put anew over the set below, with which it then shares all
/// else.
const MAX_REAPPLIED: usize = 16;

#[derive(Debug)]
pub(super) struct LayeredSets<K> {
    public: Arc<TypeSet>,
    namespaces: BTreeMap<Arc<str>, Layer>,
    /// By the namespace whose layer is below, if that is one.
    variants: BTreeMap<(Option<Arc<str>>, K), Layer>,
}

#[derive(Debug)]
struct Layer {
    /// What it has in the place of what is below; `None` hides that.
    overrides: BTreeMap<Arc<str>, Option<Arc<Resource>>>,
    set: Arc<TypeSet>,
}

impl<K: Ord + Clone> LayeredSets<K> {
    pub(super) fn new(public: Arc<TypeSet>) -> Self {
        Self { public, namespaces: BTreeMap::new(), variants: BTreeMap::new() }
    }

    /// The set for proxies of this namespace and variant, which must have been opened.
    pub(super) fn get(&self, namespace: Option<&Arc<str>>, variant: Option<&K>) -> &Arc<TypeSet> {
        let scope = self.scope(namespace);
        let layer =
            variant.and_then(|variant| self.variants.get(&(scope.cloned(), variant.clone())));
        layer.map_or_else(|| self.set_below(scope), |layer| &layer.set)
    }

    /// Brings all layers up to date: `changes` are what everybody sees under these names now,
    /// `in_namespace` and `in_variant` what the layers have under one of them.
    pub(super) fn apply_changes(
        &mut self,
        changes: ResourceChanges,
        in_namespace: impl Fn(&str, &str) -> Override,
        in_variant: impl Fn(Option<&str>, &K, &str) -> Override,
    ) {
        if changes.is_empty() {
            return;
        }
        let names: Vec<Arc<str>> = changes.iter().map(|(name, _)| name.clone()).collect();
        self.public = self.public.with(changes);
        for (namespace, layer) in &mut self.namespaces {
            layer.update(&self.public, &names, |name| in_namespace(namespace, name));
        }
        for ((namespace, variant), layer) in &mut self.variants {
            let below = namespace.as_ref().and_then(|namespace| self.namespaces.get(namespace));
            let below = below.map_or(&self.public, |layer| &layer.set);
            layer.update(below, &names, |name| in_variant(namespace.as_deref(), variant, name));
        }
    }

    /// Has the layers of this namespace and variant. The closures give all that a new layer has of
    /// its own.
    pub(super) fn open(
        &mut self,
        namespace: Option<&Arc<str>>,
        variant: Option<&K>,
        in_namespace: impl FnOnce(&str) -> ResourceChanges,
        in_variant: impl FnOnce(Option<&str>, &K) -> ResourceChanges,
    ) {
        if let Some(namespace) = namespace
            && !self.namespaces.contains_key(namespace)
        {
            let layer = Layer::over(&self.public, in_namespace(namespace));
            self.namespaces.insert(namespace.clone(), layer);
        }
        let Some(variant) = variant else { return };
        let key = (self.scope(namespace).cloned(), variant.clone());
        if !self.variants.contains_key(&key) {
            let overrides = in_variant(key.0.as_deref(), variant);
            let layer = Layer::over(self.set_below(key.0.as_ref()), overrides);
            self.variants.insert(key, layer);
        }
    }

    /// Drops the layers that none of these variants has.
    pub(super) fn retain(&mut self, needed: &BTreeSet<(Option<&Arc<str>>, Option<&K>)>) {
        let namespaces: BTreeSet<_> =
            needed.iter().filter_map(|(namespace, _)| *namespace).collect();
        self.namespaces.retain(|namespace, _| namespaces.contains(namespace));
        let scoped = |(namespace, variant): &(Option<&Arc<str>>, Option<&K>)| {
            Some((self.scope(*namespace).cloned(), (*variant)?.clone()))
        };
        let variants: BTreeSet<_> = needed.iter().filter_map(scoped).collect();
        self.variants.retain(|key, _| variants.contains(key));
    }

    /// The namespace if it has anything of its own.
    fn scope<'a>(&self, namespace: Option<&'a Arc<str>>) -> Option<&'a Arc<str>> {
        namespace.filter(|own| {
            self.namespaces.get(*own).is_some_and(|layer| !layer.overrides.is_empty())
        })
    }

    fn set_below(&self, scope: Option<&Arc<str>>) -> &Arc<TypeSet> {
        let layer = scope.and_then(|namespace| self.namespaces.get(namespace));
        layer.map_or(&self.public, |layer| &layer.set)
    }
}

impl Layer {
    fn over(below: &Arc<TypeSet>, overrides: ResourceChanges) -> Self {
        let set = below.with(overrides.iter().cloned());
        Self { set, overrides: overrides.into_iter().collect() }
    }

    /// Takes in what has changed below, or in its own, under these names.
    fn update(
        &mut self,
        below: &Arc<TypeSet>,
        names: &[Arc<str>],
        override_of: impl Fn(&str) -> Override,
    ) {
        for name in names {
            match override_of(name).into_change(name.clone()) {
                Some((name, resource)) => self.overrides.insert(name, resource),
                None => self.overrides.remove(name),
            };
        }
        let set = if self.overrides.is_empty() {
            below.clone()
        } else if self.overrides.len() <= MAX_REAPPLIED.max(names.len()) {
            below.with(self.overrides.clone())
        } else {
            let value = |name: &Arc<str>| {
                let own = self.overrides.get(name).cloned();
                (name.clone(), own.unwrap_or_else(|| below.get(name).cloned()))
            };
            self.set.with(names.iter().map(value))
        };
        // What came out the same is the same, to whoever compares pointers.
        if set.version() != self.set.version() || self.overrides.is_empty() {
            self.set = set;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ResourceType;

    fn resource(name: &str, content: &str) -> Arc<Resource> {
        Resource::from_encoded(ResourceType::Cluster, name.into(), content.as_bytes())
    }

    fn change(name: &str, content: &str) -> (Arc<str>, Option<Arc<Resource>>) {
        (name.into(), Some(resource(name, content)))
    }

    fn replace_if(condition: bool, name: &str, content: &str) -> Override {
        if condition { Override::Replace(resource(name, content)) } else { Override::Inherit }
    }

    fn content(set: &TypeSet) -> Vec<String> {
        let one =
            |one: &Arc<Resource>| format!("{}={}", one.name, String::from_utf8_lossy(one.value()));
        set.iter().map(one).collect()
    }

    /// `a` is hidden from everybody but `one`; in `one`, variant 7 has another `b`; variant 8 adds
    /// many.
    fn opened() -> LayeredSets<u8> {
        let mut layers = LayeredSets::new(Arc::new(TypeSet::default()));
        layers.apply_changes(
            vec![change("b", "0"), change("c", "0")],
            |_, _| Override::Inherit,
            |_, _, _| Override::Inherit,
        );
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let needed =
            [(Some(&one), Some(&7)), (Some(&two), Some(&7)), (None, Some(&8)), (Some(&two), None)];
        let of_namespace =
            |namespace: &str| if namespace == "one" { vec![change("a", "1")] } else { Vec::new() };
        let of_variant = |namespace: Option<&str>, variant: &u8| match variant {
            7 if namespace.is_some() => vec![change("b", "7")],
            7 => Vec::new(),
            _ => (0..2 * MAX_REAPPLIED).map(|n| change(&format!("m{n:02}"), "8")).collect(),
        };
        for (namespace, variant) in needed {
            layers.open(namespace, variant, of_namespace, of_variant);
        }
        layers
    }

    #[test]
    fn a_layer_differs_in_its_own_names_and_one_without_is_the_set_below() {
        let layers = opened();
        let (one, two) = ("one".into(), "two".into());
        assert_eq!(content(layers.get(None, None)), ["b=0", "c=0"]);
        assert_eq!(content(layers.get(Some(&one), None)), ["a=1", "b=0", "c=0"]);
        assert_eq!(content(layers.get(Some(&one), Some(&7))), ["a=1", "b=7", "c=0"]);
        for (namespace, variant) in [(Some(&two), None), (Some(&two), Some(&7)), (None, Some(&9))] {
            assert!(Arc::ptr_eq(layers.get(namespace, variant), &layers.public));
        }
        assert_eq!(layers.get(Some(&two), Some(&8)).len(), 2 + 2 * MAX_REAPPLIED);
    }

    #[test]
    fn a_change_below_shows_through_wherever_a_layer_has_nothing_of_its_own() {
        let mut layers = opened();
        let (one, two) = ("one".into(), "two".into());
        let hidden = layers.get(Some(&one), Some(&7)).clone();
        let own =
            |namespace: &str, name: &str| replace_if(namespace == "one" && name == "a", "a", "1");
        let variant = |namespace: Option<&str>, variant: &u8, name: &str| {
            replace_if(namespace.is_some() && *variant == 7 && name == "b", "b", "7")
        };
        layers.apply_changes(vec![change("b", "2")], own, variant);
        assert_eq!(content(layers.get(Some(&one), None)), ["a=1", "b=2", "c=0"]);
        assert!(Arc::ptr_eq(layers.get(Some(&one), Some(&7)), &hidden), "nothing new for it");
        layers.apply_changes(vec![("c".into(), None), change("d", "2")], own, variant);
        assert_eq!(content(layers.get(Some(&one), Some(&7))), ["a=1", "b=7", "d=2"]);
        assert_eq!(content(layers.get(None, Some(&8)))[..2], ["b=2", "d=2"]);
        // A gap, then nothing of its own any more.
        let gap = |namespace: &str, name: &str| match (namespace, name) {
            ("two", "d") => Override::Hide,
            _ => Override::Inherit,
        };
        layers.apply_changes(vec![change("d", "3")], gap, |_, _, _| Override::Inherit);
        assert_eq!(content(layers.get(Some(&two), None)), ["b=2"]);
        layers.apply_changes(
            vec![change("d", "4")],
            |_, _| Override::Inherit,
            |_, _, _| Override::Inherit,
        );
        assert!(Arc::ptr_eq(layers.get(Some(&two), None), &layers.public));
    }

    #[test]
    fn what_nobody_needs_is_let_go() {
        let mut layers = opened();
        let one = "one".into();
        layers.retain(&[(Some(&one), Some(&7))].into());
        assert_eq!(content(layers.get(Some(&one), Some(&7))), ["a=1", "b=7", "c=0"]);
        assert_eq!((layers.namespaces.len(), layers.variants.len()), (1, 1));
        layers.retain(&BTreeSet::new());
        assert!(layers.namespaces.is_empty() && layers.variants.is_empty());
    }
}

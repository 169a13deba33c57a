//! The sets of one type in every variant that views need, each sharing what does not differ.
//!
//! They are stacked: what everybody sees; over it, what follows from one thing about the proxy (its
//! namespace); over that, what follows from another (its inbound ports). What differs much for few sorts of
//! proxies goes below what differs little for many, since each layer costs what it adds, for each one below
//! it. A layer that adds nothing is not there: it is the very set below. What a layer adds is the caller's to
//! know and comes in by closures, asked only about names that have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::{Resource, TypeSet};

/// Names with what is under them now; `None` for nothing.
pub(super) type ResourceChanges = Vec<(Arc<str>, Option<Arc<Resource>>)>;

/// Names whose content changed: for everybody, or for proxies of some namespaces alone.
#[derive(Debug, Default)]
pub(super) struct ChangedNames {
    pub(super) everywhere: BTreeSet<Arc<str>>,
    by_namespace: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl ChangedNames {
    pub(super) fn in_namespace(
        &mut self,
        namespace: &Arc<str>,
        names: impl IntoIterator<Item = Arc<str>>,
    ) {
        self.by_namespace.entry(namespace.clone()).or_default().extend(names);
    }

    /// The names that changed for proxies of some namespaces and not for everybody, by namespace.
    pub(super) fn in_namespaces_alone(&self) -> impl Iterator<Item = (&Arc<str>, Vec<Arc<str>>)> {
        let alone =
            |names: &BTreeSet<Arc<str>>| names.difference(&self.everywhere).cloned().collect();
        self.by_namespace.iter().map(move |(namespace, names)| (namespace, alone(names)))
    }
}

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

/// `A` is what the lower layers follow from, `B` the upper ones.
#[derive(Debug)]
pub(super) struct LayeredSets<A, B> {
    public: Arc<TypeSet>,
    lower: BTreeMap<A, Layer>,
    /// By the lower layer below, if there is one that adds something.
    upper: BTreeMap<(Option<A>, B), Layer>,
}

#[derive(Debug)]
struct Layer {
    /// What it has in the place of what is below; `None` hides that.
    overrides: BTreeMap<Arc<str>, Option<Arc<Resource>>>,
    set: Arc<TypeSet>,
}

impl<A: Ord + Clone, B: Ord + Clone> LayeredSets<A, B> {
    pub(super) fn new(public: Arc<TypeSet>) -> Self {
        Self { public, lower: BTreeMap::new(), upper: BTreeMap::new() }
    }

    /// The set for proxies of this sort, which must have been opened.
    pub(super) fn get(&self, lower: Option<&A>, upper: Option<&B>) -> &Arc<TypeSet> {
        let below = self.layer_below(lower);
        let layer = upper.and_then(|upper| self.upper.get(&(below.cloned(), upper.clone())));
        layer.map_or_else(|| self.set_below(below), |layer| &layer.set)
    }

    /// Brings all layers up to date: `changes` are what everybody sees under these names now, `in_lower` and
    /// `in_upper` what the layers have under one of them.
    pub(super) fn apply_changes(
        &mut self,
        changes: ResourceChanges,
        in_lower: impl Fn(&A, &str) -> Override,
        in_upper: impl Fn(Option<&A>, &B, &str) -> Override,
    ) {
        if changes.is_empty() {
            return;
        }
        let names: Vec<Arc<str>> = changes.iter().map(|(name, _)| name.clone()).collect();
        self.public = self.public.with(changes);
        for (key, layer) in &mut self.lower {
            layer.update(&self.public, &names, |name| in_lower(key, name));
        }
        for ((below, key), layer) in &mut self.upper {
            let set = below.as_ref().and_then(|below| self.lower.get(below));
            let set = set.map_or(&self.public, |layer| &layer.set);
            layer.update(set, &names, |name| in_upper(below.as_ref(), key, name));
        }
    }

    /// Brings the layers over one lower layer up to date, and that, where under these names nothing changed for
    /// anybody else.
    pub(super) fn apply_changes_in(
        &mut self,
        lower: &A,
        names: &[Arc<str>],
        in_lower: impl Fn(&A, &str) -> Override,
        in_upper: impl Fn(Option<&A>, &B, &str) -> Override,
    ) {
        let Some(layer) = self.lower.get_mut(lower).filter(|_| !names.is_empty()) else {
            return;
        };
        layer.update(&self.public, names, |name| in_lower(lower, name));
        let own = self.upper.iter_mut().filter(|((below, _), _)| below.as_ref() == Some(lower));
        for ((_, key), over) in own {
            over.update(&layer.set, names, |name| in_upper(Some(lower), key, name));
        }
    }

    /// Has the layers of this sort. The closures give all that a new layer has of its own.
    pub(super) fn open(
        &mut self,
        lower: Option<&A>,
        upper: Option<&B>,
        in_lower: impl FnOnce(&A) -> ResourceChanges,
        in_upper: impl FnOnce(Option<&A>, &B) -> ResourceChanges,
    ) {
        if let Some(lower) = lower
            && !self.lower.contains_key(lower)
        {
            let layer = Layer::over(&self.public, in_lower(lower));
            self.lower.insert(lower.clone(), layer);
        }
        let Some(upper) = upper else { return };
        let key = (self.layer_below(lower).cloned(), upper.clone());
        if !self.upper.contains_key(&key) {
            let overrides = in_upper(key.0.as_ref(), upper);
            let layer = Layer::over(self.set_below(key.0.as_ref()), overrides);
            self.upper.insert(key, layer);
        }
    }

    /// Drops the layers that none of these sorts has.
    pub(super) fn retain(&mut self, needed: &BTreeSet<(Option<&A>, Option<&B>)>) {
        let lower: BTreeSet<_> = needed.iter().filter_map(|(lower, _)| *lower).collect();
        self.lower.retain(|key, _| lower.contains(key));
        let upper: BTreeSet<(Option<&A>, &B)> = needed
            .iter()
            .filter_map(|(lower, upper)| Some((self.layer_below(*lower), (*upper)?)))
            .collect();
        self.upper.retain(|(below, key), _| upper.contains(&(below.as_ref(), key)));
    }

    /// The lower layer if it adds anything.
    fn layer_below<'a>(&self, lower: Option<&'a A>) -> Option<&'a A> {
        lower.filter(|lower| self.lower.get(lower).is_some_and(|one| !one.overrides.is_empty()))
    }

    fn set_below(&self, below: Option<&A>) -> &Arc<TypeSet> {
        let layer = below.and_then(|below| self.lower.get(below));
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
            |one: &Arc<Resource>| format!("{}={}", one.name, String::from_utf8_lossy(&one.value()));
        set.iter().map(one).collect()
    }

    /// `a` is hidden from everybody but `one`; in `one`, variant 7 has another `b`; variant 8 adds
    /// many.
    fn opened() -> LayeredSets<Arc<str>, u8> {
        let mut layers = LayeredSets::new(Arc::new(TypeSet::default()));
        layers.apply_changes(
            vec![change("b", "0"), change("c", "0")],
            |_, _| Override::Inherit,
            |_, _, _| Override::Inherit,
        );
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let needed =
            [(Some(&one), Some(&7)), (Some(&two), Some(&7)), (None, Some(&8)), (Some(&two), None)];
        let of_namespace = |namespace: &Arc<str>| {
            if **namespace == *"one" { vec![change("a", "1")] } else { Vec::new() }
        };
        let of_variant = |namespace: Option<&Arc<str>>, variant: &u8| match variant {
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
        let own = |namespace: &Arc<str>, name: &str| {
            replace_if(**namespace == *"one" && name == "a", "a", "1")
        };
        let variant = |namespace: Option<&Arc<str>>, variant: &u8, name: &str| {
            replace_if(namespace.is_some() && *variant == 7 && name == "b", "b", "7")
        };
        layers.apply_changes(vec![change("b", "2")], own, variant);
        assert_eq!(content(layers.get(Some(&one), None)), ["a=1", "b=2", "c=0"]);
        assert!(Arc::ptr_eq(layers.get(Some(&one), Some(&7)), &hidden), "nothing new for it");
        layers.apply_changes(vec![("c".into(), None), change("d", "2")], own, variant);
        assert_eq!(content(layers.get(Some(&one), Some(&7))), ["a=1", "b=7", "d=2"]);
        assert_eq!(content(layers.get(None, Some(&8)))[..2], ["b=2", "d=2"]);
        // A gap, then nothing of its own any more.
        let gap = |namespace: &Arc<str>, name: &str| match (&**namespace, name) {
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
        assert_eq!((layers.lower.len(), layers.upper.len()), (1, 1));
        layers.retain(&BTreeSet::new());
        assert!(layers.lower.is_empty() && layers.upper.is_empty());
    }
}

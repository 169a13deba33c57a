//! What a proxy on demand says that it uses (metadata `USES`), as names of clusters that its view has.
//!
//! An entry is a host of a Service (`reviews`, `ratings.shop`, `ratings.shop.svc`, the full name; a bare one is
//! in the proxy's own namespace) or the exact name of a cluster. A host stands for all ports of the Service: for
//! each of them the clusters by address that captured requests are led to, where there are such, else the
//! cluster under the Service's name.
//!
//! All of it is read from the view's set of clusters: a cluster by address has the other's name for its
//! statistics. The index is made when a first proxy asks, and follows the sets by their differences; what is in it
//! and not in the view's set does not count. Thousands of sidecars start with the same text, so answers are kept
//! by set and text.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pilothouse_xds::TypeSet;

use crate::names::{self, ClusterName, MAX_USES_ENTRIES};
use crate::proxies::Uses;

/// Clusters that they may stand for, all together.
const MAX_NAMES: usize = 1000;
/// Entries that are told to be unknown, and bytes of one of them.
const MAX_UNKNOWN: usize = 20;
const MAX_SHOWN: usize = 256;
/// Answers that are kept.
const MAX_ANSWERS: usize = 256;

/// Resolves what proxies use.
#[derive(Debug, Default)]
pub struct UsesResolver {
    // A std mutex, never held across an await; locked when a stream begins that says what it uses.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    index: Index,
    answers: HashMap<Question, Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    set: u64,
    namespace: Option<Arc<str>>,
    text: Box<str>,
}

#[derive(Clone, Debug, Default)]
struct Answer {
    /// Each once, in order.
    names: Arc<[Arc<str>]>,
    unknown: Box<[Box<str>]>,
}

impl UsesResolver {
    /// The clusters that a proxy of this namespace uses, of those in its view's set. Those of its entries that
    /// mean nothing there are noted in `uses`.
    pub fn resolve(
        &self,
        uses: &Uses,
        namespace: Option<&Arc<str>>,
        clusters: &Arc<TypeSet>,
    ) -> Arc<[Arc<str>]> {
        if uses.text.is_empty() {
            return Arc::default();
        }
        let question =
            Question { set: clusters.id(), namespace: namespace.cloned(), text: uses.text.clone() };
        let mut inner = self.lock();
        let known = inner.answers.get(&question).cloned();
        let answer = known.unwrap_or_else(|| inner.answer(question, clusters));
        drop(inner);
        uses.set_unknown(answer.unknown);
        answer.names
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn answer(&mut self, question: Question, clusters: &Arc<TypeSet>) -> Answer {
        self.index.follow(clusters);
        let answer = self.index.resolve(&question.text, question.namespace.as_deref(), clusters);
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.clear();
        }
        self.answers.insert(question, answer.clone());
        answer
    }
}

/// Clusters by Service and by address, of all sets that were looked at.
#[derive(Debug, Default)]
struct Index {
    /// The set that was looked at last.
    last: Arc<TypeSet>,
    /// The clusters of `NAME.NAMESPACE`.
    of_service: HashMap<Box<str>, Vec<Arc<str>>>,
    /// Those by address that are the same as a cluster of a Service.
    by_address: HashMap<Box<str>, Vec<Arc<str>>>,
    /// In both maps.
    len: usize,
}

impl Index {
    /// Takes in what a set has that the last one has not.
    fn follow(&mut self, set: &Arc<TypeSet>) {
        if self.last.id() == set.id() {
            return;
        }
        if self.len > 1024 + 2 * set.len() {
            *self = Self::default();
        }
        for resource in self.last.diff(set).changed {
            let Some(ClusterName::Outbound { host, .. }) = ClusterName::parse(&resource.name)
            else {
                continue;
            };
            let names = match is_address(host) {
                true => {
                    names::service_cluster(&resource).map(|of| self.by_address.entry(of.into()))
                }
                false => service_of(host).map(|of| self.of_service.entry(of.into())),
            };
            let Some(names) = names.map(|names| names.or_default()) else { continue };
            if !names.contains(&resource.name) {
                names.push(resource.name.clone());
                self.len += 1;
            }
        }
        self.last = set.clone();
    }

    fn resolve(&self, text: &str, namespace: Option<&str>, set: &TypeSet) -> Answer {
        let (mut names, mut unknown) = (BTreeSet::new(), Vec::new());
        for (at, entry) in names::uses_entries(text).enumerate() {
            let found = match at < MAX_USES_ENTRIES && names.len() < MAX_NAMES {
                true => self.clusters_of(entry, namespace, set),
                false => Vec::new(),
            };
            if found.is_empty() && unknown.len() < MAX_UNKNOWN {
                unknown.push(pilothouse_xds::peer_text::cut(entry, MAX_SHOWN).into());
            }
            names.extend(found);
        }
        Answer {
            names: names.into_iter().take(MAX_NAMES).collect(),
            unknown: unknown.into_boxed_slice(),
        }
    }

    /// The clusters that an entry stands for.
    fn clusters_of(&self, entry: &str, namespace: Option<&str>, set: &TypeSet) -> Vec<Arc<str>> {
        if entry.contains('|') {
            let outbound = set.get(entry).filter(|_| set.is_named_only(entry));
            return outbound.map(|one| one.name.clone()).into_iter().collect();
        }
        let host = entry.trim_end_matches('.').to_ascii_lowercase();
        let (service, full) = match (host.split('.').count(), namespace) {
            (1, Some(namespace)) => (format!("{host}.{namespace}"), None),
            (1, None) => return Vec::new(),
            (2, _) => (host.clone(), None),
            _ => match service_of(&format!("{host}.")) {
                Some(service) if host.len() == service.len() + ".svc".len() => {
                    (service.to_owned(), None)
                }
                Some(service) => (service.to_owned(), Some(&*host)),
                None => return Vec::new(),
            },
        };
        let of_service = self.of_service.get(&*service).into_iter().flatten();
        let has = |name: &&Arc<str>| set.get(name).is_some();
        let mut found = Vec::new();
        for name in of_service.filter(has) {
            if full.is_some_and(|full| name.rsplit('|').next() != Some(full)) {
                continue;
            }
            let before = found.len();
            let by_address = self.by_address.get(&**name).into_iter().flatten();
            // The address may have been another Service's.
            let is_of = |one: &&Arc<str>| {
                set.get(one).is_some_and(|one| names::service_cluster(one).as_deref() == Some(name))
            };
            found.extend(by_address.filter(is_of).cloned());
            if found.len() == before {
                found.push(name.clone());
            }
        }
        found
    }
}

fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// `NAME.NAMESPACE` of `NAME.NAMESPACE.svc.DOMAIN`.
fn service_of(host: &str) -> Option<&str> {
    let (service, _) = host.split_once(".svc.")?;
    (service.split('.').count() == 2 && !service.starts_with('.')).then_some(service)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use pilothouse_xds::{OnDemandNames, Resource};

    use super::*;
    use crate::names::ResourceType;

    fn cluster(name: &str, of: &str) -> (Arc<str>, Option<Arc<Resource>>) {
        let message = Cluster {
            name: name.to_owned(),
            alt_stat_name: names::stat_name(of),
            ..Default::default()
        };
        let resource = Resource::new(ResourceType::Cluster, name.into(), &message);
        (name.into(), Some(resource))
    }

    fn canonical(name: &str) -> (Arc<str>, Option<Arc<Resource>>) {
        cluster(name, name)
    }

    fn mesh() -> Arc<TypeSet> {
        TypeSet::on_demand(OnDemandNames {
            is_named_only: |name| name.starts_with("outbound|"),
            fallback: |_| None,
        })
        .with([
            canonical("PassthroughCluster"),
            canonical("inbound|9080||"),
            canonical("outbound|9080||reviews.default.svc.cluster.local"),
            cluster("outbound|9080||10.0.0.1", "outbound|9080||reviews.default.svc.cluster.local"),
            cluster("outbound|9080||fd00::1", "outbound|9080||reviews.default.svc.cluster.local"),
            canonical("outbound|9443||reviews.default.svc.cluster.local"),
            canonical("outbound|80||ratings.shop.svc.cluster.local"),
            cluster("outbound|80||10.0.0.2", "outbound|80||ratings.shop.svc.cluster.local"),
        ])
    }

    struct Proxy(UsesResolver, Arc<TypeSet>);

    impl Proxy {
        fn new() -> Self {
            Self(UsesResolver::default(), mesh())
        }

        /// In `default`: what an entry list means, without `outbound|`, and what is unknown of it.
        fn uses(&self, text: &str) -> (String, String) {
            self.uses_in(Some("default"), text)
        }

        fn uses_in(&self, namespace: Option<&str>, text: &str) -> (String, String) {
            let (uses, namespace) = (Uses::new(text), namespace.map(Arc::from));
            let names = self.0.resolve(&uses, namespace.as_ref(), &self.1);
            let short = names.iter().map(|name| name.trim_start_matches("outbound|").to_owned());
            (short.collect::<Vec<_>>().join(" "), uses.unknown().join(" "))
        }
    }

    const REVIEWS: &str = "9080||10.0.0.1 9080||fd00::1 9443||reviews.default.svc.cluster.local";

    #[test]
    fn a_host_stands_for_all_ports_by_address_where_there_are_such() {
        let proxy = Proxy::new();
        for text in [
            "reviews",
            "reviews.default",
            "reviews.default.svc",
            "reviews.default.svc.cluster.local",
            "Reviews.default.svc.cluster.local.",
            " reviews,\nreviews.default ",
        ] {
            assert_eq!(proxy.uses(text), (REVIEWS.to_owned(), String::new()), "{text}");
        }
        assert_eq!(proxy.uses("ratings.shop").0, "80||10.0.0.2");
        assert_eq!(proxy.uses_in(Some("shop"), "ratings").0, "80||10.0.0.2");
    }

    #[test]
    fn exact_names_are_taken_and_what_is_unknown_is_told() {
        let proxy = Proxy::new();
        let exact = "outbound|80||ratings.shop.svc.cluster.local,outbound|9080||10.0.0.1";
        assert_eq!(
            proxy.uses(exact),
            ("80||ratings.shop.svc.cluster.local 9080||10.0.0.1".to_owned(), String::new())
        );
        for unknown in [
            "ratings",
            "reviews.default.svc.other.domain",
            "details.default",
            "outbound|9080||10.0.0.9",
            "inbound|9080||",
            "PassthroughCluster",
            "*",
            "a.b.c.d",
            ".",
            "..svc..",
            "https://reviews/",
        ] {
            assert_eq!(proxy.uses(unknown), (String::new(), unknown.to_owned()));
        }
        assert_eq!(proxy.uses("").0, "");
        assert_eq!(proxy.uses_in(None, "reviews ratings.shop").0, "80||10.0.0.2");
        assert_eq!(proxy.uses_in(None, "reviews ratings.shop").1, "reviews");
    }

    #[test]
    fn the_index_follows_the_sets() {
        let mut proxy = Proxy::new();
        assert_eq!(proxy.uses("reviews").0, REVIEWS);
        // The address goes over to another Service, and one comes.
        let of = "outbound|80||ratings.shop.svc.cluster.local";
        proxy.1 = proxy.1.with([
            cluster("outbound|9080||10.0.0.1", of),
            ("outbound|9443||reviews.default.svc.cluster.local".into(), None),
            canonical("outbound|53||dns.default.svc.cluster.local"),
        ]);
        assert_eq!(proxy.uses("reviews dns").0, "53||dns.default.svc.cluster.local 9080||fd00::1");
        assert_eq!(proxy.uses("ratings.shop").0, "80||10.0.0.2 9080||10.0.0.1");
        // Another view, of which less is seen.
        let seen = proxy.1.clone();
        proxy.1 = proxy.1.with([("outbound|9080||fd00::1".into(), None)]);
        assert_eq!(proxy.uses("reviews").0, "9080||reviews.default.svc.cluster.local");
        proxy.1 = seen;
        assert_eq!(proxy.uses("reviews").0, "9080||fd00::1");
        assert!(proxy.0.lock().index.len <= 16);
    }

    #[test]
    fn an_index_of_what_is_gone_is_made_anew() {
        let mut proxy = Proxy::new();
        for at in 0..5000 {
            let name = format!("outbound|80||s{at}.default.svc.cluster.local");
            proxy.1 = mesh().with([canonical(&name)]);
            assert_eq!(proxy.uses(&format!("s{at}")).0, name.trim_start_matches("outbound|"));
        }
        assert!(proxy.0.lock().index.len <= 1100);
        assert!(proxy.0.lock().answers.len() <= MAX_ANSWERS);
    }

    #[test]
    fn what_a_proxy_may_say_has_an_end() {
        let mut proxy = Proxy::new();
        let services: Vec<_> = (0..300).map(|at| format!("s{at:03}")).collect();
        proxy.1 = proxy.1.with(services.iter().flat_map(|service| {
            (0..10).map(move |port| {
                canonical(&format!("outbound|{port}||{service}.default.svc.cluster.local"))
            })
        }));
        let (names, unknown) = proxy.uses(&services.join(","));
        assert_eq!(names.split(' ').count(), MAX_NAMES);
        assert_eq!(unknown.split(' ').count(), MAX_UNKNOWN);
        let exact: Vec<_> = services
            .iter()
            .map(|service| format!("outbound|1||{service}.default.svc.cluster.local"))
            .collect();
        assert_eq!(proxy.uses(&exact.join(",")).0.split(' ').count(), MAX_USES_ENTRIES);
    }
}

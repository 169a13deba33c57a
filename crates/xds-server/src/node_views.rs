//! A ready-made mesh: its owner sets views by a key of its choice, and a function finds the key in a proxy's
//! node.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilothouse_xds::{FrameBuilder, Interner, ServedType, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::listener::{LimitedListener, ServedListener};
use crate::mesh::{Identity, Mesh};
use crate::metrics::ServerMetrics;
use crate::node::Node;
use crate::peer::{PeerCredentials, Refusal};
use crate::proxies::Proxies;
use crate::server::AdsServer;
use crate::stream::{ServerContext, ServerLimits};
use crate::view_registry::ViewRegistry;

/// How long a quiet proxy is waited for before it is sent a PING.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Bytes of a proxy's node, and of its id.
const MAX_NODE: usize = 256 << 10;
const MAX_ID: usize = 1024;

/// All views at one moment.
type ViewsByKey<K> = HashMap<K, Arc<View>>;

/// The views of all proxies, by key, and how a proxy's key is found.
#[derive(Debug)]
pub struct NodeViews<K> {
    name: &'static str,
    types: &'static [ServedType],
    key_of: fn(&Node<'_>) -> K,
    views: watch::Sender<Option<Arc<ViewsByKey<K>>>>,
}

/// What each stream needs of [`NodeViews`].
#[derive(Debug)]
pub struct NodeMesh<K> {
    types: &'static [ServedType],
    key_of: fn(&Node<'_>) -> K,
}

/// A node's id.
#[derive(Clone, Debug)]
pub struct NodeId(Arc<str>);

impl Identity for NodeId {
    fn name(&self) -> &str {
        &self.0
    }
}

/// A key that a proxy's view is found by.
pub trait Key: Clone + Ord + Hash + fmt::Debug + Send + Sync + 'static {}

impl<K: Clone + Ord + Hash + fmt::Debug + Send + Sync + 'static> Key for K {}

impl<K: Key> NodeViews<K> {
    /// No views yet. `name` is that of the control plane in its responses, `types` has the types in the order
    /// in which they must be sent, and `key_of` finds a proxy's key in its node.
    pub fn new(
        name: &'static str,
        types: &'static [ServedType],
        key_of: fn(&Node<'_>) -> K,
    ) -> Self {
        Self { name, types, key_of, views: watch::Sender::new(None) }
    }

    /// Sets the view of all proxies with this key, which are sent what has changed in it. A proxy without a
    /// view waits until it is set.
    pub fn set(&self, key: K, view: View) {
        self.views.send_modify(|views| {
            let mut next = views.as_deref().cloned().unwrap_or_default();
            next.insert(key, Arc::new(view));
            *views = Some(Arc::new(next));
        });
    }

    /// Serves the views until `stop`.
    pub async fn serve(
        &self,
        listener: LimitedListener,
        limits: ServerLimits,
        stop: CancellationToken,
    ) {
        let view_registry = Arc::new(ViewRegistry::default());
        let context = ServerContext {
            mesh: NodeMesh::new(self.types, self.key_of),
            snapshots: self.views.subscribe(),
            view_registry: view_registry.clone(),
            interner: Arc::new(Interner::default()),
            frames: Arc::new(FrameBuilder::new(self.name)),
            proxies: Arc::new(Proxies::new(self.types)),
            metrics: Arc::new(ServerMetrics::new(self.types)),
            limits,
            answered: None,
            shutdown: stop.clone(),
        };
        let server = AdsServer::new(Arc::new(context), KEEPALIVE);
        let assigned = stop.run_until_cancelled(assign_requested(&view_registry));
        let listeners = vec![ServedListener::plaintext(listener)];
        tokio::join!(server.run(listeners, stop.clone()), assigned);
    }
}

/// The request is the key, so each is assigned what it requests.
async fn assign_requested<K: Key>(view_registry: &ViewRegistry<K, K>) {
    loop {
        view_registry.wait_for_changes().await;
        for (key, is_held) in view_registry.take_changes() {
            if is_held {
                view_registry.assign(&key, &Arc::new(key.clone()));
            }
        }
    }
}

impl<K> NodeMesh<K> {
    pub(crate) fn new(types: &'static [ServedType], key_of: fn(&Node<'_>) -> K) -> Self {
        Self { types, key_of }
    }
}

impl<K: Key> Mesh for NodeMesh<K> {
    type Identity = NodeId;
    /// Nobody is authenticated.
    type Principal = Infallible;
    type ViewRequest = K;
    type ViewKey = K;
    type Snapshot = ViewsByKey<K>;

    fn types(&self) -> &'static [ServedType] {
        self.types
    }

    async fn authenticate(&self, _: PeerCredentials<'_>) -> Result<Option<Infallible>, Refusal> {
        Ok(None)
    }

    fn identify(
        &self,
        node: Option<&[u8]>,
        _delta: bool,
        _: IpAddr,
        _: Option<&Infallible>,
    ) -> Result<(NodeId, K), Refusal> {
        let encoded = node.filter(|node| node.len() <= MAX_NODE);
        let encoded = encoded.ok_or_else(|| {
            Refusal::InvalidArgument(format!(
                "the first request on a stream must carry a node, of at most {MAX_NODE} bytes"
            ))
        })?;
        let node =
            Node::read(encoded).map_err(|error| Refusal::InvalidArgument(error.to_string()))?;
        if node.id.is_empty() || node.id.len() > MAX_ID {
            return Err(Refusal::InvalidArgument(format!(
                "the node must have an id, of at most {MAX_ID} bytes"
            )));
        }
        Ok((NodeId(node.id.into()), (self.key_of)(&node)))
    }

    fn proxy_connected(&self, identity: &NodeId, delta: bool) {
        info!(proxy = identity.name(), delta, "proxy connected");
    }

    fn view(views: &ViewsByKey<K>, key: &K) -> Option<Arc<View>> {
        views.get(key).cloned()
    }

    fn change_received(_: &ViewsByKey<K>) -> Option<Instant> {
        None
    }

    fn forget_gone_sets(views: &ViewsByKey<K>) {
        views.values().for_each(|view| view.forget_gone_sets());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    static TYPES: [ServedType; 1] = [ServedType::CLUSTER];

    #[test]
    fn the_key_is_found_in_the_node_which_must_have_an_id() {
        let mesh = NodeMesh::new(&TYPES, |node| node.cluster.to_owned());
        let identify = |node: Option<&[u8]>| {
            mesh.identify(node, true, Ipv4Addr::LOCALHOST.into(), None)
                .map_err(|refusal| refusal.to_string())
        };
        // Fields 1 and 2 of a Node.
        let (id, key) = identify(Some(b"\x0a\x04edge\x12\x04shop")).unwrap();
        assert_eq!((id.name(), &*key), ("edge", "shop"));
        assert!(identify(None).unwrap_err().contains("must carry a node"));
        assert!(identify(Some(b"\x12\x04shop")).unwrap_err().contains("must have an id"));
        assert!(identify(Some(b"\x0a\x04ed")).is_err());
        let long = vec![0; MAX_NODE + 1];
        assert!(identify(Some(&long)).unwrap_err().contains("of at most"));
    }

    #[test]
    fn each_key_has_a_view_of_its_own_from_when_it_is_set() {
        let views = NodeViews::new("test", &TYPES, |node| node.cluster.to_owned());
        let followed = views.views.subscribe();
        let view = |key: &str| {
            let snapshot = followed.borrow().clone();
            snapshot.and_then(|views| NodeMesh::view(&views, &key.to_owned()))
        };
        assert!(view("shop").is_none());
        views.set("shop".to_owned(), View::new([Arc::default()]));
        let shop = view("shop").unwrap();
        assert!(view("edge").is_none());
        views.set("edge".to_owned(), View::new([Arc::default()]));
        assert!(view("edge").is_some());
        assert!(Arc::ptr_eq(&shop, &view("shop").unwrap()), "it stays as it is");
    }
}

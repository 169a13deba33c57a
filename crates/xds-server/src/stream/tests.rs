use pilothouse_xds::{FrameBuilder, ServedType};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::node_views::NodeMesh;
use crate::proxies::Proxies;

static TYPES: [ServedType; 2] = [ServedType::CLUSTER, ServedType::ENDPOINT];

/// Ten thousand of them are open at once; whoever adds to them should know.
#[test]
fn what_a_stream_holds_does_not_grow_unseen() {
    let (_, snapshots) = watch::channel(None);
    let (_, signal) = watch::channel(SnapshotSignal::default());
    let mesh = NodeMesh::<String>::new(&TYPES, |_| String::new());
    let server = ServerContext {
        mesh,
        snapshots,
        view_registry: Arc::default(),
        interner: Arc::default(),
        frames: Arc::new(FrameBuilder::new("test")),
        proxies: Arc::new(Proxies::new(&TYPES)),
        metrics: Arc::new(ServerMetrics::new(&TYPES)),
        limits: ServerLimits::default(),
        answered: None,
        shutdown: CancellationToken::new(),
    };
    let (_, requests) = crate::grpc::messages::grpc_messages(1, "");
    let method = Method { delta: true, only: None };
    let peer = ([127, 0, 0, 1], 1).into();
    let context = Arc::new(StreamContext::new(Arc::new(server), signal));
    let handle = Arc::new(ConnectionHandle::new());
    let account = context.open_account(peer, &handle);
    let peer = Peer { address: peer, handle, account, encrypted: false, certificate: None };
    let responses = ResponseStream::new(context, method, peer, None, requests);
    let sizes = [
        ("the response body", size_of_val(&responses), 1024),
        ("the stream in it", size_of::<AdsStream<NodeMesh<String>>>(), 2048),
        ("of that, the session", size_of::<Session>(), 1664),
        ("what is shown of it", size_of::<StreamOf<NodeMesh<String>>>(), 1024),
    ];
    for (what, size, limit) in sizes {
        assert!(size <= limit, "{what}: {size} bytes, not more than {limit}: {sizes:?}");
    }
}

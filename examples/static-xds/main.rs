//! A control plane of one's own: it serves the resources of `resources.rs` to any Envoy that asks.
//!
//! `static-xds XDS-ADDRESS LISTENER-ADDRESS BACKEND-ADDRESS`: Envoys connect to the first, and forward what
//! comes to the second to the third.

use std::net::SocketAddr;

use anyhow::Context as _;
use pilothouse_xds::ServedType;
use pilothouse_xds_server::{ConnectionLimits, LimitedListener, NodeViews, ServerLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod resources;

/// The types in the order in which they must be sent.
static TYPES: [ServedType; 4] =
    [ServedType::CLUSTER, ServedType::ENDPOINT, ServedType::LISTENER, ServedType::ROUTE];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut addresses = std::env::args().skip(1).map(|text| text.parse());
    let mut address =
        |what| -> anyhow::Result<SocketAddr> { addresses.next().context(what)?.context(what) };
    let xds = address("XDS-ADDRESS is HOST:PORT")?;
    let (listen, backend) =
        (address("LISTENER-ADDRESS is HOST:PORT")?, address("BACKEND-ADDRESS is HOST:PORT")?);

    // Every proxy has the same key here. `|node| node.cluster.to_owned()` would give each cluster of proxies a
    // view of its own.
    let views = NodeViews::new("static-xds", &TYPES, |_node| ());
    views.set((), resources::view(listen, backend));

    let room = ConnectionLimits { total: 1000, per_address: 1000 };
    let listener = LimitedListener::new("xds", TcpListener::bind(xds).await?, room);
    let stop = CancellationToken::new();
    let ctrl_c = async {
        _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    };
    tokio::join!(views.serve(listener, ServerLimits::default(), stop.clone()), ctrl_c);
    Ok(())
}

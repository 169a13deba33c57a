//! The way to the API server, on which packets can be held up and connections reset.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    stalled: watch::Sender<bool>,
    /// Counts the resets.
    resets: watch::Sender<u64>,
    _serving: AbortOnDropHandle<()>,
}

impl Line {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stalled, resets) = (watch::Sender::new(false), watch::Sender::new(0));
        let (stall, reset) = (stalled.clone(), resets.clone());
        let serving = async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                // They end with the test's runtime.
                tokio::spawn(pass(near, server, stall.clone(), reset.subscribe()));
            }
        };
        let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Self { address, stalled, resets, _serving }
    }

    /// Nothing gets through any more on the connections that are there.
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Answers the connections that are there with RST; later ones are good.
    pub(crate) fn reset(&self) {
        self.stalled.send_replace(false);
        self.resets.send_modify(|count| *count += 1);
    }
}

async fn pass(
    mut near: TcpStream,
    server: SocketAddr,
    stall: watch::Sender<bool>,
    mut reset: watch::Receiver<u64>,
) {
    let Ok(mut far) = TcpStream::connect(server).await else { return };
    let mut stalled = stall.subscribe();
    tokio::select! {
        biased;
        _ = reset.changed() => {}
        () = async { drop(stalled.wait_for(|stalled| *stalled).await) } => { _ = reset.changed().await; }
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
    }
    // Closing it sends RST instead of FIN.
    near.set_zero_linger().unwrap();
}

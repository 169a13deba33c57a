//! What a Service's address is to a proxy: each new connection leads to another replica, and stays
//! with it.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::places;

/// Until dropped, with every connection through it.
#[derive(Debug)]
pub struct Balancer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    /// The first connection goes to the first of the replicas, the next to the next.
    pub async fn start(replicas: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind((places::address(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for replica in replicas.into_iter().cycle() {
                let Ok((mut client, _)) = listener.accept().await else { return };
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(replica).await {
                        _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! Accepts on a thread of its own.
//!
//! A snapshot wakes thousands of streams, and views are built for those that come: meanwhile a task that
//! accepts waits for its turn on the runtime's threads, the kernel's queue is full within milliseconds of a
//! storm, and what comes then is lost. The thread takes connections off that queue and does nothing else.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{ACCEPT_RETRY_DELAY, is_connection_error, is_listener_lost};

/// Connections that wait for the runtime, beside those that wait in the kernel's queue.
const MAX_WAITING: usize = 4096;

pub(super) type Accepted = io::Result<(TcpStream, SocketAddr)>;

/// Accepts until the receiver is dropped or the listener is lost, which is the last that the receiver gets.
///
/// # Errors
/// The system refuses a thread or epoll.
pub(super) fn spawn(listener: std::net::TcpListener) -> io::Result<mpsc::Receiver<Accepted>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    thread::Builder::new().name("accept".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = sender.closed() => {}
                () = accept(listener, &sender) => {}
            }
        });
    })?;
    Ok(receiver)
}

async fn accept(listener: TcpListener, sender: &mpsc::Sender<Accepted>) {
    loop {
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer)));
        let error = accepted.as_ref().err();
        let is_lost = error.is_some_and(is_listener_lost);
        let must_wait = error.is_some_and(|error| !is_connection_error(error));
        if sender.send(accepted).await.is_err() || is_lost {
            return;
        }
        if must_wait {
            sleep(ACCEPT_RETRY_DELAY).await;
        }
    }
}

//! Listening and handing connections out to the network threads.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, watch};

use super::worker::{Accepted, Stop};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// How long accepting pauses when the system has no file descriptors or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds a listener. Port 0 takes a free port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A node that restarts must get its port back while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections and hands them out in turn, until told to stop. The listener closes when this returns.
pub(super) async fn accept(
    listener: TcpListener,
    workers: Arc<[mpsc::Sender<Accepted>]>,
    permits: Arc<Semaphore>,
    mut stop: watch::Receiver<Stop>,
) {
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = next(&listener, &permits) => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok(accepted) => {
                turn = hand_out(&workers, turn, accepted).await;
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                if !is_of_one_connection(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The next connection, once the limit allows another one.
async fn next(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok(Accepted { stream: stream.into_std()?, permit })
}

/// Gives the connection to the thread whose turn it is, or the next one with room; waits when all are behind.
async fn hand_out(
    workers: &[mpsc::Sender<Accepted>],
    turn: usize,
    mut accepted: Accepted,
) -> usize {
    let count = workers.len().max(1);
    for offset in 0..count {
        let index = (turn + offset) % count;
        match workers[index].try_send(accepted) {
            Ok(()) => return index + 1,
            Err(
                mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back),
            ) => accepted = back,
        }
    }
    // A closed queue means that the node is stopping: the connection is dropped.
    let _ = workers[turn % count].send(accepted).await;
    turn + 1
}

/// Errors that concern the connection that was to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

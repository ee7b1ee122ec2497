//! The admin listener: metrics, health, statistics, objects, and the settings that can change at run time.
//!
//! It shares nothing with the network threads but the node's state, so that looking at a node does not slow it down.
mod api;
mod cluster;
mod dashboard;
mod events;
mod metrics;
mod objects;
mod origin;
pub(crate) mod purge;
mod regions;
mod settings;
mod starting;
pub mod table;
mod ticker;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub(crate) use self::starting::Starting;
use crate::state::NodeState;

/// Admin connections held at a time.
const MAX_CONNECTIONS: usize = 256;
/// A request head must be complete this long after it began.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long open admin connections may take to finish once the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may live: longer than any scrape, and an end to those who never read. An event stream may go on
/// for as long as something of it is taken in each such time; its heartbeats see to that there is something.
const LIFETIME: Duration = Duration::from_mins(5);
/// Bytes of answers that wait for a client that does not read them, beyond the piece that is being written.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long accepting pauses after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// The running admin listener.
#[derive(Debug)]
pub(crate) struct AdminServer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Begins to accept.
    pub(crate) fn start(node: &Arc<NodeState>, listener: TcpListener) -> Self {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(ticker::run(node.clone(), stopped.clone()));
        let task = tokio::spawn(accept(node.clone(), listener, stopped));
        Self { stop, task }
    }

    /// Stops accepting and lets open connections finish.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn accept(node: Arc<NodeState>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let permit = permits.clone().acquire_owned().await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((listener.accept().await?.0, permit))
            } => accepted,
            _ = stop.changed() => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let serving = serve(node.clone(), stream, stop.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an admin connection failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(STOP_TIMEOUT, permits.acquire_many(all)).await;
}

async fn serve(node: Arc<NodeState>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    let peer = stream.peer_addr().ok().map(|peer| peer.ip());
    let pulse = Arc::new(Pulse::default());
    let beating = pulse.clone();
    let service = service_fn(move |mut request| {
        let node = node.clone();
        request.extensions_mut().insert(beating.clone());
        async move { Ok::<_, Infallible>(api::answer(&node, request, peer).await) }
    });
    let connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Ok(result),
        () = outlived(&pulse, || tokio::time::sleep(LIFETIME)) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(HEADER_TIMEOUT, connection).await
        }
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(STOP_TIMEOUT, connection).await
        }
    };
    match result {
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
        Err(_) => tracing::debug!("an admin connection that would not end was closed"),
        Ok(Ok(())) => {}
    }
}

/// Counts the pieces of an event stream that a connection has taken.
#[derive(Debug, Default)]
struct Pulse(AtomicU64);

impl Pulse {
    fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends with the first lifetime in which a connection's pulse stood still.
async fn outlived<F: Future>(pulse: &Pulse, mut lifetime: impl FnMut() -> F) {
    loop {
        let before = pulse.0.load(Ordering::Relaxed);
        lifetime().await;
        if pulse.0.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_lives_on_while_its_event_stream_is_taken() {
        let (pulse, mut lifetimes) = (Pulse::default(), 0);
        let lifetime = || {
            lifetimes += 1;
            if lifetimes <= 3 {
                pulse.beat();
            }
            std::future::ready(())
        };
        outlived(&pulse, lifetime).await;
        assert_eq!(lifetimes, 4);
    }
}

//! Sockets: the data listeners, the network threads behind them, and how they stop.
//!
//! One thread accepts and hands connections out in turn; each network thread runs its own event loop. *Knows:* TCP, TLS,
//! hyper. *Does not know:* what a request means; that is [`crate::http`].
mod connection;
pub(crate) mod drain;
pub(crate) mod listen;
mod socket;
pub mod tls;
pub(crate) mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::worker::{Accepted, Stop, Worker};
use crate::state::NodeState;

/// The running data side of a node.
#[derive(Debug)]
pub(crate) struct DataServer {
    node: Arc<NodeState>,
    stop: watch::Sender<Stop>,
    acceptors: JoinSet<()>,
    workers: Vec<Worker>,
}

impl DataServer {
    /// Starts the network threads and begins to accept.
    pub(crate) fn start(
        node: &Arc<NodeState>,
        listeners: Vec<TcpListener>,
        tls: Option<&TlsAcceptor>,
        threads: usize,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(Stop::No);
        let workers = (0..threads.max(1))
            .map(|index| Worker::start(index, node.clone(), tls.cloned(), stopped.clone()))
            .collect::<io::Result<Vec<_>>>()?;
        let queues: Arc<[mpsc::Sender<Accepted>]> =
            workers.iter().map(|worker| worker.queue.clone()).collect();
        let permits =
            Arc::new(Semaphore::new(node.limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            acceptors.spawn(listen::accept(
                listener,
                queues.clone(),
                permits.clone(),
                stopped.clone(),
            ));
        }
        Ok(Self { node: node.clone(), stop, acceptors, workers })
    }

    /// Stops accepting, lets running requests finish within the drain limit, then ends what is left.
    pub(crate) async fn stop(mut self) {
        self.node.start_draining();
        let _ = self.stop.send(Stop::Drain);
        while self.acceptors.join_next().await.is_some() {}
        let workers = std::mem::take(&mut self.workers);
        let finished = async {
            for worker in workers {
                worker.join().await;
            }
        };
        tokio::pin!(finished);
        if tokio::time::timeout(self.node.limits.drain_timeout, &mut finished).await.is_err() {
            tracing::warn!(
                open = self.node.http_stats().connections_open(),
                "requests were cut off at the drain limit"
            );
            let _ = self.stop.send(Stop::Now);
            finished.await;
        }
    }
}

/// Whether an address can be reached from this machine only.
pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

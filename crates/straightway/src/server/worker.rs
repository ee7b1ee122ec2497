//! Network threads: each runs an event loop of its own and shares nothing that is written on the path of a hit.
use std::collections::HashMap;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::connection;
use crate::counters::bump;
use crate::http::exchange::Exchange;
use crate::state::NodeState;

/// Accepted connections that wait for a network thread to take them.
const QUEUED_CONNECTIONS: usize = 64;

/// A connection handed from the acceptor to a network thread. The permit counts it against the limit while it lives.
pub(super) struct Accepted {
    pub(super) stream: StdTcpStream,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A running network thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(super) queue: mpsc::Sender<Accepted>,
    done: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts network thread number `index`. It ends once `stop` changes and its connections are finished, or once
    /// `stop`'s sender is gone.
    pub(super) fn start(
        index: usize,
        node: Arc<NodeState>,
        tls: Option<TlsAcceptor>,
        stop: watch::Receiver<Stop>,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, incoming) = mpsc::channel(QUEUED_CONNECTIONS);
        let (finished, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("net-{index}")).spawn(move || {
            let pool = Arc::new(Pool::new(index, node, tls));
            runtime.block_on(run(pool, incoming, stop));
            // Tasks that are still there hold sockets and pins: they end with the runtime, before anybody is told.
            drop(runtime);
            let _ = finished.send(());
        })?;
        Ok(Self { queue, done: Some(done), thread: Some(thread) })
    }

    /// Waits for the thread to end.
    pub(super) async fn join(mut self) {
        if let Some(done) = self.done.take() {
            let _ = done.await;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the network threads are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Go on.
    No,
    /// Finish what is running, then end.
    Drain,
    /// End now.
    Now,
}

/// The connections of one network thread.
struct Pool {
    index: usize,
    node: Arc<NodeState>,
    tls: Option<TlsAcceptor>,
    http: hyper::server::conn::http1::Builder,
    clock_ms: Arc<AtomicU64>,
    open: Mutex<HashMap<u64, Arc<Exchange>>>,
    next_id: AtomicU64,
    emptied: tokio::sync::Notify,
}

async fn run(
    pool: Arc<Pool>,
    mut incoming: mpsc::Receiver<Accepted>,
    mut stop: watch::Receiver<Stop>,
) {
    let sweep = tokio::spawn(sweep(pool.clone()));
    loop {
        tokio::select! {
            accepted = incoming.recv() => match accepted {
                Some(accepted) => pool.adopt(accepted),
                None => break,
            },
            changed = stop.changed() => {
                if changed.is_err() || *stop.borrow() != Stop::No {
                    break;
                }
            }
        }
    }
    incoming.close();
    while let Ok(accepted) = incoming.try_recv() {
        pool.adopt(accepted);
    }
    pool.wake_all();
    let finished = pool.finished();
    tokio::pin!(finished);
    loop {
        tokio::select! {
            () = &mut finished => break,
            changed = stop.changed() => {
                if changed.is_err() || *stop.borrow() == Stop::Now {
                    break;
                }
            }
        }
    }
    sweep.abort();
}

/// Moves the worker's clock and looks after every connection, a few times within the shortest time limit.
async fn sweep(pool: Arc<Pool>) {
    let limits = &pool.node.limits;
    let shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.send_timeout);
    let period = (shortest / 8).clamp(Duration::from_millis(5), Duration::from_millis(250));
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(250);
    let started = Instant::now();
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Starts at 1: 0 means "never" where times are kept.
        let now_ms =
            u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        pool.clock_ms.store(now_ms, Ordering::Relaxed);
        for exchange in pool.open.lock().values() {
            exchange.check(now_ms, period_ms);
        }
    }
}

impl Pool {
    fn new(index: usize, node: Arc<NodeState>, tls: Option<TlsAcceptor>) -> Self {
        Self {
            index,
            node,
            tls,
            http: connection::builder(),
            clock_ms: Arc::new(AtomicU64::new(1)),
            open: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(0),
            emptied: tokio::sync::Notify::new(),
        }
    }

    fn adopt(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { stream, permit } = accepted;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                return;
            }
        };
        // Without this a small answer waits for the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection went away at once");
            return;
        }
        let encrypted = self.tls.is_some();
        let peer = stream.peer_addr().ok();
        let exchange = Arc::new(Exchange::new(
            self.node.clone(),
            self.index,
            self.clock_ms.clone(),
            encrypted,
            peer,
        ));
        let entry = Entry::new(self.clone(), exchange.clone(), permit);
        tokio::spawn(async move {
            entry.pool.drive(stream, exchange).await;
            drop(entry);
        });
    }

    async fn drive(&self, stream: TcpStream, exchange: Arc<Exchange>) {
        let Some(acceptor) = &self.tls else {
            connection::serve(&self.http, stream, exchange).await;
            return;
        };
        // A handshake is the head of a connection: the same limit holds, and the sweep cannot see into it.
        match tokio::time::timeout(self.node.limits.header_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                connection::serve(&self.http, stream, exchange).await;
            }
            Ok(Err(error)) => {
                bump(&exchange.counters().tls_failures, 1);
                tracing::debug!(%error, "a TLS handshake failed");
            }
            Err(_) => bump(&exchange.counters().tls_failures, 1),
        }
    }

    fn wake_all(&self) {
        for exchange in self.open.lock().values() {
            exchange.wake();
        }
    }

    /// Resolves when no connection is left.
    async fn finished(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.open.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// A connection's place in its worker's table; leaves it, and gives the permit back, when it is dropped.
struct Entry {
    pool: Arc<Pool>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

impl Entry {
    fn new(pool: Arc<Pool>, exchange: Arc<Exchange>, permit: OwnedSemaphorePermit) -> Self {
        let id = pool.next_id.fetch_add(1, Ordering::Relaxed);
        bump(&exchange.counters().accepted, 1);
        pool.open.lock().insert(id, exchange);
        Self { pool, id, _permit: permit }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (exchange, empty) = {
            let mut open = self.pool.open.lock();
            (open.remove(&self.id), open.is_empty())
        };
        // What became of its last answer is counted before the connection counts as closed.
        drop(exchange);
        bump(&self.pool.node.shard(self.pool.index).closed, 1);
        if empty {
            self.pool.emptied.notify_waiters();
        }
    }
}

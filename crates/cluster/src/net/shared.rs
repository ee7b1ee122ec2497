//! What all tasks of the network share, and what it tells the node.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use iroh::Endpoint;
use parking_lot::{Mutex, RwLock};
use raft::prelude::Message;
use straightway_wire::raft::Lane;
use straightway_wire::{Hello, RequestIds, WireMetrics};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::close::CloseCode;
use super::endpoint::NotDialled;
use super::gate::Gate;
use super::lane::OutLane;
use super::limits::NetLimits;
use super::members::Members;
use super::peer::Peer;
use super::pump::refusal;
use super::queue::Outgoing;
use super::refusals::Refusals;
use super::{Handlers, LocalNode};
use crate::ids::RaftId;

/// What the network tells the node.
#[derive(Debug)]
pub enum Inbound {
    /// A message of Raft, from the member that it says it is from. It has not been judged otherwise.
    Raft {
        /// Who sent it.
        peer: RaftId,
        /// On which lane.
        lane: Lane,
        /// The message; its entries are slices of the frame.
        message: Box<Message>,
        /// Bytes that its entries keep in memory: the frame's, or more where those are part of something larger.
        frame_bytes: usize,
        /// The peer's share of memory; given back when this is dropped.
        held: Held,
    },
    /// Messages to it were lost: its queue is full, or the connection is gone. Told once, until all that waited was sent.
    Unreachable {
        /// Whom.
        peer: RaftId,
    },
    /// Its control lane is connected.
    Reachable {
        /// Whom.
        peer: RaftId,
    },
    /// It closed the connection, and said why.
    Refused {
        /// Who.
        peer: RaftId,
        /// Why.
        code: CloseCode,
        /// In words.
        reason: String,
    },
}

/// Memory that a message takes, as a share of what its sender may take.
#[derive(Debug, Default)]
pub struct Held {
    _share: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn new(share: OwnedSemaphorePermit) -> Self {
        Self { _share: Some(share) }
    }
}

/// What is to be told of a peer as soon as the node listens; the latest of each kind.
#[derive(Debug, Default)]
struct News {
    refused: Option<(CloseCode, String)>,
    unreachable: bool,
    reachable: bool,
}

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: LocalNode,
    pub(crate) limits: NetLimits,
    pub(crate) endpoint: Endpoint,
    pub(crate) members: Arc<Members>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) peers: RwLock<BTreeMap<RaftId, Arc<Peer>>>,
    pub(crate) inbound: mpsc::Sender<Inbound>,
    pub(crate) handlers: Handlers,
    pub(crate) ids: RequestIds,
    /// What passes on the control and append lanes, all peers together.
    pub(crate) wire: Arc<WireMetrics>,
    pub(crate) joins: Mutex<Gate>,
    news: Mutex<BTreeMap<RaftId, News>>,
    wake: Notify,
    tasks: Mutex<Option<JoinSet<()>>>,
    /// Where tasks run: members change on a thread that is none of the runtime's.
    runtime: Handle,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "made in one place, of what was made there")]
    /// To be called within the runtime.
    pub(crate) fn new(
        node: LocalNode,
        limits: NetLimits,
        endpoint: Endpoint,
        members: Arc<Members>,
        refusals: Arc<Refusals>,
        inbound: mpsc::Sender<Inbound>,
        handlers: Handlers,
        ids: RequestIds,
    ) -> Self {
        let joins = Mutex::new(Gate::new(limits.joins, limits.joins_each));
        Self {
            node,
            limits,
            endpoint,
            members,
            refusals,
            peers: RwLock::default(),
            inbound,
            handlers,
            ids,
            wire: Arc::default(),
            joins,
            news: Mutex::default(),
            wake: Notify::new(),
            tasks: Mutex::new(Some(JoinSet::new())),
            runtime: Handle::current(),
        }
    }

    /// Runs a task until it ends or the network is closed; after that, nothing is run.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.tasks.lock().as_mut() {
            // What has ended is let go, so that the set does not grow.
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(task, &self.runtime);
        }
    }

    /// All tasks; from now on none is run.
    pub(crate) fn take_tasks(&self) -> Option<JoinSet<()>> {
        self.tasks.lock().take()
    }

    pub(crate) fn peer(&self, id: RaftId) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).cloned()
    }

    /// What this node says first.
    pub(crate) fn hello(&self, lane: Lane) -> Hello {
        Hello {
            cluster: self.node.cluster.0,
            raft_id: self.node.raft_id,
            storage: self.node.storage.0,
            boot: self.node.boot,
            max_message: self.limits.message(lane),
            features: self.limits.features(),
            ..Hello::default()
        }
    }

    /// Queues a message; where it is dropped, the node is told.
    pub(crate) fn send(&self, peer: &Peer, lane: Lane, item: Outgoing) -> bool {
        let Some(out) = peer.out(lane) else { return false };
        let queued = out.put(item);
        if !queued {
            self.wire.dropped();
        }
        if !queued && out.tell_once() {
            self.tell(peer.id, |news| news.unreachable = true);
        }
        queued
    }

    /// A lane is connected.
    pub(crate) fn connected(&self, peer: &Peer, lane: Lane) {
        tracing::debug!(peer = peer.id, ?lane, "connected");
        if lane == Lane::Control {
            self.tell(peer.id, |news| news.reachable = true);
        }
    }

    /// A lane is not connected.
    pub(crate) fn lost(&self, peer: &Peer, lane: Lane, out: &OutLane, lost: &NotDialled) {
        if lane == Lane::Control {
            peer.calls.fail_all("the connection was lost");
            // What was not told of it yet is not so any more.
            if let Some(news) = self.news.lock().get_mut(&peer.id) {
                news.reachable = false;
            }
        }
        let refused = refusal(lost).filter(|closed| out.tell_refusal(closed.code));
        let unreachable = out.tell_once();
        if refused.is_none() && !unreachable {
            return;
        }
        tracing::info!(peer = peer.id, ?lane, reason = lost.reason, "not connected");
        self.tell(peer.id, |news| {
            news.unreachable |= unreachable;
            if let Some(closed) = refused {
                news.refused = Some((closed.code, closed.reason.clone()));
            }
        });
    }

    fn tell(&self, peer: RaftId, what: impl FnOnce(&mut News)) {
        what(self.news.lock().entry(peer).or_default());
        self.wake.notify_one();
    }

    /// Tells the node what there is to tell, as fast as it listens. What is told waits by peer: it cannot grow.
    pub(crate) async fn tell_news(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            let news = std::mem::take(&mut *self.news.lock());
            for (peer, news) in news {
                let refused =
                    news.refused.map(|(code, reason)| Inbound::Refused { peer, code, reason });
                let unreachable = news.unreachable.then_some(Inbound::Unreachable { peer });
                let reachable = news.reachable.then_some(Inbound::Reachable { peer });
                for event in [refused, unreachable, reachable].into_iter().flatten() {
                    if self.inbound.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Counts what arrived on a lane.
    pub(crate) fn received(peer: &Peer, lane: Lane, bytes: usize, gathered: u64) {
        if let Some(out) = peer.out(lane) {
            super::lane::add(&out.counters.received, 1);
            super::lane::add(&out.counters.received_bytes, bytes);
            out.counters.gathered_bytes.fetch_add(gathered, Ordering::Relaxed);
        }
    }
}

//! The network as the node has it: start, send, call, close.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use iroh::SecretKey;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use raft::prelude::Message;
use straightway_wire::raft::Lane;
use straightway_wire::{RequestIds, WireSnapshot};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::accept;
use super::close::CloseCode;
use super::endpoint::{self, exported, node_key};
use super::join::JoinService;
use super::limits::NetLimits;
use super::members::{MemberAddress, Members};
use super::peer::{Peer, PeerStats, TransferSort};
use super::pump::{self, dial_with_hello};
use super::queue::Outgoing;
use super::refusals::{Refusal, Refusals};
use super::rpc::{self, Service};
use super::shared::{Inbound, Shared};
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey, RaftId, StorageId};
use crate::store::BoxFuture;

/// Label of [`Network::exporter_key`].
const MESH_LABEL: &[u8] = b"straightway mesh 1";

/// How long a transfer waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// How long closing waits for what is still to be sent.
pub(crate) const GOODBYE: Duration = Duration::from_millis(500);

/// Who this node is, as its hello says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalNode {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub raft_id: RaftId,
    /// Its log.
    pub storage: StorageId,
    /// Which start this is.
    pub boot: u64,
}

/// How to start.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Where to listen (UDP).
    pub bind: SocketAddr,
    /// The node's key pair.
    pub secret: SecretKey,
    /// Who it is.
    pub node: LocalNode,
    /// Bounds.
    pub limits: NetLimits,
}

impl NetConfig {
    /// With the usual bounds.
    pub fn new(bind: SocketAddr, secret: SecretKey, node: LocalNode) -> Self {
        Self { bind, secret, node, limits: NetLimits::default() }
    }
}

/// Serves what peers open on the bulk lane.
pub trait BulkHandler: fmt::Debug + Send + Sync + 'static {
    /// Serves one transfer, to its end.
    fn serve(&self, peer: RaftId, send: SendStream, receive: RecvStream) -> BoxFuture<'_, ()>;
}

/// Who does what comes from others.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Answers calls.
    pub service: Arc<dyn Service>,
    /// Serves transfers.
    pub bulk: Arc<dyn BulkHandler>,
    /// Lets nodes in.
    pub join: Arc<dyn JoinService>,
}

/// What the network has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStats {
    /// How often something was refused, by reason.
    pub refused: Vec<(Refusal, u64)>,
    /// What passed on the control and append lanes, all peers together: sizes, chunks, copies, times.
    pub wire: WireSnapshot,
}

impl NetStats {
    /// How often for this reason.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused.iter().find(|(found, _)| *found == why).map_or(0, |(_, count)| *count)
    }
}

/// The network. Clones are the same one; it is closed by [`Network::close`], or when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// Ends the tasks with the last handle.
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        // Dropped with its tasks.
        drop(self.0.take_tasks());
        for peer in self.0.peers.read().values() {
            peer.close(CloseCode::Stopping);
        }
    }
}

impl Network {
    /// Listens, and begins to connect to the members.
    ///
    /// # Errors
    /// [`ClusterError::Config`] when the address cannot be used.
    pub async fn start(
        config: NetConfig,
        inbound: mpsc::Sender<Inbound>,
        handlers: Handlers,
        members: &[MemberAddress],
    ) -> Result<Self, ClusterError> {
        let NetConfig { bind, secret, node, limits } = config;
        limits.check()?;
        let known = Arc::new(Members::default());
        let refusals = Arc::new(Refusals::default());
        let endpoint =
            endpoint::bind(bind, &secret, &limits, Arc::clone(&known), Arc::clone(&refusals))
                .await?;
        let ids = RequestIds::new()?;
        let shared = Shared::new(node, limits, endpoint, known, refusals, inbound, handlers, ids);
        let shared = Arc::new(shared);
        let network = Self { _open: Arc::new(Open(Arc::clone(&shared))), shared };
        let shared = &network.shared;
        shared.spawn(Arc::clone(shared).tell_news());
        // Before the door is opened: a member that came first would be taken for a stranger.
        network.set_members(members);
        shared.spawn(accept::accept(Arc::clone(shared)));
        Ok(network)
    }

    /// Sends a message of Raft, or drops it: a full queue, or a peer that is away, is told as [`Inbound::Unreachable`].
    pub fn send_raft(&self, to: RaftId, lane: Lane, message: Message) {
        if let Some(peer) = self.shared.peer(to) {
            self.shared.send(&peer, lane, Outgoing::Raft(Box::new(message)));
        }
    }

    /// Calls another member, and waits for its answer.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with what it said, [`ClusterError::Unreachable`], [`ClusterError::Busy`],
    /// [`ClusterError::Timeout`]; [`ClusterError::Invalid`] for more than [`super::MAX_CALL_BYTES`].
    pub async fn call(
        &self,
        peer: RaftId,
        method: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ClusterError> {
        rpc::call(&self.shared, peer, method, payload, timeout).await
    }

    /// Counts a message that no honest member sends, and hangs up on the lane that it came on.
    pub fn refuse(&self, peer: RaftId, lane: Lane, what: &dyn fmt::Display) {
        self.shared.refusals.count(Refusal::RaftMessage, format_args!("member {peer}: {what}"));
        if let Some(peer) = self.shared.peer(peer) {
            peer.hang_up(lane, CloseCode::Protocol, &what.to_string());
        }
    }

    /// Replaces the members. Who is not among them any more is hung up on.
    pub fn set_members(&self, members: &[MemberAddress]) {
        let shared = &self.shared;
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        {
            let mut peers = shared.peers.write();
            // Together with the peers: whose key is known has its place among them.
            shared.members.replace(members);
            let stays = |peer: &Peer| {
                members.iter().any(|member| member.id == peer.id && member.key == peer.key)
            };
            peers.retain(|_, peer| {
                let stays = stays(peer);
                if !stays {
                    gone.push(Arc::clone(peer));
                }
                stays
            });
            for member in members.iter().filter(|member| member.id != shared.node.raft_id) {
                if let Some(peer) = peers.get(&member.id) {
                    peer.move_to(&member.addresses);
                } else {
                    let peer = Arc::new(Peer::new(member, &shared.limits));
                    peers.insert(member.id, Arc::clone(&peer));
                    new.push(peer);
                }
            }
        }
        for peer in gone {
            peer.close(CloseCode::Removed);
        }
        for peer in new {
            for lane in [Lane::Control, Lane::Append] {
                shared.spawn(pump::run(Arc::clone(shared), Arc::clone(&peer), lane));
            }
        }
    }

    /// Whether the key is a member's.
    pub fn knows(&self, key: &NodeKey) -> bool {
        self.shared.members.contains(*key)
    }

    /// A member may be found at these addresses. They need not be true: whoever is dialled there has to prove its key.
    pub fn hint(&self, key: &NodeKey, addresses: &[SocketAddr]) {
        let member = self.shared.members.by_key(*key);
        if let Some(peer) = member.and_then(|member| self.shared.peer(member.id)) {
            peer.hint(addresses, self.shared.limits.redial_most, Instant::now());
        }
    }

    /// What is known of each peer.
    pub fn peer_stats(&self) -> Vec<PeerStats> {
        self.shared.peers.read().values().map(|peer| peer.stats()).collect()
    }

    /// What was refused, and what passed.
    pub fn stats(&self) -> NetStats {
        NetStats { refused: self.shared.refusals.all(), wire: self.shared.wire.snapshot() }
    }

    /// A key that this node and the peer know and nobody else does. It is of the control connection that the smaller number dialled,
    /// and changes with it: for a moment after, the two sides may have different ones.
    pub fn exporter_key(&self, peer: RaftId) -> Option<[u8; 32]> {
        let node = &self.shared.node;
        let peer = self.shared.peer(peer)?;
        let connection = if node.raft_id < peer.id {
            peer.control().connection()
        } else {
            peer.inbound_control()
        }?;
        exported(&connection, MESH_LABEL, &node.cluster.0)
    }

    /// The bulk connection to a peer; dialled when there is none. Streams on it are for transfers.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`].
    pub async fn open_bulk(&self, peer: RaftId) -> Result<Connection, ClusterError> {
        let unreachable = |reason: String| ClusterError::Unreachable { peer, reason };
        let known =
            self.shared.peer(peer).ok_or_else(|| unreachable("it is no member".to_owned()))?;
        if let Some(connection) = known.bulk_connection() {
            return Ok(connection);
        }
        let _dialling = known.bulk.lock().await;
        if let Some(connection) = known.bulk_connection() {
            return Ok(connection);
        }
        let dialled = dial_with_hello(&self.shared, &known, Lane::Bulk).await;
        let (connection, mut hello) = dialled.map_err(|lost| unreachable(lost.reason))?;
        // The hello is all that goes that way.
        hello.finish().map_err(|error| unreachable(error.to_string()))?;
        known.set_bulk(&connection);
        Ok(connection)
    }

    /// One of the peer's transfers in this direction, as soon as one is free.
    ///
    /// # Errors
    /// [`ClusterError::Busy`] when none is free for long; [`ClusterError::Unreachable`].
    pub async fn transfer_permit(
        &self,
        peer: RaftId,
        sort: TransferSort,
    ) -> Result<OwnedSemaphorePermit, ClusterError> {
        let unreachable = || ClusterError::Unreachable { peer, reason: "it is no member".into() };
        let known = self.shared.peer(peer).ok_or_else(unreachable)?;
        let permit = tokio::time::timeout(TURN, known.transfers(sort).acquire_owned()).await;
        let permit = permit.map_err(|_| ClusterError::Busy { what: "a member's transfers" })?;
        permit.map_err(|_| unreachable())
    }

    /// Who this is.
    pub fn node(&self) -> LocalNode {
        self.shared.node
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.endpoint.bound_sockets().first().copied()
    }

    /// Its public key.
    pub fn key(&self) -> NodeKey {
        node_key(self.shared.endpoint.id())
    }

    /// Says goodbye to everybody and ends. What waits is dropped.
    pub async fn close(&self) {
        let peers = std::mem::take::<BTreeMap<_, _>>(&mut *self.shared.peers.write());
        for peer in peers.values() {
            peer.close(CloseCode::Stopping);
        }
        // Goodbyes are on their way by then; the rest of the wait is for those who are not there to hear them.
        let _ = tokio::time::timeout(GOODBYE, self.shared.endpoint.close()).await;
        if let Some(mut tasks) = self.shared.take_tasks() {
            tasks.shutdown().await;
        }
    }
}

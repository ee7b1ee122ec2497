//! Nodes without a Raft: what reaches them is looked at.
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iroh::SecretKey;
use iroh::endpoint::{RecvStream, SendStream};
use parking_lot::Mutex;
use raft::prelude::{Entry, Message, MessageType};
use straightway_cluster::net::{
    BulkHandler, Handlers, Inbound, JoinAnswer, JoinRefusal, JoinRequest, JoinService, LocalNode,
    MemberAddress, NetConfig, NetLimits, Network, Service, TicketGrant, TicketId,
};
use straightway_cluster::{BoxFuture, ClusterId, NodeKey, RaftId, StorageId};
use tokio::sync::{Notify, mpsc};

/// Longer than anything takes here, however busy the machine is.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

pub(crate) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Something that must happen, and soon.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let Ok(happened) = tokio::time::timeout(LONG, happens).await else {
        panic!("waited too long for {what}");
    };
    happened
}

/// Waits until it is so. What is waited for has no event of its own.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    soon(what, async {
        while !so() {
            // Pause: the condition is another task's; it is asked again.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Answers `echo`, refuses `refuse`, and never answers `hang`.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) hanging: Notify,
}

impl Service for Answers {
    fn call<'a>(
        &'a self,
        peer: RaftId,
        method: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            match method {
                "echo" => Ok(payload),
                "who" => Ok(Bytes::copy_from_slice(&peer.to_le_bytes())),
                "hang" => {
                    self.hanging.notify_one();
                    std::future::pending().await
                }
                "long" => Ok(vec![0; 1 << 20].into()),
                _ => Err(format!("no method `{method}`")),
            }
        })
    }
}

#[derive(Debug)]
pub(crate) struct NoBulk;

impl BulkHandler for NoBulk {
    fn serve(&self, _: RaftId, _: SendStream, _: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Knows one ticket.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) ticket: Mutex<Option<(TicketId, TicketGrant)>>,
    pub(crate) used: AtomicBool,
    /// So many are told to come again.
    pub(crate) not_now: AtomicU64,
    pub(crate) joined: Mutex<Vec<JoinRequest>>,
    pub(crate) now_ms: u64,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            ticket: Mutex::new(None),
            used: AtomicBool::new(false),
            not_now: AtomicU64::new(0),
            joined: Mutex::new(Vec::new()),
            now_ms: 1000,
        }
    }
}

impl JoinService for Door {
    fn ticket(&self, id: TicketId) -> BoxFuture<'_, Result<TicketGrant, JoinRefusal>> {
        let known = *self.ticket.lock();
        let grant = known.filter(|(known, _)| *known == id).ok_or(JoinRefusal::Unknown);
        Box::pin(async move { grant.map(|(_, grant)| grant) })
    }

    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinAnswer, JoinRefusal>> {
        Box::pin(async move {
            let less = |left: u64| left.checked_sub(1);
            if self.not_now.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                return Err(JoinRefusal::NotNow("there is no leader".to_owned()));
            }
            if self.used.swap(true, Ordering::SeqCst) {
                return Err(JoinRefusal::Used);
            }
            let member = MemberAddress {
                id: 9,
                key: request.key,
                addresses: request.node.addresses.clone(),
                storage: Some(request.node.storage),
            };
            self.joined.lock().push(request);
            Ok(JoinAnswer { cluster: CLUSTER, raft_id: 9, members: vec![member] })
        })
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }
}

pub(crate) struct Node {
    pub(crate) id: RaftId,
    pub(crate) network: Network,
    pub(crate) inbound: mpsc::Receiver<Inbound>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) door: Arc<Door>,
}

/// How a node is started.
#[derive(Clone)]
pub(crate) struct Start {
    pub(crate) id: RaftId,
    pub(crate) secret: SecretKey,
    pub(crate) boot: u64,
    pub(crate) bind: SocketAddr,
    pub(crate) limits: NetLimits,
    /// Events that wait unread.
    pub(crate) unread: usize,
    pub(crate) bulk: Arc<dyn BulkHandler>,
    pub(crate) door: Arc<Door>,
    /// Members that it knows from the beginning.
    pub(crate) known: Vec<MemberAddress>,
}

impl Start {
    pub(crate) fn new(id: RaftId) -> Self {
        // Slow machines are not what is tested. Who is gone without a word is noticed before a transfer waits too long for it.
        let idle = Duration::from_secs(9);
        let limits = NetLimits { idle, dial: LONG, hello: LONG, ..NetLimits::default() };
        let secret = SecretKey::from_bytes(&[u8::try_from(id).expect("small"); 32]);
        let bulk = Arc::new(NoBulk);
        let (bind, known, door) = (loopback(), Vec::new(), Arc::default());
        Self { id, secret, boot: 1, bind, limits, unread: 1024, bulk, door, known }
    }

    pub(crate) fn node(&self) -> LocalNode {
        LocalNode {
            cluster: CLUSTER,
            raft_id: self.id,
            storage: StorageId([u8::try_from(self.id).expect("small"); 16]),
            boot: self.boot,
        }
    }

    pub(crate) async fn start(self) -> Node {
        let (sender, inbound) = mpsc::channel(self.unread);
        let (answers, door) = (Arc::new(Answers::default()), self.door.clone());
        let id = self.id;
        let (mut handlers, config, known) = self.parts();
        handlers.service = Arc::<Answers>::clone(&answers);
        let network = Network::start(config, sender, handlers, &known).await.expect("started");
        Node { id, network, inbound, answers, door }
    }

    /// What a network is started with; it answers nobody that is looked at.
    pub(crate) fn parts(self) -> (Handlers, NetConfig, Vec<MemberAddress>) {
        let node = self.node();
        let service = Arc::new(Answers::default());
        let handlers = Handlers { service, bulk: self.bulk, join: self.door };
        let config = NetConfig::new(self.bind, self.secret, node);
        (handlers, NetConfig { limits: self.limits, ..config }, self.known)
    }
}

impl Node {
    pub(crate) fn key(&self) -> NodeKey {
        self.network.key()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.network.local_addr().expect("bound")
    }

    pub(crate) fn member(&self) -> MemberAddress {
        MemberAddress {
            id: self.id,
            key: self.key(),
            addresses: vec![self.address()],
            storage: Some(self.network.node().storage),
        }
    }

    /// The next message of Raft, whatever else comes before it.
    pub(crate) async fn message(&mut self) -> (RaftId, Message) {
        soon("a message", async {
            loop {
                match self.inbound.recv().await.expect("open") {
                    Inbound::Raft { peer, message, .. } => return (peer, *message),
                    other => drop(other),
                }
            }
        })
        .await
    }

    /// The next event for which it is so.
    pub(crate) async fn event(&mut self, what: &str, so: impl Fn(&Inbound) -> bool) -> Inbound {
        soon(what, async {
            loop {
                let event = self.inbound.recv().await.expect("open");
                if so(&event) {
                    return event;
                }
            }
        })
        .await
    }

    /// Waits until both lanes to and from `peer` are connected.
    pub(crate) async fn connected(&self, peer: RaftId) {
        until("connections both ways", || {
            let stats = self.network.peer_stats();
            stats.iter().any(|stats| {
                stats.id == peer
                    && stats.control.connected
                    && stats.append.connected
                    && stats.inbound[0]
                    && stats.inbound[1]
            })
        })
        .await;
    }
}

/// So many nodes that know each other, numbered from 1 on.
pub(crate) async fn cluster(starts: impl IntoIterator<Item = Start>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for start in starts {
        nodes.push(start.start().await);
    }
    introduce(&nodes);
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.id != node.id) {
            node.connected(other.id).await;
        }
    }
    nodes
}

pub(crate) fn introduce(nodes: &[Node]) {
    let members = nodes.iter().map(Node::member).collect::<Vec<_>>();
    for node in nodes {
        node.network.set_members(&members);
    }
}

pub(crate) fn message(kind: MessageType, from: RaftId, to: RaftId) -> Message {
    let mut message = Message { from, to, term: 1, ..Message::default() };
    message.set_msg_type(kind);
    message
}

pub(crate) fn append(from: RaftId, to: RaftId, bytes: usize, fill: u8) -> Message {
    let mut message = message(MessageType::MsgAppend, from, to);
    let data = Bytes::from(vec![fill; bytes]);
    let entry = Entry { index: 1, term: 1, data, ..Entry::default() };
    message.set_entries(vec![entry].into());
    message
}

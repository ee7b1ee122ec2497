//! How a member comes up, and goes down.
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use raft::prelude::{ConfState, Message, MessageType};
use straightway_wire::raft::{decode_conf_state, encode_conf_state};
use tokio::sync::{mpsc, watch};

use super::apply::{Applier, Marks, Observer, Task};
use super::disk::{Disk, Job, Jobs, Outbox, first_hard_state};
use super::drive::{Driver, Input, State, members_of};
use super::fetch::Fetches;
use super::holdings::{self, Holdings};
use super::inbox::{self, Arrived};
use super::join::Gatekeeper;
use super::leases::{self, Leases};
use super::mesh::Mesh;
use super::pending::Pending;
use super::progress::Progress;
use super::snapshots::{self, Frozen};
use super::wake::Wake;
use super::{Cluster, ClusterConfig, Shared, Start, addresses_of, expire, members, now_ms, rpc};
use crate::catalogue::{Bootstrap, Catalogue, MemberChanged, Op};
use crate::core::Core;
use crate::error::ClusterError;
use crate::ids::{ClusterId, RaftId, StorageId};
use crate::lease::{LeaseTable, boot_clock};
use crate::log::{Batch, LogOptions, LogStore, RaftStorage, SegmentLog, SnapshotMark, detach};
use crate::net::{
    CloseCode, Handlers, Identity, Inbound, Joiner, Lane, LocalNode, MemberAddress, NetConfig,
    Network, join as join_cluster, random_bytes,
};
use crate::store::ObjectStore;
use crate::transfer::{TransferServer, Transfers};

/// Messages from peers between the network and Raft's ring.
const INBOUND: usize = 256;
/// Batches for the applying thread.
const TASKS: usize = 256;
/// Jobs for the log's thread.
const JOBS: usize = 1024;
const STOP_PAUSE: Duration = Duration::from_millis(10);
/// While Raft's thread has no room.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Between two tries to tell the others where this node is.
const INTRODUCE_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks for new connections.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);
/// How long a stopping leader tries to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Where members listen unless they are told otherwise, or it is taken.
const DEFAULT_PORT: u16 = 8082;
/// The number of a cluster's first member.
const FIRST: RaftId = 1;
/// Folders in the data folder.
const LOG: &str = "log";
const CATALOGUE: &str = "catalogue";

/// The threads of a member, and how to end them.
pub(super) struct Threads {
    tasks: Sender<Task>,
    jobs: Jobs,
    handles: Vec<JoinHandle<()>>,
}

impl Cluster {
    /// Starts a member: recovers what its data folder holds, joins if it must, and begins to take part.
    ///
    /// Must be called within a tokio runtime, whose threads it uses for the network.
    pub async fn start(
        config: ClusterConfig,
        store: Arc<dyn ObjectStore>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ClusterError> {
        let mut identity = Identity::open(&config.data_dir)?;
        let listen = listen_address(&config, &identity)?;
        let mesh = mesh_socket(listen)?;
        let me = Me {
            name: config.name.clone(),
            addresses: advertised(&config, listen),
            mesh: mesh_addresses(&config, &mesh)?,
            http: config.http.clone(),
        };
        let mut seeds = Vec::new();
        if identity.record().raft_id == 0 {
            clear(&config.data_dir)?;
            seeds = enrol(&config, listen, &me, &mut identity).await?;
        }
        let parts = open(&config, &identity)?;
        let plan = Plan { config, listen, me, mesh, identity, seeds, store, observer };
        build(plan, parts).await
    }
}

/// What the data folder holds.
struct Parts {
    catalogue: Catalogue,
    log: SegmentLog,
    storage: RaftStorage,
}

/// Leftovers of a start that did not come to its end.
fn clear(data_dir: &Path) -> Result<(), ClusterError> {
    for name in [LOG, CATALOGUE] {
        let path = data_dir.join(name);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ClusterError::file("empty", path)(error)),
        }
    }
    Ok(())
}

/// The address to listen on: the port of the last start where none is given, so that the others find it again.
fn listen_address(config: &ClusterConfig, identity: &Identity) -> Result<SocketAddr, ClusterError> {
    let mut listen = config.listen;
    if listen.port() == 0 {
        let port = match identity.record().listen {
            Some(last) => last.port(),
            None => free_port(listen.ip())?,
        };
        listen.set_port(port);
    }
    if listen.ip().is_unspecified() && config.advertise.is_empty() {
        let what = format!(
            "members cannot be told to reach {listen}; name an address of this machine with --cluster-listen or --cluster-advertise"
        );
        return Err(ClusterError::Config { what });
    }
    Ok(listen)
}

fn free_port(ip: IpAddr) -> Result<u16, ClusterError> {
    let bind =
        |port| UdpSocket::bind(SocketAddr::new(ip, port)).and_then(|socket| socket.local_addr());
    let address = bind(DEFAULT_PORT).or_else(|_| bind(0)).map_err(|error| {
        ClusterError::Config { what: format!("cannot listen for members on {ip}: {error}") }
    })?;
    Ok(address.port())
}

/// Where others are told to come.
fn advertised(config: &ClusterConfig, listen: SocketAddr) -> Vec<SocketAddr> {
    if config.advertise.is_empty() { vec![listen] } else { config.advertise.clone() }
}

/// The mesh's socket, beside the cluster's own if that is free.
fn mesh_socket(listen: SocketAddr) -> Result<UdpSocket, ClusterError> {
    let beside = SocketAddr::new(listen.ip(), listen.port().wrapping_add(1));
    UdpSocket::bind(beside).or_else(|_| UdpSocket::bind(SocketAddr::new(listen.ip(), 0))).map_err(
        |error| ClusterError::Config {
            what: format!("cannot listen for the mesh on {}: {error}", listen.ip()),
        },
    )
}

fn mesh_addresses(
    config: &ClusterConfig,
    mesh: &UdpSocket,
) -> Result<Vec<SocketAddr>, ClusterError> {
    let bound = mesh.local_addr().map_err(|error| ClusterError::Config {
        what: format!("the mesh's address cannot be read: {error}"),
    })?;
    if config.advertise.is_empty() {
        return Ok(vec![bound]);
    }
    Ok(config.advertise.iter().map(|told| SocketAddr::new(told.ip(), bound.port())).collect())
}

/// What a node says of itself.
struct Me {
    name: String,
    addresses: Vec<SocketAddr>,
    mesh: Vec<SocketAddr>,
    http: String,
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Makes this node a member: of a new cluster, or of the ticket's. Answers with the members that it must know before the
/// catalogue has come.
async fn enrol(
    config: &ClusterConfig,
    listen: SocketAddr,
    me: &Me,
    identity: &mut Identity,
) -> Result<Vec<MemberAddress>, ClusterError> {
    let storage = StorageId(random_bytes()?);
    let (cluster, raft_id, members) = match &config.start {
        Start::First => {
            let cluster = ClusterId(random_bytes()?);
            let conf_state = ConfState { voters: vec![FIRST], ..ConfState::default() };
            let bootstrap = Bootstrap {
                cluster,
                conf_state: encode_conf_state(&conf_state),
                key: identity.key(),
                storage,
                name: me.name.clone(),
                addresses: texts(&me.addresses),
                mesh: texts(&me.mesh),
                http: me.http.clone(),
            };
            Catalogue::open(&config.data_dir.join(CATALOGUE))?.bootstrap(&bootstrap)?;
            let (mut log, _) =
                SegmentLog::open(&config.data_dir.join(LOG), LogOptions::new(storage))?;
            let mark = SnapshotMark { index: 1, term: 1, conf_state };
            let hard_state = first_hard_state();
            let batch =
                Batch { snapshot: Some(&mark), hard_state: Some(&hard_state), ..Batch::default() };
            let _synced = log.append(batch)?;
            (cluster, FIRST, Vec::new())
        }
        Start::Join(ticket) => {
            let joiner = Joiner {
                storage,
                name: me.name.clone(),
                addresses: me.addresses.clone(),
                mesh: me.mesh.first().copied(),
                http: me.http.clone(),
            };
            SegmentLog::open(&config.data_dir.join(LOG), LogOptions::new(storage))?;
            let bind = SocketAddr::new(listen.ip(), 0);
            let answer = join_cluster(bind, identity.secret(), ticket, &joiner, now_ms()).await?;
            (answer.cluster, answer.raft_id, answer.members)
        }
    };
    // Last: what is not whole by now is begun anew.
    identity.update(|record| {
        record.cluster = Some(cluster);
        record.raft_id = raft_id;
        record.storage = Some(storage);
        record.listen = Some(listen);
        record.name.clone_from(&config.name);
    })?;
    Ok(members)
}

/// Opens what the data folder holds.
fn open(config: &ClusterConfig, identity: &Identity) -> Result<Parts, ClusterError> {
    let record = identity.record();
    let (Some(cluster), Some(storage)) = (record.cluster, record.storage) else {
        return Err(ClusterError::Invalid {
            what: "the identity in the data folder",
            reason: "it names no cluster; empty the folder and let the node join again".to_owned(),
        });
    };
    let catalogue = Catalogue::open(&config.data_dir.join(CATALOGUE))?;
    if let Some(other) = catalogue.cluster().filter(|other| *other != cluster) {
        return Err(ClusterError::Invalid {
            what: "the catalogue in the data folder",
            reason: format!("it belongs to cluster {other}, the identity to {cluster}"),
        });
    }
    let options = LogOptions { must_exist: true, ..LogOptions::new(storage) };
    let (log, recovered) = SegmentLog::open(&config.data_dir.join(LOG), options)?;
    if recovered.torn_bytes > 0 {
        tracing::info!(
            bytes = recovered.torn_bytes,
            "a write that a crash cut short was dropped from the log"
        );
    }
    let conf_state = catalogue.conf_state();
    let conf_state =
        if conf_state.is_empty() { None } else { Some(decode_conf_state(&conf_state)?) };
    let applied = catalogue.applied().index;
    let storage = RaftStorage::recover(recovered, applied, conf_state)?;
    if applied + 1 < storage.first() {
        return Err(ClusterError::Invalid {
            what: "the data folder",
            reason: format!(
                "the catalogue ends at {applied} and the log begins at {}; remove this node from the cluster, empty the folder and let it join again",
                storage.first()
            ),
        });
    }
    Ok(Parts { catalogue, log, storage })
}

/// What is known only when everything is there. Whoever holds it does not keep the node alive.
#[derive(Clone, Default)]
pub(super) struct Later(Arc<OnceLock<std::sync::Weak<Shared>>>);

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

impl Later {
    pub(super) fn upgrade(&self) -> Option<Arc<Shared>> {
        self.0.get().and_then(std::sync::Weak::upgrade)
    }
}

/// What a node is built from, besides what its data folder holds.
struct Plan {
    config: ClusterConfig,
    listen: SocketAddr,
    me: Me,
    mesh: UdpSocket,
    identity: Identity,
    seeds: Vec<MemberAddress>,
    store: Arc<dyn ObjectStore>,
    observer: Arc<dyn Observer>,
}

async fn build(plan: Plan, parts: Parts) -> Result<Cluster, ClusterError> {
    let Plan { config, listen, me, mesh, identity, seeds, store, observer } = plan;
    let Parts { catalogue, log, storage } = parts;
    let record = identity.record().clone();
    let (id, boot) = (record.raft_id, identity.boot());
    let cluster = record.cluster.unwrap_or(ClusterId([0; 16]));
    let later = Later::default();
    let (wake, woken) = Wake::new();
    let (letterbox, inbox) = inbox::inbox(wake.clone());
    let (task_sender, tasks) = crossbeam_channel::bounded(TASKS);
    let (job_sender, jobs) = crossbeam_channel::bounded(JOBS);
    let (inbound_sender, inbound) = mpsc::channel(INBOUND);
    let node = LocalNode {
        cluster,
        raft_id: id,
        storage: record.storage.unwrap_or(StorageId([0; 16])),
        boot,
    };
    let frozen = Arc::new(Frozen { tasks: task_sender.clone() });
    let served = Arc::new(TransferServer::new(store.clone(), frozen));
    let handlers = Handlers {
        service: Arc::new(rpc::Answers(later.clone())),
        bulk: served.clone(),
        join: Arc::new(Gatekeeper(later.clone())),
    };
    let known = member_addresses(&catalogue);
    let known = if known.is_empty() { seeds } else { known };
    let network = Network::start(
        NetConfig::new(listen, identity.secret().clone(), node),
        inbound_sender,
        handlers,
        &known,
    )
    .await?;
    let mesh = Mesh::start(mesh, id, identity.key(), &catalogue)?;
    let conf_state = storage.conf_state();
    let applied = catalogue.applied().index;
    let mut core = Core::new(id, storage.clone(), applied, None)?;
    if conf_state.voters == [id] && conf_state.voters_outgoing.is_empty() {
        core.campaign();
    }
    let now = boot_clock();
    let mut lease = LeaseTable::new(now, applied > 1);
    lease.members(&members_of(&conf_state), applied, now);
    lease.scanned(applied);
    let progress = Arc::new(Progress::new());
    let marks = Arc::new(Marks::new(applied, catalogue.durable()));
    let persisted = Arc::new(AtomicU64::new(0));
    let pending = Arc::new(Pending::new(id, boot));
    let leases = Arc::new(Leases::new(boot));
    let gate = leases.holder.lock().gate();
    leases.applied(applied, false);
    let (holdings, news) = Holdings::new();
    let driver = Driver {
        core,
        storage,
        inbox,
        wake: woken,
        jobs: Jobs(job_sender.clone()),
        tasks: task_sender.clone(),
        outbox: Box::new(Lanes(network.clone())),
        persisted: persisted.clone(),
        marks: marks.clone(),
        fetch: fetcher(later.clone()),
        progress: progress.clone(),
        state: State::new(lease),
    };
    let disk = Disk {
        log: Box::new(log),
        outbox: Box::new(Lanes(network.clone())),
        persisted,
        wake: wake.clone(),
        progress: progress.clone(),
    };
    let applier = Applier {
        catalogue: catalogue.clone(),
        pending: pending.clone(),
        observer: observer.clone(),
        later: later.clone(),
        leases: leases.clone(),
        marks,
        wake,
        letterbox: letterbox.clone(),
    };
    let shared = Arc::new(Shared {
        id,
        key: identity.key(),
        cluster,
        name: config.name,
        address: network.local_addr().unwrap_or(listen),
        copies: config.copies,
        serial: AtomicU64::new(boot << 40),
        catalogue,
        store,
        transfers: Transfers::new(network.clone()),
        served,
        network,
        mesh,
        letterbox: letterbox.clone(),
        pending,
        progress,
        leases,
        gate,
        holdings,
        fetches: Fetches::default(),
        failed: watch::Sender::new(None),
        threads: Mutex::new(None),
        _identity: identity,
    });
    // Set once, here.
    let _ = later.0.set(Arc::downgrade(&shared));
    let threads = Threads {
        tasks: task_sender,
        jobs: Jobs(job_sender),
        handles: vec![
            thread("raft", later.clone(), move || driver.run())?,
            thread("raft-log", later.clone(), move || disk.run(&jobs))?,
            thread("raft-apply", later, move || applier.run(&tasks))?,
        ],
    };
    *shared.threads.lock() = Some(threads);
    let weak = Arc::downgrade(&shared);
    tokio::spawn(receive(weak.clone(), inbound));
    tokio::spawn(leases::ask(weak.clone()));
    tokio::spawn(leases::report(weak.clone()));
    tokio::spawn(members::promote(weak.clone()));
    tokio::spawn(holdings::run(weak.clone(), news));
    tokio::spawn(expire::run(weak.clone()));
    tokio::spawn(refresh_mesh(weak.clone()));
    tokio::spawn(tell_leader(weak.clone(), observer));
    tokio::spawn(introduce(weak, me));
    Ok(Cluster(shared))
}

/// Members as the network must know them.
pub(super) fn member_addresses(catalogue: &Catalogue) -> Vec<MemberAddress> {
    catalogue
        .members()
        .iter()
        .map(|member| MemberAddress {
            id: member.id,
            key: member.key,
            addresses: addresses_of(member),
            storage: Some(member.storage),
        })
        .collect()
}

fn thread(
    name: &str,
    later: Later,
    run: impl FnOnce() -> Result<(), ClusterError> + Send + 'static,
) -> Result<JoinHandle<()>, ClusterError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // A bug must not leave a member that neither works nor ends; nothing that it owned is used again.
            let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
            let reason = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => full(&error),
                Err(_) => "met a bug of its own, which it printed; report it, and start it again"
                    .to_owned(),
            };
            if let Some(shared) = later.upgrade() {
                shared.fail(reason);
            }
        })
        .map_err(|error| ClusterError::Config {
            what: format!("the system refused a thread: {error}"),
        })
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn fetcher(later: Later) -> super::drive::FetchSnapshot {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move |message| {
        runtime.spawn(snapshots::fetch(later.clone(), message));
    })
}

/// Sends each message on its lane.
struct Lanes(Network);

impl Outbox for Lanes {
    fn send(&self, message: Message) {
        let lane = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgAppendResponse | MessageType::MsgSnapshot => {
                Lane::Append
            }
            _ => Lane::Control,
        };
        self.0.send_raft(message.to, lane, message);
    }
}

/// Takes what comes from peers to Raft's thread; while that has no room, nothing more is read from the network.
async fn receive(shared: std::sync::Weak<Shared>, mut inbound: mpsc::Receiver<Inbound>) {
    while let Some(what) = inbound.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        match what {
            Inbound::Raft { lane, mut message, frame_bytes, held, .. } => {
                detach(message.mut_entries(), frame_bytes);
                let mut arrived = Arrived::Raft { lane, message: *message, held };
                while let Err(back) = shared.letterbox.arrived(arrived, frame_bytes) {
                    arrived = back;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            }
            Inbound::Unreachable { peer } => {
                // Raft probes again by itself: this may be dropped.
                let _ = shared.letterbox.arrived(Arrived::Unreachable(peer), 0);
            }
            Inbound::Reachable { .. } => shared.mesh.refresh(&shared.network),
            Inbound::Refused { peer, code, reason } => shared.refused_by(peer, code, &reason),
        }
    }
}

/// Connections come and go in either direction, and with them the secrets that the mesh is sealed with.
async fn refresh_mesh(shared: std::sync::Weak<Shared>) {
    loop {
        tokio::time::sleep(REFRESH_PAUSE).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.mesh.refresh(&shared.network);
    }
}

/// Tells who leads. Not on Raft's thread: it must not wait for whoever listens.
async fn tell_leader(shared: std::sync::Weak<Shared>, observer: Arc<dyn Observer>) {
    let Some(mut leaders) = shared.upgrade().map(|shared| shared.progress.watch()) else { return };
    let mut told = (0, 0);
    loop {
        let now = *leaders.borrow_and_update();
        // Between two leaders there is nobody to tell of.
        if now.leader != 0 && told != (now.term, now.leader) {
            told = (now.term, now.leader);
            observer.leader(now.term, now.leader);
        }
        // The node's own end is the end of its leaders.
        if leaders.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the others where this node is now, if that is not what they know.
async fn introduce(shared: std::sync::Weak<Shared>, me: Me) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let known = shared.catalogue.member(shared.id);
        let (addresses, mesh) = (texts(&me.addresses), texts(&me.mesh));
        if let Some(known) = known {
            if known.addresses == addresses
                && known.mesh == mesh
                && known.http == me.http
                && known.name == me.name
            {
                return;
            }
            let changed = MemberChanged {
                id: shared.id,
                name: me.name.clone(),
                addresses,
                mesh,
                http: me.http.clone(),
            };
            if shared.change(Op::MemberChanged(changed)).await.is_ok() {
                return;
            }
        }
        drop(shared);
        tokio::time::sleep(INTRODUCE_PAUSE).await;
    }
}

impl Shared {
    /// A peer does not talk to this node.
    fn refused_by(&self, peer: RaftId, code: CloseCode, reason: &str) {
        tracing::warn!(peer, ?code, reason, "a member refuses this node");
        if code == CloseCode::Removed {
            self.fail(
                "has been removed from the cluster; empty its data folder and let it join again"
                    .to_owned(),
            );
        }
    }

    pub(super) async fn stop(self: &Arc<Self>) {
        let Some(threads) = self.threads.lock().take() else { return };
        self.hand_over().await;
        self.leases.holder.lock().revoke();
        self.mesh.stop();
        // The driver first: it feeds the others.
        while matches!(self.letterbox.put(Input::Stop), Err(ClusterError::Busy { .. })) {
            tokio::time::sleep(STOP_PAUSE).await;
        }
        let Threads { tasks, jobs, handles } = threads;
        let ended = tokio::task::spawn_blocking(move || {
            let mut handles = handles.into_iter();
            let mut join = || handles.next().map(JoinHandle::join);
            join();
            let _ = jobs.give(Job::Stop);
            join();
            let _ = tasks.send(Task::Stop);
            join();
        });
        let _ = ended.await;
        self.network.close().await;
    }

    /// A leader that stops lets another one lead first: the others need not wait for an election.
    async fn hand_over(&self) {
        if self.progress.leadership().leader != self.id || self.failed.borrow().is_some() {
            return;
        }
        let voters = self.progress.detail().conf_state.voters;
        let others = voters.into_iter().filter(|id| *id != self.id);
        if let Some(heir) = self.healthiest(others) {
            let change = members::Change::Transfer(heir);
            let _ = self.change_members(change, HAND_OVER).await;
        }
    }
}

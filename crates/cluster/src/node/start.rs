//! How a member comes up.
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use raft::prelude::{Message, MessageType};
use tokio::sync::{Semaphore, mpsc, watch};

use super::apply::{Applier, Marks, Observer};
use super::change::Releases;
use super::disk::{Disk, Jobs, Outbox};
use super::drive::{Driver, State, members_of};
use super::enrol::{
    CATALOGUE, LOG, Me, advertised, clear, enrol, listen_address, mesh_addresses, mesh_socket,
};
use super::estranged::Estranged;
use super::fetch::Fetches;
use super::holdings::{self, Holdings};
use super::join::Gatekeeper;
use super::leases::{self, Leases};
use super::mesh::Mesh;
use super::pending::Pending;
use super::progress::{Detail, Progress};
use super::repair::{self, Repair};
use super::snapshots::{self, Frozen};
use super::stop::{Threads, thread};
use super::tasks::{introduce, receive, refresh_mesh, tell_leader};
use super::unannounced::Unannounced;
use super::wake::Wake;
use super::{Cluster, ClusterConfig, Shared, Start, addresses_of, discover, expire, members, rpc};
use super::{inbox, installing};
use crate::catalogue::Catalogue;
use crate::core::Core;
use crate::error::ClusterError;
use crate::ids::{ClusterId, RaftId, StorageId};
use crate::lease::{LeaseTable, boot_clock};
use crate::log::{LogOptions, RaftStorage, SegmentLog};
use crate::net::{Handlers, Identity, Lane, LocalNode, MemberAddress, NetConfig, Network};
use crate::store::ObjectStore;
use crate::transfer::{TransferServer, Transfers};

/// Messages from peers between the network and Raft's ring.
const INBOUND: usize = 256;
/// Tasks for the applying thread, of all sorts; the driver lets far fewer batches wait there (`MAX_AHEAD` in `backlog.rs`).
const TASKS: usize = 256;
/// Puts at a time whose last copies are made behind the answer.
const LATE: usize = 1024;
/// Jobs for the log's thread.
const JOBS: usize = 1024;

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
        let (listen, reserved) = listen_address(&config, &identity)?;
        let mesh = mesh_socket(listen)?;
        let me = Me {
            name: config.name.clone(),
            addresses: advertised(&config, listen),
            mesh: mesh_addresses(&config, &mesh)?,
            http: config.http.clone(),
        };
        if identity.record().raft_id == 0 {
            clear(&config.data_dir)?;
            enrol(&config, listen, &me, &mut identity).await?;
        }
        check_ticket(&config, &identity)?;
        let parts = open(&config, &identity)?;
        if !identity.record().members.is_empty() && !parts.catalogue.members().is_empty() {
            identity.update(|record| record.members.clear())?;
        }
        let plan = Plan { config, listen, reserved, me, mesh, identity, store, observer };
        build(plan, parts).await
    }
}

/// A member does not look at the ticket that it once joined by, unless that is plainly not for it.
fn check_ticket(config: &ClusterConfig, identity: &Identity) -> Result<(), ClusterError> {
    match (&config.start, identity.record().cluster) {
        (Start::Join(ticket), Some(cluster)) if ticket.cluster != cluster => {
            let what = format!(
                "the data folder {} belongs to a member of cluster {cluster}, the ticket is for cluster {}; give this node another --data-dir to join that, or start it with --cluster",
                config.data_dir.display(),
                ticket.cluster
            );
            Err(ClusterError::Config { what })
        }
        _ => Ok(()),
    }
}

/// What the data folder holds.
struct Parts {
    catalogue: Catalogue,
    log: SegmentLog,
    storage: RaftStorage,
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
    let (mut log, mut recovered) = SegmentLog::open(&config.data_dir.join(LOG), options)?;
    if recovered.torn_bytes > 0 {
        tracing::info!(
            bytes = recovered.torn_bytes,
            "a write that a crash cut short was dropped from the log"
        );
    }
    let mark = catalogue.mark();
    let applied = mark.index;
    // Without members there is nothing in it.
    let mark = if mark.conf_state.is_empty() { None } else { Some(mark.decode()?) };
    if let Some(mark) = &mark {
        installing::finish(&config.data_dir, mark, &mut log, &mut recovered)?;
    }
    let storage = RaftStorage::recover(recovered, mark)?;
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
    /// Holds that address until the network takes it.
    reserved: UdpSocket,
    me: Me,
    mesh: UdpSocket,
    identity: Identity,
    store: Arc<dyn ObjectStore>,
    observer: Arc<dyn Observer>,
}

#[expect(
    clippy::too_many_lines,
    reason = "one list of parts, in the order in which they need each other"
)]
async fn build(plan: Plan, parts: Parts) -> Result<Cluster, ClusterError> {
    let Plan { config, listen, reserved, me, mesh, identity, store, observer } = plan;
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
    // Before the first snapshot has come: whoever brings it must be let in.
    let known = if known.is_empty() { record.members.clone() } else { known };
    let mut net = NetConfig::new(listen, identity.secret().clone(), node);
    net.limits.compress = config.compress;
    drop(reserved);
    let network = Network::start(net, inbound_sender, handlers, &known).await?;
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
    // Before Raft's thread says so: how many copies a put needs depends on it.
    progress.set_detail(Detail { conf_state, commit_index: applied, ..Detail::default() });
    let marks = Arc::new(Marks::new(applied, catalogue.durable()));
    let persisted = Arc::new(AtomicU64::new(0));
    let pending = Arc::new(Pending::new(id, boot));
    let leases = Arc::new(Leases::new(boot));
    let gate = leases.holder.lock().gate();
    leases.applied(applied, false);
    let (holdings, news) = Holdings::new();
    let repair = Repair::default();
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
        cut_entries: config.log_entries.max(1),
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
        data_dir: config.data_dir.clone(),
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
        repair: Arc::new(repair),
        unannounced: Unannounced::default(),
        late: Arc::new(Semaphore::new(LATE)),
        estranged: Estranged::default(),
        beacons: Mutex::default(),
        releases: Releases::default(),
        runtime: tokio::runtime::Handle::current(),
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
    if config.discover {
        discover::start(&shared, listen.ip(), &me.addresses);
    }
    let weak = Arc::downgrade(&shared);
    tokio::spawn(receive(weak.clone(), inbound));
    tokio::spawn(leases::ask(weak.clone()));
    tokio::spawn(leases::report(weak.clone()));
    tokio::spawn(members::promote(weak.clone()));
    tokio::spawn(holdings::run(weak.clone(), news));
    tokio::spawn(expire::run(weak.clone()));
    tokio::spawn(repair::run(weak.clone(), config.repair_after));
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

    fn refused(&self, peer: RaftId, lane: Lane, why: &dyn std::fmt::Display) {
        self.0.refuse(peer, lane, why);
    }
}

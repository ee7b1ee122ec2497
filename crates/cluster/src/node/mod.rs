//! A member of a cluster: what everything else here is put together to.
mod apply;
mod change;
mod config;
mod copying;
mod discover;
mod disk;
mod drive;
mod enrol;
mod estranged;
mod expire;
mod fetch;
mod holdings;
mod inbox;
mod installing;
mod join;
mod leases;
mod members;
mod mesh;
mod metrics;
mod objects;
mod pending;
mod permit;
mod progress;
mod repair;
mod rpc;
mod snapshots;
mod start;
mod status;
mod stop;
mod tasks;
mod unannounced;
mod wake;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

pub use apply::Observer;
pub use config::{ClusterConfig, Start};
pub use fetch::{Arriving, Fetched};
pub use metrics::{Metrics, PeerMetrics};
pub use objects::PutOutcome;
pub use permit::Consistency;
pub use status::{LeaseStatus, MemberStatus, Status};
pub use unannounced::NewObject;

use self::estranged::Estranged;
use self::fetch::Fetches;
use self::holdings::Holdings;
use self::inbox::Letterbox;
use self::leases::Leases;
use self::pending::Pending;
use self::progress::Progress;
use self::repair::Repair;
use self::unannounced::Unannounced;
use crate::catalogue::{Catalogue, Member};
use crate::core::Leadership;
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey, ObjectId, RaftId};
use crate::lease::{LeaseGate, boot_clock};
use crate::mesh::discovery::Discovery;
use crate::net::{Identity, Network};
use crate::store::ObjectStore;
use crate::transfer::{TransferServer, Transfers};

/// A running member of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

/// What the parts of a member share.
pub(crate) struct Shared {
    id: RaftId,
    key: NodeKey,
    cluster: ClusterId,
    name: String,
    address: SocketAddr,
    copies: usize,
    /// The next object's number; its upper bits count the starts of this node.
    serial: AtomicU64,
    catalogue: Catalogue,
    store: Arc<dyn ObjectStore>,
    network: Network,
    transfers: Transfers,
    served: Arc<TransferServer>,
    mesh: mesh::Mesh,
    letterbox: Letterbox,
    pending: Arc<Pending>,
    progress: Arc<Progress>,
    leases: Arc<Leases>,
    gate: Arc<LeaseGate>,
    holdings: Holdings,
    fetches: Fetches,
    repair: Arc<Repair>,
    unannounced: Unannounced,
    /// Puts whose last copies are made behind the answer.
    late: Arc<Semaphore>,
    estranged: Estranged,
    /// Sent and listened for while this is there.
    beacons: Mutex<Option<Discovery>>,
    releases: change::Releases,
    /// What transfers run on: not the thread of whoever asks for one.
    runtime: tokio::runtime::Handle,
    /// Why the node has stopped, once it has.
    failed: watch::Sender<Option<String>>,
    threads: Mutex<Option<stop::Threads>>,
    /// Keeps the data folder to this process.
    _identity: Identity,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// This member's number.
    pub fn id(&self) -> RaftId {
        self.0.id
    }

    /// What all members have agreed on, as far as it is known here.
    pub fn catalogue(&self) -> &Catalogue {
        &self.0.catalogue
    }

    /// Where it listens for members.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.address
    }

    /// Bytes of these objects are here no longer: evicted, expired or found damaged.
    pub fn lost(&self, object: ObjectId) {
        if self.0.catalogue.by_object(object).is_some() {
            self.0.holdings.lost(self.0.id, object);
        }
    }

    /// Waits until the node cannot go on: its disk failed, it has been removed, or it was stopped. Answers with the reason.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "was stopped".to_owned(),
        }
    }

    /// Bytes of this object are damaged here, and not served: there is to be another copy.
    pub fn damaged(&self, object: ObjectId) {
        if self.0.catalogue.by_object(object).is_some() {
            self.0.holdings.damaged(self.0.id, object);
        }
    }

    /// Whether this node may answer without asking a majority first.
    pub fn may_serve(&self) -> bool {
        self.0.gate.may_serve(boot_clock()).is_ok()
    }

    /// Stops: hands leadership over if it can, then closes connections, log and catalogue. Changes and reads that are still
    /// under way fail with [`ClusterError::Stopped`], transfers as their connections end; of a change it is then not known
    /// whether it happened.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}

impl Shared {
    /// `Err`: the node cannot go on, and what is asked of it will not come.
    fn going(&self) -> Result<(), ClusterError> {
        if self.failed.borrow().is_some() { Err(self.stopped()) } else { Ok(()) }
    }

    fn stopped(&self) -> ClusterError {
        let reason = self.failed.borrow().clone();
        ClusterError::Stopped { reason: reason.unwrap_or_else(|| "is being stopped".to_owned()) }
    }

    fn fail(&self, reason: String) {
        tracing::error!(reason, "this node can no longer take part in the cluster");
        self.leases.holder.lock().revoke();
        self.end(reason);
    }

    /// Whoever waits for something that will not come is told why.
    fn end(&self, reason: String) {
        self.failed.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason);
            }
            first
        });
        // Nobody is to be sent to a leader that does nothing any more, nor told of it.
        let Leadership { term, .. } = self.progress.leadership();
        self.progress.set_leadership(Leadership { term, ..Leadership::default() });
    }

    async fn call(
        &self,
        peer: RaftId,
        method: &str,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Bytes, ClusterError> {
        self.network.call(peer, method, payload, patience).await
    }
}

fn addresses_of(member: &Member) -> Vec<SocketAddr> {
    member.addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

fn addresses_of_mesh(member: &Member) -> Option<SocketAddr> {
    member.mesh.iter().find_map(|address| address.parse().ok())
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

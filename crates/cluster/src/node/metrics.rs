//! What a member has done and how it stands, in numbers.
use super::{Cluster, Shared};
use crate::catalogue::Member;
use crate::lease::boot_clock;
use crate::log::LogStats;
use crate::mesh::driver::MeshStats;
use crate::mesh::{PeerStatus, Reject};
use crate::net::{LaneStats, Refusal};
use crate::transfer::TransferStats;
use straightway_wire::WireSnapshot;

/// A member's numbers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Whether this member leads.
    pub is_leader: bool,
    /// Whether it knows of a leader.
    pub has_leader: bool,
    /// The term.
    pub term: u64,
    /// The last index known to be committed.
    pub commit_index: u64,
    /// The last index applied here.
    pub applied_index: u64,
    /// The last index whose effects are on this member's disk.
    pub durable_index: u64,
    /// Objects in the catalogue.
    pub objects: u64,
    /// Of them, how many have fewer copies than they should.
    pub objects_short: u64,
    /// Members.
    pub members: u64,
    /// Those that vote.
    pub voters: u64,
    /// Whether this member may serve what it holds without asking.
    pub lease_held: bool,
    /// For how many more milliseconds.
    pub lease_remaining_ms: u64,
    /// What the log has done.
    pub log: LogStats,
    /// Transfers that this member served for others.
    pub transfers: TransferStats,
    /// Copies that this member has made anew.
    pub repaired: u64,
    /// Copies that it could not make anew.
    pub repairs_failed: u64,
    /// What the mesh has done.
    pub mesh: MeshStats,
    /// Datagrams that the mesh refused, by reason.
    pub mesh_rejected: Vec<(&'static str, u64)>,
    /// What the network refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// What passed on the lanes, all of them together.
    pub wire: WireSnapshot,
    /// The other members, by number.
    pub peers: Vec<PeerMetrics>,
}

/// What a member knows of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PeerMetrics {
    /// Its number.
    pub id: u64,
    /// Whether it answers.
    pub healthy: bool,
    /// Round-trip time in microseconds, as the mesh measures it; 0 while it is not known.
    pub rtt_us: u64,
    /// Of its last direct heartbeats, how many were not answered, in thousandths.
    pub loss_permille: u64,
    /// The control lane.
    pub control: LaneStats,
    /// The append lane.
    pub append: LaneStats,
}

impl PeerMetrics {
    /// A number of both lanes together.
    pub fn both(&self, read: fn(&LaneStats) -> u64) -> u64 {
        read(&self.control).saturating_add(read(&self.append))
    }
}

impl Cluster {
    /// How this member stands, in numbers.
    pub fn metrics(&self) -> Metrics {
        let shared = &self.0;
        let leadership = shared.progress.leadership();
        let detail = shared.progress.detail();
        let members = shared.catalogue.members();
        let applied = shared.catalogue.applied().index;
        let now = boot_clock();
        let until = shared.leases.holder.lock().until();
        let remaining = until.map_or(0, |until| until.since(now).as_millis());
        let mesh = shared.mesh.stats();
        let net = shared.network.stats();
        let rejected = |why: Reject| (why.name(), mesh.rejected.of(why));
        let (repaired, repairs_failed) = shared.repair.counts();
        Metrics {
            repaired,
            repairs_failed,
            is_leader: leadership.leader == shared.id,
            has_leader: leadership.leader != 0,
            term: leadership.term,
            // Told once a tick; what is applied has been committed.
            commit_index: detail.commit_index.max(applied),
            applied_index: applied,
            durable_index: shared.catalogue.durable(),
            objects: shared.catalogue.len() as u64,
            objects_short: shared.catalogue.short_len() as u64,
            members: members.len() as u64,
            voters: detail.conf_state.voters.len() as u64,
            lease_held: shared.gate.may_serve(now).is_ok(),
            lease_remaining_ms: u64::try_from(remaining).unwrap_or(u64::MAX),
            log: shared.progress.log(),
            transfers: shared.served.stats(),
            mesh,
            mesh_rejected: Reject::ALL.map(rejected).to_vec(),
            refused: refused(net.refused),
            wire: net.wire,
            peers: shared.peer_metrics(&members),
        }
    }
}

fn refused(counts: Vec<(Refusal, u64)>) -> Vec<(&'static str, u64)> {
    counts.into_iter().map(|(why, count)| (why.name(), count)).collect()
}

impl Shared {
    fn peer_metrics(&self, members: &[std::sync::Arc<Member>]) -> Vec<PeerMetrics> {
        let lanes = self.network.peer_stats();
        let others = members.iter().filter(|member| member.id != self.id);
        others
            .map(|member| {
                let lanes = lanes.iter().find(|peer| peer.id == member.id);
                let PeerStatus { rtt, loss_permille, .. } =
                    self.mesh.status(member.id).unwrap_or_default();
                PeerMetrics {
                    id: member.id,
                    healthy: self.mesh.answers(member.id),
                    rtt_us: rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                    loss_permille: u64::from(loss_permille),
                    control: lanes.map(|peer| peer.control).unwrap_or_default(),
                    append: lanes.map(|peer| peer.append).unwrap_or_default(),
                }
            })
            .collect()
    }
}

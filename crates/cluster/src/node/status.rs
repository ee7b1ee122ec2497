//! What a node says about its cluster.
use std::time::Duration;

use serde::Serialize;

use super::progress::Detail;
use super::{Cluster, Shared};
use crate::catalogue::Member;
use crate::ids::RaftId;
use crate::lease::boot_clock;

/// What a node knows of its cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// This node's number.
    pub node: RaftId,
    /// This node's name.
    pub name: String,
    /// The leader's number; `None`: nobody that is known.
    pub leader: Option<RaftId>,
    /// The term.
    pub term: u64,
    /// The last index known to be committed.
    pub commit_index: u64,
    /// The last index applied here.
    pub applied_index: u64,
    /// The first entry that this node's log still has: who lacks earlier ones takes a snapshot.
    pub log_first: u64,
    /// Objects in the catalogue.
    pub objects: u64,
    /// Whether this node may serve what it holds without asking, and for how long.
    pub lease: LeaseStatus,
    /// All members, by number.
    pub members: Vec<MemberStatus>,
}

/// A node's serve lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    /// Whether it holds.
    pub held: bool,
    /// Milliseconds left.
    pub remaining_ms: u64,
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemberStatus {
    /// Its number.
    pub id: RaftId,
    /// Its name.
    pub name: String,
    /// `leader`, `follower` (a voter that does not lead) or `learner`.
    pub role: &'static str,
    /// Round-trip time in microseconds; 0 for the node itself, `None` while it is not known.
    pub rtt_us: Option<u64>,
    /// Whether it answers.
    pub healthy: bool,
    /// Entries that its log is behind the leader's; known to the leader only.
    pub lag: Option<u64>,
    /// Where its cluster listener is.
    pub addresses: Vec<String>,
    /// Where its data listener is.
    pub http: String,
}

impl Cluster {
    /// What this node knows of the cluster now.
    pub fn status(&self) -> Status {
        let shared = &self.0;
        let leadership = shared.progress.leadership();
        let detail = shared.progress.detail();
        let now = boot_clock();
        let until = shared.leases.holder.lock().until();
        let remaining = until.map_or(Duration::ZERO, |until| until.since(now));
        let held = shared.gate.may_serve(now).is_ok();
        let members = shared.catalogue.members();
        let applied = shared.catalogue.applied().index;
        Status {
            cluster: shared.cluster.to_string(),
            node: shared.id,
            name: shared.name.clone(),
            leader: (leadership.leader != 0).then_some(leadership.leader),
            term: leadership.term,
            // Told once a tick; what is applied has been committed.
            commit_index: detail.commit_index.max(applied),
            applied_index: applied,
            log_first: detail.log_first,
            objects: shared.catalogue.len() as u64,
            lease: LeaseStatus {
                held,
                remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
            },
            members: members.iter().map(|member| shared.member_status(member, &detail)).collect(),
        }
    }

    /// Waits until this node has heard from a majority, so that it can serve; `false`: not within `patience`.
    pub async fn ready(&self, patience: Duration) -> bool {
        self.0.barrier(patience).await.is_ok()
    }
}

impl Shared {
    fn member_status(&self, member: &Member, detail: &Detail) -> MemberStatus {
        let id = member.id;
        let me = id == self.id;
        let leader = self.progress.leadership().leader;
        let state = &detail.conf_state;
        let votes = state.voters.contains(&id) || state.voters_outgoing.contains(&id);
        let role = match (id == leader, votes) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        let logged = detail.members.iter().find(|(other, ..)| *other == id);
        let mesh = self.mesh.status(id);
        let rtt = mesh.as_ref().and_then(|status| status.rtt);
        MemberStatus {
            id,
            name: member.name.clone(),
            role,
            rtt_us: if me { Some(0) } else { rtt.map(micros) },
            healthy: me || self.mesh.answers(id),
            lag: logged.map(|(_, matched, _)| detail.commit_index.saturating_sub(*matched)),
            addresses: member.addresses.clone(),
            http: member.http.clone(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

//! Who votes: joint changes, one at a time, by whoever leads.
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};
use straightway_wire::{deserialize_payload, serialize_payload_zero_copy};
use tokio::time::{Instant, sleep};

use super::drive::Input;
use super::{Cluster, Shared, rpc};
use crate::catalogue::{Forget, Op, Outcome, Role};
use crate::error::ClusterError;
use crate::ids::RaftId;

/// How long a change of members may take.
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a leader looks whether learners may vote.
const LOOK: Duration = Duration::from_millis(250);
/// A learner has caught up when no more than this many entries are missing.
const CAUGHT_UP: u64 = 1000;
/// Voters that there are at most: more make every change slower and no cluster safer.
const MAX_VOTERS: usize = 5;

/// A change of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    /// A node that has joined begins to follow.
    AddLearner(RaftId),
    /// Learners vote from now on, all at once.
    Promote(Vec<RaftId>),
    /// A member leaves.
    Remove(RaftId),
    /// Another voter leads.
    Transfer(RaftId),
}

impl Change {
    fn is_done(&self, leader: RaftId, state: &ConfState) -> bool {
        let settled = state.voters_outgoing.is_empty();
        let is_voter = |id: &RaftId| state.voters.contains(id);
        match self {
            Self::AddLearner(id) => settled && (is_voter(id) || state.learners.contains(id)),
            Self::Promote(ids) => settled && ids.iter().all(is_voter),
            Self::Remove(id) => settled && !is_voter(id) && !state.learners.contains(id),
            Self::Transfer(id) => leader == *id,
        }
    }

    fn to_raft(&self) -> ConfChangeV2 {
        let single = |kind, id: &RaftId| {
            let mut single = ConfChangeSingle { node_id: *id, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        };
        let changes: Vec<_> = match self {
            Self::AddLearner(id) => vec![single(ConfChangeType::AddLearnerNode, id)],
            Self::Promote(ids) => {
                ids.iter().map(|id| single(ConfChangeType::AddNode, id)).collect()
            }
            Self::Remove(id) => vec![single(ConfChangeType::RemoveNode, id)],
            Self::Transfer(_) => Vec::new(),
        };
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        change
    }
}

impl Cluster {
    /// Lets a learner vote, even where that makes the number of voters even.
    pub async fn add(&self, id: RaftId) -> Result<(), ClusterError> {
        self.0.known(id)?;
        self.0.change_members(Change::Promote(vec![id]), DEADLINE).await
    }

    /// Removes a member for good. It may come back only as a new one, with an empty data folder.
    pub async fn remove_member(&self, id: RaftId) -> Result<(), ClusterError> {
        self.0.known(id)?;
        let state = self.0.progress.detail().conf_state;
        if state.voters == [id] {
            let what = "the only voter cannot be removed; add another one first".to_owned();
            return Err(ClusterError::Config { what });
        }
        if self.0.progress.leadership().leader == id {
            // A leader that removes itself leaves the others to find out.
            let others = state.voters.iter().copied().filter(|other| *other != id);
            let heir = self.0.healthiest(others).ok_or_else(|| ClusterError::Config {
                what: "there is no other voter; a leader is removed when another one can lead"
                    .to_owned(),
            })?;
            self.transfer(heir).await?;
        }
        self.0.change_members(Change::Remove(id), DEADLINE).await?;
        match self.0.change(Op::Forget(Forget { id })).await?.outcome {
            Outcome::Done => Ok(()),
            other => Err(super::change::refused(&other)),
        }
    }

    /// Hands leadership to a voter.
    pub async fn transfer(&self, to: RaftId) -> Result<(), ClusterError> {
        self.0.known(to)?;
        if !self.0.progress.detail().conf_state.voters.contains(&to) {
            let what = format!("member {to} does not vote; let it vote first (cluster add {to})");
            return Err(ClusterError::Config { what });
        }
        self.0.change_members(Change::Transfer(to), DEADLINE).await
    }
}

impl Shared {
    fn known(&self, id: RaftId) -> Result<(), ClusterError> {
        if self.catalogue.member(id).is_some() {
            return Ok(());
        }
        let members = self.catalogue.members();
        let known: Vec<_> = members.iter().map(|member| member.id.to_string()).collect();
        let what = format!("there is no member {id}; members are {}", known.join(", "));
        Err(ClusterError::Config { what })
    }

    /// Sees a change of members through, whoever leads meanwhile.
    pub(super) async fn change_members(
        &self,
        change: Change,
        patience: Duration,
    ) -> Result<(), ClusterError> {
        let deadline = Instant::now() + patience;
        let mut failure = ClusterError::NoQuorum { waited: patience };
        while Instant::now() < deadline {
            self.going()?;
            let leader = self.progress.leadership().leader;
            if change.is_done(leader, &self.progress.detail().conf_state) {
                return Ok(());
            }
            let begun = if leader == self.id {
                self.begin_members(&change).await
            } else if leader == 0 {
                Err(ClusterError::NoQuorum { waited: patience })
            } else {
                let mut payload = BytesMut::new();
                serialize_payload_zero_copy(&change, &mut payload)?;
                self.call(leader, rpc::MEMBERS, payload.freeze(), patience).await.map(drop)
            };
            match begun {
                Ok(()) => {
                    // One change at a time: while another is under way this one has come to nothing and is repeated.
                    for _ in 0..10 {
                        sleep(PAUSE).await;
                        let leader = self.progress.leadership().leader;
                        if change.is_done(leader, &self.progress.detail().conf_state) {
                            return Ok(());
                        }
                    }
                }
                Err(error) => {
                    failure = error;
                    sleep(PAUSE).await;
                }
            }
        }
        Err(failure)
    }

    /// Proposes a change of members here.
    async fn begin_members(&self, change: &Change) -> Result<(), ClusterError> {
        if let Change::Transfer(to) = change {
            let to = *to;
            return self.ask_driver(|answer| Input::Transfer(to, answer)).await;
        }
        let proposal = Box::new(change.to_raft());
        self.ask_driver(|answer| Input::Members(proposal, answer)).await
    }

    /// Another member asks this one, which it takes for the leader.
    pub(super) async fn change_members_here(&self, payload: &Bytes) -> Result<Bytes, ClusterError> {
        let change: Change = deserialize_payload(payload)?;
        self.begin_members(&change).await?;
        Ok(Bytes::new())
    }

    /// The voter that is furthest, of those that answer if any does: where nothing gets through to the mesh, Raft may.
    pub(super) fn healthiest(&self, among: impl Iterator<Item = RaftId>) -> Option<RaftId> {
        let progress = self.progress.detail().members;
        let matched = |id: RaftId| {
            let known = progress.iter().find(|(member, ..)| *member == id);
            known.map_or(0, |(_, matched, _)| *matched)
        };
        among.max_by_key(|id| (self.mesh.answers(*id), matched(*id)))
    }
}

/// Lets learners vote once they have caught up, as long as the node runs and leads.
pub(super) async fn promote(shared: Weak<Shared>) {
    let mut ready_before: Vec<RaftId> = Vec::new();
    loop {
        sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.progress.leadership().leader != shared.id {
            ready_before.clear();
            continue;
        }
        let ready = shared.ready_learners();
        // Seen twice: a follower that has just caught up may be about to fall behind.
        let steady: Vec<_> = ready.iter().copied().filter(|id| ready_before.contains(id)).collect();
        ready_before = ready;
        let voters = shared.progress.detail().conf_state.voters.len();
        let promoted = to_promote(voters, &steady);
        if !promoted.is_empty() {
            tracing::info!(members = ?promoted, "learners that have caught up are made voters");
            if let Err(error) = shared.change_members(Change::Promote(promoted), DEADLINE).await {
                tracing::warn!(%error, "learners could not be made voters");
            }
        }
    }
}

/// Which learners make the number of voters odd.
fn to_promote(voters: usize, ready: &[RaftId]) -> Vec<RaftId> {
    let room = MAX_VOTERS.saturating_sub(voters).min(ready.len());
    let count = if (voters + room) % 2 == 1 { room } else { room.saturating_sub(1) };
    ready[..count].to_vec()
}

impl Shared {
    /// Learners that are to vote, run, and have nearly everything.
    fn ready_learners(self: &Arc<Self>) -> Vec<RaftId> {
        let detail = self.progress.detail();
        let ready = |id: &RaftId| {
            let willing =
                self.catalogue.member(*id).is_some_and(|member| member.role == Role::Voter);
            let progress = detail.members.iter().find(|(member, ..)| member == id);
            willing
                && progress.is_some_and(|(_, matched, active)| {
                    *active && matched + CAUGHT_UP >= detail.commit_index && *matched > 0
                })
        };
        detail.conf_state.learners.iter().copied().filter(ready).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_voters_stays_odd() {
        assert!(to_promote(1, &[2]).is_empty());
        assert_eq!(to_promote(1, &[2, 3]), [2, 3]);
        assert_eq!(to_promote(2, &[3]), [3]);
        assert!(to_promote(3, &[4]).is_empty());
        assert_eq!(to_promote(3, &[4, 5, 6]), [4, 5]);
        assert!(to_promote(5, &[6, 7]).is_empty());
        assert_eq!(to_promote(4, &[6, 7]), [6]);
    }
}

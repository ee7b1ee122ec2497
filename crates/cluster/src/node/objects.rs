//! Objects: stored on a majority before they are announced, fetched from whoever has them.
use std::sync::Arc;
use std::time::{Duration, Instant};

use straightway_wire::raft::decode_conf_state;

use super::change::{encode, refused};
use super::copying::Copying;
use super::pending::Settled;
use super::{Cluster, Shared};
use crate::catalogue::{
    Command, Condition, Entry, Holders, Op, Outcome, Purge, Put, Remove, RequestId, Scope,
};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::store::ObjectInfo;
use crate::transfer::StoredSource;

/// How often a put looks whether it has as many holders as are needed by then: members come and go one at a time.
const COMPLETED: usize = 8;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The key had no object.
    Created,
    /// It had one, which has been replaced.
    Replaced,
    /// What the condition asked for does not hold.
    Failed,
}

impl Cluster {
    /// Makes an object, which the store of this node holds whole under `object`, the cluster's: answers once a majority
    /// holds the bytes and all members agree that the key has them. `info` has length and digest.
    ///
    /// Cancel-safe: dropped, the object may or may not have been announced.
    pub async fn put(
        &self,
        object: ObjectId,
        info: ObjectInfo,
        condition: Condition,
    ) -> Result<PutOutcome, ClusterError> {
        let begun = Instant::now();
        let info = Arc::new(info);
        let mut copying = match self.0.gather(object, &info).await {
            Ok(copying) => copying,
            Err(error) => {
                self.0.forget_unless_known(vec![object]).await;
                return Err(error);
            }
        };
        let put = put_of(object, &info, condition, copying.holders().to_vec(), copying.due());
        let announced = self.0.announce(put).await;
        let stored = match announced {
            Ok(PutOutcome::Failed) => {
                self.0.forget_unless_known(vec![object]).await;
                return Ok(PutOutcome::Failed);
            }
            Ok(_) => self.0.complete(object, &mut copying).await,
            // Where it is not known whether it happened, the bytes stay: in the end somebody asks for them, or the sweep finds
            // them.
            Err(error) => return Err(error),
        };
        copying.go_on();
        // It has happened, but one loss of a member more than is agreed on may undo it.
        stored.map_err(|error| {
            tracing::debug!(%error, "a put could not be copied to all who are needed by now");
            ClusterError::Timeout { what: "copying what was put", waited: begun.elapsed() }
        })?;
        announced
    }

    /// Whether an object of this description can be announced.
    ///
    /// # Errors
    /// [`ClusterError::Config`] with what is too long or too much.
    pub fn check(&self, info: &ObjectInfo) -> Result<(), ClusterError> {
        let request = RequestId { node: self.0.id, boot: 0, serial: 0 };
        let put = put_of(ObjectId { node: 0, serial: 0 }, info, Condition::Any, Vec::new(), 0);
        encode(&Command { request, op: Op::Put(put) }).map(drop)
    }

    /// Removes the object of `key` on all members: when this answers, none serves it. `false`: there was none. `None`: the
    /// condition does not hold.
    pub async fn remove(
        &self,
        key: &str,
        condition: Condition,
    ) -> Result<Option<bool>, ClusterError> {
        let op = Op::Remove(Remove { key: key.to_owned(), condition, now_ms: super::now_ms() });
        let Settled { index, outcome } = self.0.change(op).await?;
        match outcome {
            Outcome::Removed(removed) => {
                self.0.released(index).await?;
                Ok(Some(removed))
            }
            Outcome::Failed => Ok(None),
            other => Err(refused(&other)),
        }
    }

    /// Purges on all members: when this answers, none serves what was purged, whoever is cut off or asleep. Answers with
    /// the number of objects.
    pub async fn purge(&self, scope: Scope, value: &str) -> Result<u64, ClusterError> {
        let op = Op::Purge(Purge { scope, value: value.to_owned() });
        let Settled { index, outcome } = self.0.change(op).await?;
        match outcome {
            Outcome::Purged(count) => {
                self.0.released(index).await?;
                Ok(count)
            }
            other => Err(refused(&other)),
        }
    }
}

impl Shared {
    /// Brings the bytes to as many members as make a majority of the voters.
    async fn gather(
        self: &Arc<Self>,
        object: ObjectId,
        info: &Arc<ObjectInfo>,
    ) -> Result<Copying, ClusterError> {
        if info.len.is_none() || info.digest.is_none() {
            let what = "an object is announced with its length and digest".to_owned();
            return Err(ClusterError::Config { what });
        }
        let needed = self.needed();
        let mut copying = Copying::begin(self, object, info, needed);
        copying.reach(needed).await?;
        Ok(copying)
    }

    /// `Err`: whether it happened is not known.
    async fn announce(&self, put: Put) -> Result<PutOutcome, ClusterError> {
        match self.change(Op::Put(put)).await?.outcome {
            Outcome::Put { replaced: true } => Ok(PutOutcome::Replaced),
            Outcome::Put { replaced: false } => Ok(PutOutcome::Created),
            Outcome::Failed => Ok(PutOutcome::Failed),
            other => Err(refused(&other)),
        }
    }

    /// There may be other members where the put is in the log than there were when its copies began. Those copies that are missing
    /// to a majority then are made, and known to all members, before it is answered.
    async fn complete(&self, object: ObjectId, copying: &mut Copying) -> Result<(), ClusterError> {
        for _ in 0..COMPLETED {
            let needed = self.needed();
            // Gone again: nothing is missing.
            let Some(entry) = self.catalogue.by_object(object) else { return Ok(()) };
            if entry.holders.len() >= needed {
                return Ok(());
            }
            for node in copying.reach_more(&entry.holders, needed).await? {
                let gained = vec![object];
                let holders = Holders { node, gained, lost: Vec::new(), damaged: Vec::new() };
                self.change(Op::Holders(holders)).await?;
            }
        }
        Err(ClusterError::NoQuorum { waited: Duration::ZERO })
    }

    /// Holders that make a majority of the voters' number, by the configuration that is applied here: after a change of this
    /// node's, that of its place in the log or a later one.
    pub(super) fn needed(&self) -> usize {
        let majority = |voters: usize| voters.max(1) / 2 + 1;
        match decode_conf_state(self.catalogue.conf_state()) {
            Ok(conf) => majority(conf.voters.len()).max(majority(conf.voters_outgoing.len())),
            // Not what was written: whoever may vote is counted.
            Err(_) => majority(self.catalogue.members().len()),
        }
    }

    pub(super) async fn copy_to(
        &self,
        peer: RaftId,
        object: ObjectId,
        info: &ObjectInfo,
    ) -> Result<(), ClusterError> {
        // Opened when it is its turn: an open object cannot leave the cache.
        let mut source = StoredSource::new(self.store.clone(), object, info.digest);
        self.transfers.push(peer, object, info, &mut source).await?;
        Ok(())
    }

    /// The other members: the nearest first, those that do not answer last.
    pub(super) fn by_distance(&self) -> Vec<RaftId> {
        let others: Vec<_> = self
            .catalogue
            .members()
            .iter()
            .map(|member| member.id)
            .filter(|id| *id != self.id)
            .collect();
        self.mesh.nearest(&others)
    }

    /// Forgets what no key has.
    pub(super) async fn forget_unless_known(&self, objects: Vec<ObjectId>) {
        let unknown: Vec<_> =
            objects.into_iter().filter(|id| self.catalogue.by_object(*id).is_none()).collect();
        if !unknown.is_empty() {
            self.store.forget(unknown).await;
        }
    }

    /// Who may have the bytes of `entry`, the nearest first, without this node.
    pub(super) fn holders(&self, entry: &Entry) -> Vec<RaftId> {
        let others: Vec<_> = entry.holders.iter().copied().filter(|id| *id != self.id).collect();
        self.mesh.nearest(&others)
    }
}

/// The command that announces an object. What is not known of it yet is left empty.
fn put_of(
    object: ObjectId,
    info: &ObjectInfo,
    condition: Condition,
    holders: Vec<RaftId>,
    copies: u8,
) -> Put {
    let ObjectInfo { key, content_type, content_encoding, tags, .. } = info.clone();
    Put {
        key,
        object,
        len: info.len.unwrap_or(0),
        digest: info.digest.unwrap_or_default(),
        content_type,
        content_encoding,
        tags,
        expires_ms: info.expires_ms,
        last_modified_ms: info.last_modified_ms,
        now_ms: super::now_ms(),
        condition,
        holders,
        copies,
    }
}

//! Objects: stored on a majority before they are announced, fetched from whoever has them.
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::change::{encode, refused};
use super::pending::Settled;
use super::{Cluster, Shared};
use crate::catalogue::{
    Command, Condition, Entry, Op, Outcome, Purge, Put, Remove, RequestId, Scope,
};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::store::{ObjectInfo, StoreError};
use crate::transfer::StoredSource;

/// How long other members may take to store a copy after a majority has it.
const LATE_COPIES: Duration = Duration::from_mins(1);
/// A member that takes longer than this, and than so many bytes a second, is helped out by another one.
const HEDGE: Duration = Duration::from_secs(1);
const SLOW_RATE: u64 = 16 << 20;

type Copies = JoinSet<(RaftId, Result<(), ClusterError>)>;

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
        let outcome = match self.0.gather(object, &info, condition).await {
            Ok((put, announced, few)) => {
                // Where it is not known whether it happened, the bytes stay: in the end somebody asks for them, or the sweep finds
                // them.
                let outcome = self.0.announce(put, announced).await;
                if few && !matches!(outcome, Ok(PutOutcome::Failed)) {
                    self.0.repair.few(object);
                }
                outcome?
            }
            Err(error) => {
                self.0.forget_unless_known(vec![object]).await;
                return Err(error);
            }
        };
        if outcome == PutOutcome::Failed {
            self.0.forget_unless_known(vec![object]).await;
        }
        Ok(outcome)
    }

    /// Whether an object of this description can be announced.
    ///
    /// # Errors
    /// [`ClusterError::Config`] with what is too long or too much.
    pub fn check(&self, info: &ObjectInfo) -> Result<(), ClusterError> {
        let request = RequestId { node: self.0.id, boot: 0, serial: 0 };
        let put = put_of(ObjectId { node: 0, serial: 0 }, info, Condition::Any, Vec::new());
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
    /// Brings the bytes to a majority. Answers with the command that announces them, whom to tell once it has, and whether copies
    /// are missing that nobody is making.
    async fn gather(
        self: &Arc<Self>,
        object: ObjectId,
        info: &ObjectInfo,
        condition: Condition,
    ) -> Result<(Put, oneshot::Sender<()>, bool), ClusterError> {
        if info.len.is_none() || info.digest.is_none() {
            let what = "an object is announced with its length and digest".to_owned();
            return Err(ClusterError::Config { what });
        }
        let (announced, known) = oneshot::channel();
        let copied = self.copy_to_majority(object, &Arc::new(info.clone()), known).await?;
        let (holders, few) = copied;
        Ok((put_of(object, info, condition, holders), announced, few))
    }

    /// `Err`: whether it happened is not known.
    async fn announce(
        &self,
        put: Put,
        announced: oneshot::Sender<()>,
    ) -> Result<PutOutcome, ClusterError> {
        let outcome = self.change(Op::Put(put)).await?.outcome;
        // Whoever waits for it has gone if there are no further copies.
        let _ = announced.send(());
        match outcome {
            Outcome::Put { replaced: true } => Ok(PutOutcome::Replaced),
            Outcome::Put { replaced: false } => Ok(PutOutcome::Created),
            Outcome::Failed => Ok(PutOutcome::Failed),
            other => Err(refused(&other)),
        }
    }

    /// Holders that make a majority of the voters' number.
    pub(super) fn needed(&self) -> usize {
        self.progress.detail().conf_state.voters.len().max(1) / 2 + 1
    }

    /// Copies to other members until a majority of the voters' number holds the bytes, this node included. Further copies
    /// go on behind, and are announced when they are there and the object is `known`. Answers with the holders, and whether fewer
    /// copies than there should be are made or under way.
    async fn copy_to_majority(
        self: &Arc<Self>,
        object: ObjectId,
        info: &Arc<ObjectInfo>,
        known: oneshot::Receiver<()>,
    ) -> Result<(Vec<RaftId>, bool), ClusterError> {
        let needed = self.needed();
        let mut others = VecDeque::from(self.by_distance());
        let due = self.copies.max(needed).min(others.len() + 1);
        let mut copies = JoinSet::new();
        let mut holders = vec![self.id];
        let mut failures = Failures::default();
        let mut again = BTreeSet::new();
        for _ in 1..needed {
            self.begin_copy(&mut copies, &mut others, object, info);
        }
        // The rest begins at once too, where it is likely to come to something.
        let wanted = self.copies.saturating_sub(needed);
        let further = others.iter().filter(|id| self.mesh.answers(**id)).count().min(wanted);
        let late = self.late.clone().try_acquire_owned().ok();
        if late.is_some() {
            for _ in 0..further {
                self.begin_copy(&mut copies, &mut others, object, info);
            }
        }
        let patience = HEDGE + Duration::from_secs(info.len.unwrap_or(0) / SLOW_RATE);
        let mut hedge = std::pin::pin!(tokio::time::sleep(patience));
        while holders.len() < needed {
            tokio::select! {
                copied = copies.join_next() => match copied {
                    Some(Ok((peer, Ok(())))) => holders.push(peer),
                    Some(copied) => {
                        // The connection may have been one that the peer, or this node's sleep, had ended.
                        if let Ok((peer, Err(ClusterError::Unreachable { .. }))) = &copied
                            && again.insert(*peer)
                        {
                            others.push_back(*peer);
                        }
                        failures.count(copied);
                        self.begin_copy(&mut copies, &mut others, object, info);
                    }
                    None => return Err(failures.error()),
                },
                () = &mut hedge, if !others.is_empty() => {
                    self.begin_copy(&mut copies, &mut others, object, info);
                    hedge.as_mut().reset(tokio::time::Instant::now() + patience);
                }
            }
        }
        // Those that are there by now are announced with the object, not by a change of their own.
        while let Some(copied) = copies.try_join_next() {
            match copied {
                Ok((peer, Ok(()))) => holders.push(peer),
                failed => failures.count(failed),
            }
        }
        let mut under_way = 0;
        // Without a turn there are enough under way already, and these are given up.
        if let Some(turn) = late.filter(|_| !copies.is_empty()) {
            under_way = copies.len();
            self.runtime.spawn(self.clone().late_copies(object, copies, known, turn));
        }
        let few = holders.len() + under_way < due;
        Ok((holders, few))
    }

    /// Begins a copy to the nearest of the `others`, if there is one.
    fn begin_copy(
        self: &Arc<Self>,
        copies: &mut Copies,
        others: &mut VecDeque<RaftId>,
        object: ObjectId,
        info: &Arc<ObjectInfo>,
    ) {
        if let Some(peer) = others.pop_front() {
            let (shared, info) = (self.clone(), info.clone());
            let copy = async move { (peer, shared.copy_to(peer, object, &info).await) };
            copies.spawn_on(copy, &self.runtime);
        }
    }

    async fn late_copies(
        self: Arc<Self>,
        object: ObjectId,
        mut copies: Copies,
        known: oneshot::Receiver<()>,
        _turn: OwnedSemaphorePermit,
    ) {
        let all = async {
            // Copies of an object that is not known yet would be news of one that is not known any more: all members would
            // forget it, and then learn that they have it.
            let mut known = std::pin::pin!(known);
            let mut early = Vec::new();
            let announced = loop {
                tokio::select! {
                    announced = &mut known => break announced.is_ok(),
                    Some(copied) = copies.join_next() => early.push(copied),
                }
            };
            if !announced {
                return true;
            }
            let gained = |copied| match copied {
                Ok((peer, Ok(()))) => {
                    self.holdings.gained(peer, object);
                    true
                }
                _ => false,
            };
            let mut whole = early.into_iter().map(gained).fold(true, |all, one| all & one);
            while let Some(copied) = copies.join_next().await {
                whole &= gained(copied);
            }
            whole
        };
        if tokio::time::timeout(LATE_COPIES, all).await != Ok(true) {
            self.repair.few(object);
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

/// What came of copies that failed.
#[derive(Default)]
struct Failures {
    full: Option<ClusterError>,
    /// One that is not for want of room: with it, not all are.
    other: Option<ClusterError>,
}

impl Failures {
    fn count(&mut self, copied: Result<(RaftId, Result<(), ClusterError>), JoinError>) {
        let error = match copied {
            Ok((_, Ok(()))) => return,
            Ok((peer, Err(error))) => {
                tracing::debug!(peer, %error, "a copy failed");
                error
            }
            Err(error) => ClusterError::Refused { reason: error.to_string() },
        };
        if matches!(error, ClusterError::Store(StoreError::Full { .. })) {
            self.full = Some(error);
        } else {
            self.other = Some(error);
        }
    }

    fn error(self) -> ClusterError {
        let nobody = ClusterError::NoQuorum { waited: Duration::ZERO };
        self.other.or(self.full).unwrap_or(nobody)
    }
}

/// The command that announces an object. What is not known of it yet is left empty.
fn put_of(object: ObjectId, info: &ObjectInfo, condition: Condition, holders: Vec<RaftId>) -> Put {
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
    }
}

//! Objects: stored on a majority before they are announced, fetched from whoever has them.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::change::refused;
use super::pending::Settled;
use super::{Cluster, Shared};
use crate::catalogue::{Condition, Entry, Op, Outcome, Purge, Put, Remove, Scope};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::store::{ObjectInfo, StoreError};
use crate::transfer::ReaderSource;

/// How long other members may take to store a copy after a majority has it.
const LATE_COPIES: Duration = Duration::from_mins(1);

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
    /// A name for an object that is about to be stored here.
    pub fn new_object(&self) -> ObjectId {
        self.0.new_object()
    }

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
        let outcome = self.0.put(object, info, condition).await;
        if !matches!(outcome, Ok(PutOutcome::Created | PutOutcome::Replaced)) {
            // Where it did happen after all, nobody holds the bytes here any more, and others are asked.
            self.0.forget_unless_known(vec![object]).await;
        }
        outcome
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
    pub(super) fn new_object(&self) -> ObjectId {
        let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ObjectId { node: self.id, serial }
    }

    async fn put(
        self: &Arc<Self>,
        object: ObjectId,
        info: ObjectInfo,
        condition: Condition,
    ) -> Result<PutOutcome, ClusterError> {
        let (Some(len), Some(digest)) = (info.len, info.digest) else {
            let what = "an object is announced with its length and digest".to_owned();
            return Err(ClusterError::Config { what });
        };
        let info = Arc::new(info);
        let (announced, known) = oneshot::channel();
        let holders = self.copy_to_majority(object, &info, known).await?;
        let ObjectInfo { key, content_type, content_encoding, tags, .. } = (*info).clone();
        let op = Op::Put(Put {
            key,
            object,
            len,
            digest,
            content_type,
            content_encoding,
            tags,
            expires_ms: info.expires_ms,
            last_modified_ms: info.last_modified_ms,
            now_ms: super::now_ms(),
            condition,
            holders,
        });
        let outcome = self.change(op).await?.outcome;
        // Whoever waits for it has gone if there are no further copies.
        let _ = announced.send(());
        match outcome {
            Outcome::Put { replaced: true } => Ok(PutOutcome::Replaced),
            Outcome::Put { replaced: false } => Ok(PutOutcome::Created),
            Outcome::Failed => Ok(PutOutcome::Failed),
            other => Err(refused(&other)),
        }
    }

    /// Copies to other members until a majority of the voters' number holds the bytes, this node included. Further copies
    /// go on behind, and are announced when they are there and the object is `known`.
    async fn copy_to_majority(
        self: &Arc<Self>,
        object: ObjectId,
        info: &Arc<ObjectInfo>,
        known: oneshot::Receiver<()>,
    ) -> Result<Vec<RaftId>, ClusterError> {
        let voters = self.progress.detail().conf_state.voters.len().max(1);
        let needed = voters / 2 + 1;
        let wanted = self.copies.max(needed);
        let mut others = self.by_distance();
        let mut copies = JoinSet::new();
        let mut holders = vec![self.id];
        let mut failure = None;
        let start = |copies: &mut JoinSet<_>, peer: RaftId| {
            let (shared, info) = (self.clone(), info.clone());
            copies.spawn(async move { (peer, shared.copy_to(peer, object, &info).await) });
        };
        for peer in others.drain(..others.len().min(wanted - 1)) {
            start(&mut copies, peer);
        }
        while holders.len() < needed {
            match copies.join_next().await {
                Some(Ok((peer, Ok(())))) => holders.push(peer),
                Some(Ok((peer, Err(error)))) => {
                    tracing::debug!(peer, %error, "a copy failed");
                    failure = Some(error);
                    if !others.is_empty() {
                        start(&mut copies, others.remove(0));
                    }
                }
                Some(Err(_)) => {}
                None => {
                    return Err(
                        failure.unwrap_or(ClusterError::NoQuorum { waited: Duration::ZERO })
                    );
                }
            }
        }
        if !copies.is_empty() {
            tokio::spawn(self.clone().late_copies(object, copies, known));
        }
        Ok(holders)
    }

    async fn late_copies(
        self: Arc<Self>,
        object: ObjectId,
        mut copies: JoinSet<(RaftId, Result<(), ClusterError>)>,
        known: oneshot::Receiver<()>,
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
                return;
            }
            let gained = |copied| {
                if let Ok((peer, Ok(()))) = copied {
                    self.holdings.gained(peer, object);
                }
            };
            early.into_iter().for_each(gained);
            while let Some(copied) = copies.join_next().await {
                gained(copied);
            }
        };
        let _ = tokio::time::timeout(LATE_COPIES, all).await;
    }

    async fn copy_to(
        &self,
        peer: RaftId,
        object: ObjectId,
        info: &ObjectInfo,
    ) -> Result<(), ClusterError> {
        let reader = self.store.open(object).await?.ok_or_else(gone)?;
        let mut source = ReaderSource::new(Arc::from(reader));
        self.transfers.push(peer, object, info, &mut source).await?;
        Ok(())
    }

    /// The other members that answer, the nearest first.
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

fn gone() -> ClusterError {
    ClusterError::Store(StoreError::Failed {
        what: "finding an object that has just been stored",
        source: "it has been evicted: the cache is too small for what is being stored".into(),
    })
}

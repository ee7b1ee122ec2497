//! The copies of one put: as many as it waits for, and those that go on behind it.
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use crate::catalogue::limits;
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};
use crate::store::{ObjectInfo, StoreError};

/// How long other members may take to store a copy after the put is answered.
pub(super) const LATE_COPIES: Duration = Duration::from_mins(1);
/// A member that takes longer than this, and than so many bytes a second, is helped out by another one.
const HEDGE: Duration = Duration::from_secs(1);
const SLOW_RATE: u64 = 16 << 20;
/// Holders that an entry can name.
const MOST: u8 = 64;
const _: () = assert!(MOST as usize == limits::HOLDERS);

/// Copies of an object that this node holds, to other members. Dropped, those that are under way are given up.
pub(super) struct Copying {
    shared: Arc<Shared>,
    object: ObjectId,
    info: Arc<ObjectInfo>,
    under_way: JoinSet<(RaftId, Result<(), ClusterError>)>,
    /// Those to whom they go.
    asked: BTreeSet<RaftId>,
    /// Who may be asked yet, the nearest first.
    others: VecDeque<RaftId>,
    holders: Vec<RaftId>,
    failures: Failures,
    /// Those that were not reached, and are asked once more.
    again: BTreeSet<RaftId>,
    /// Holders that there should be.
    due: usize,
    /// A turn to go on behind the put.
    late: Option<OwnedSemaphorePermit>,
}

impl Copying {
    /// Begins as many copies as make `needed` holders with this node, and where it is likely to come to something, those
    /// that there should be beside.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        object: ObjectId,
        info: &Arc<ObjectInfo>,
        needed: usize,
    ) -> Self {
        let others = VecDeque::from(shared.by_distance());
        let mut copying = Self {
            shared: shared.clone(),
            object,
            info: info.clone(),
            under_way: JoinSet::new(),
            asked: BTreeSet::new(),
            holders: vec![shared.id],
            failures: Failures::default(),
            again: BTreeSet::new(),
            due: shared.copies.max(needed),
            others,
            late: shared.late.clone().try_acquire_owned().ok(),
        };
        for _ in 1..needed {
            copying.begin_one();
        }
        if copying.late.is_some() {
            let answering = copying.others.iter().filter(|id| shared.mesh.answers(**id)).count();
            for _ in 0..answering.min(shared.copies.saturating_sub(needed)) {
                copying.begin_one();
            }
        }
        copying
    }

    /// Those who hold the bytes: this node first.
    pub(super) fn holders(&self) -> &[RaftId] {
        &self.holders
    }

    /// There are other members than when it began: the `holders` are these, and more of them are `needed`. Answers with those
    /// that have come to them.
    pub(super) async fn reach_more(
        &mut self,
        holders: &[RaftId],
        needed: usize,
    ) -> Result<Vec<RaftId>, ClusterError> {
        // Some have evicted it meanwhile, or are no members any more.
        self.holders = holders.to_vec();
        self.failures = Failures::default();
        let mut others = self.shared.by_distance();
        others.retain(|id| !self.holders.contains(id) && !self.asked.contains(id));
        self.others = others.into();
        while self.holders.len() + self.under_way.len() < needed && !self.others.is_empty() {
            self.begin_one();
        }
        self.reach(needed).await?;
        Ok(self.holders.split_off(holders.len()))
    }

    /// How many holders there should be, as far as an entry says it.
    pub(super) fn due(&self) -> u8 {
        u8::try_from(self.due).map_or(MOST, |due| due.min(MOST))
    }

    /// Waits until there are `needed` holders.
    pub(super) async fn reach(&mut self, needed: usize) -> Result<(), ClusterError> {
        let patience = HEDGE + Duration::from_secs(self.info.len.unwrap_or(0) / SLOW_RATE);
        let mut hedge = std::pin::pin!(sleep(patience));
        while self.holders.len() < needed {
            tokio::select! {
                copied = self.under_way.join_next() => match copied {
                    Some(copied) => {
                        if !self.came(copied) {
                            self.begin_one();
                        }
                    }
                    None => return Err(std::mem::take(&mut self.failures).error()),
                },
                () = &mut hedge, if !self.others.is_empty() => {
                    self.begin_one();
                    hedge.as_mut().reset(Instant::now() + patience);
                }
            }
        }
        // Those that are there by now are announced together.
        while let Some(copied) = self.under_way.try_join_next() {
            self.came(copied);
        }
        Ok(())
    }

    /// Lets what is under way go on behind the put, whose object all members know by now. What comes to nothing is missing, and
    /// made later.
    pub(super) fn go_on(mut self) {
        // Without a turn there are enough under way already, and these are given up.
        if self.late.is_some() && !self.under_way.is_empty() {
            let runtime = self.shared.runtime.clone();
            runtime.spawn(async move { timeout(LATE_COPIES, self.rest()).await });
        }
    }

    async fn rest(&mut self) {
        while let Some(copied) = self.under_way.join_next().await {
            if let Ok((peer, Ok(()))) = copied {
                self.shared.holdings.gained(peer, self.object);
            }
        }
    }

    /// Whether it came to something.
    fn came(&mut self, copied: Result<(RaftId, Result<(), ClusterError>), JoinError>) -> bool {
        if let Ok((peer, result)) = &copied {
            self.asked.remove(peer);
            match result {
                Ok(()) => self.holders.push(*peer),
                // The connection may have been one that the peer, or this node's sleep, had ended.
                Err(ClusterError::Unreachable { .. }) if self.again.insert(*peer) => {
                    self.others.push_back(*peer);
                }
                Err(_) => {}
            }
        }
        self.failures.count(copied)
    }

    /// Begins a copy to the nearest of the others, if there is one.
    fn begin_one(&mut self) {
        if let Some(peer) = self.others.pop_front() {
            self.asked.insert(peer);
            let (shared, object, info) = (self.shared.clone(), self.object, self.info.clone());
            let copy = async move { (peer, shared.copy_to(peer, object, &info).await) };
            self.under_way.spawn_on(copy, &self.shared.runtime);
        }
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
    /// `false`: it is one.
    fn count(&mut self, copied: Result<(RaftId, Result<(), ClusterError>), JoinError>) -> bool {
        let error = match copied {
            Ok((_, Ok(()))) => return true,
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
        false
    }

    fn error(self) -> ClusterError {
        let nobody = ClusterError::NoQuorum { waited: Duration::ZERO };
        self.other.or(self.full).unwrap_or(nobody)
    }
}

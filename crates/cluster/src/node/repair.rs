//! Copies that were lost are made again: of everything when members come or go, of single objects when a copy came to nothing or
//! was found damaged. Never because something was evicted: what has no room has none elsewhere either.
//!
//! For each object one member acts: the holder with the lowest number that answers. It copies one object at a time, to members
//! that it and all others would choose, no faster than [`RATE`], and tries each object once: what fails is looked at again in a
//! later pass.
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::{Shared, now_ms};
use crate::catalogue::Entry;
use crate::ids::{ObjectId, RaftId};
use crate::store::ObjectInfo;

/// Objects that may wait to be looked at one by one. What does not fit is found when everything is looked at.
const MAX_WANTED: usize = 16_384;
/// Entries of the catalogue that are looked at without a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked which members answer.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes a second that are copied at most, over some objects.
const RATE: u64 = 64 << 20;
/// What is over by then is not worth a copy.
const SOON_MS: u64 = 60_000;
/// News is gathered for this part of the time after which a member counts as lost.
const GATHER_PART: u32 = 20;

/// What is to be looked at, and what has been done.
#[derive(Debug)]
pub(super) struct Repair {
    everything: Notify,
    objects: mpsc::Sender<ObjectId>,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Repair {
    pub(super) fn new() -> (Self, mpsc::Receiver<ObjectId>) {
        let (objects, wanted) = mpsc::channel(MAX_WANTED);
        let (made, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        (Self { everything: Notify::new(), objects, made, failed }, wanted)
    }

    /// Who holds what may have changed altogether.
    pub(super) fn everything(&self) {
        self.everything.notify_one();
    }

    /// Copies of this object are missing, or this member's own is.
    pub(super) fn object(&self, object: ObjectId) {
        let _ = self.objects.try_send(object);
    }

    /// Copies that were made, and those that came to nothing.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Makes copies until the node stops. A member that does not answer for `patience` counts as lost.
pub(super) async fn run(
    shared: Weak<Shared>,
    mut wanted: mpsc::Receiver<ObjectId>,
    patience: Duration,
) {
    let mut silent = Silent { patience, since: HashMap::new(), lost: BTreeSet::new() };
    let gather = patience / GATHER_PART;
    // What an earlier start of this node had begun.
    let Some(repair) = shared.upgrade().map(|shared| shared.repair.clone()) else { return };
    repair.everything();
    loop {
        let mut objects = Vec::new();
        let mut everything = tokio::select! {
            () = repair.everything.notified() => true,
            count = wanted.recv_many(&mut objects, MAX_WANTED) => if count == 0 { return } else { false },
            () = sleep(LOOK.min(gather)) => false,
        };
        let Some(one) = shared.upgrade() else { return };
        everything |= silent.look(&one);
        drop(one);
        if !everything && objects.is_empty() {
            continue;
        }
        // A node that restarts comes back meanwhile, and what is being announced gets there.
        sleep(gather).await;
        let Some(one) = shared.upgrade() else { return };
        everything |= silent.look(&one);
        let lost = silent.lost.clone();
        for object in objects {
            one.mend(object, &lost, true).await;
        }
        drop(one);
        if everything {
            pass(&shared, &lost).await;
        }
    }
}

/// Looks at the whole catalogue once.
async fn pass(shared: &Weak<Shared>, lost: &BTreeSet<RaftId>) {
    let mut after: Option<Arc<str>> = None;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let page = shared.catalogue.list("", after.as_deref(), AT_ONCE);
        let Some(last) = page.last() else { return };
        after = Some(last.key.clone());
        for entry in page {
            shared.mend(entry.object, lost, false).await;
        }
        drop(shared);
        sleep(PAUSE).await;
    }
}

/// Members that do not answer, and since when.
struct Silent {
    patience: Duration,
    since: HashMap<RaftId, Instant>,
    /// Those that count as lost.
    lost: BTreeSet<RaftId>,
}

impl Silent {
    /// `true`: one more is to be counted as lost, or one is back, which may be sent what it has missed.
    fn look(&mut self, shared: &Shared) -> bool {
        let mut back = false;
        let others = shared.by_distance();
        self.since.retain(|id, _| others.contains(id));
        for id in others {
            if shared.mesh.answers(id) {
                back |= self.since.remove(&id).is_some();
            } else {
                self.since.entry(id).or_insert_with(Instant::now);
            }
        }
        let lost = self.since.iter().filter(|(_, since)| since.elapsed() >= self.patience);
        let lost: BTreeSet<_> = lost.map(|(id, _)| *id).collect();
        let more = !lost.is_subset(&self.lost);
        self.lost = lost;
        back || more
    }
}

impl Shared {
    /// Makes the copies of an object that are missing, if that is this member's business, or `mine` whatever the others do.
    async fn mend(self: &Arc<Self>, object: ObjectId, lost: &BTreeSet<RaftId>, mine: bool) {
        // As it is by now: making copies takes time.
        let Some(entry) = self.catalogue.by_object(object) else { return };
        let members: Vec<_> = self.catalogue.members().iter().map(|member| member.id).collect();
        let answers = |id: RaftId| id == self.id || self.mesh.answers(id);
        let holders: Vec<_> = entry
            .holders
            .iter()
            .copied()
            .filter(|id| members.contains(id) && !lost.contains(id))
            .collect();
        let there = members.iter().filter(|id| !lost.contains(id)).count();
        let wanted = self.copies.max(self.needed()).min(there);
        let now_ms = now_ms();
        if holders.len() >= wanted || !entry.live(now_ms.saturating_add(SOON_MS)) {
            return;
        }
        let acting = holders.iter().copied().find(|id| answers(*id)) == Some(self.id);
        if !mine && !acting {
            return;
        }
        if !self.has(&entry).await {
            // Its own copy was damaged, or went and nobody could be told.
            if holders.contains(&self.id) {
                self.holdings.lost(self.id, entry.object);
            }
            self.count(self.fetch_unread(&entry).await);
            return pace(entry.len).await;
        }
        let mut targets: Vec<_> =
            members.into_iter().filter(|id| !entry.holders.contains(id) && answers(*id)).collect();
        targets.sort_unstable_by_key(|id| std::cmp::Reverse(weight(entry.object, *id)));
        targets.truncate(wanted - holders.len());
        let info = ObjectInfo::from(&*entry);
        for target in targets {
            let copied = self.copy_to(target, entry.object, &info).await;
            self.count(copied.is_ok());
            match copied {
                Ok(()) => self.holdings.gained(target, entry.object),
                Err(error) => {
                    tracing::debug!(key = %entry.key, target, %error, "a copy could not be made anew");
                }
            }
            pace(entry.len).await;
        }
    }

    async fn has(&self, entry: &Entry) -> bool {
        matches!(self.store.open(entry.object).await, Ok(Some(_)))
    }

    fn count(&self, made: bool) {
        let Repair { made: good, failed, .. } = &*self.repair;
        if made { good } else { failed }.fetch_add(1, Ordering::Relaxed);
    }
}

/// Readers and puts come first.
async fn pace(len: u64) {
    sleep(Duration::from_millis(len.saturating_mul(1000) / RATE)).await;
}

/// Who is to have an object: the heaviest (rendezvous hashing). All members weigh alike.
fn weight(object: ObjectId, member: RaftId) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for word in [object.node, object.serial, member] {
        hash = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= hash >> 29;
    }
    hash.wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_chosen_about_equally_often() {
        let mut chosen = [0_u32; 4];
        for serial in 0..4000 {
            let object = ObjectId { node: 1, serial };
            let best = (0..4).max_by_key(|member| weight(object, *member)).unwrap_or(0);
            chosen[usize::try_from(best).unwrap_or(0)] += 1;
        }
        assert!(chosen.iter().all(|count| (800..1200).contains(count)), "{chosen:?}");
    }
}

//! Copies that are missing are made, never those that were evicted: what has no room has none elsewhere either.
//!
//! The catalogue knows what is missing ([`Entry::missing`]): what a put did not copy, and what went with a member that was
//! removed. A member that does not answer for long counts as lost; then all entries are looked at for those that it holds. Bytes
//! that turn out to be damaged are queued by whoever finds them; that queue is in memory.
//!
//! For each object one member acts: the holder with the lowest number that answers. It copies one object at a time, to members
//! that it and all others would choose, no faster than [`RATE`]. What fails is tried again when a member answers again or for the
//! first time, and after a while that doubles up to the time that a member may be away.
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::{Shared, now_ms};
use crate::catalogue::Entry;
use crate::ids::{ObjectId, RaftId};
use crate::store::ObjectInfo;

/// Damaged objects that may wait. What does not fit is found again by its next reader.
const MAX_DAMAGED: usize = 1 << 16;
/// Objects that are looked at without a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked which members answer.
const LOOK: Duration = Duration::from_secs(5);
/// How soon what failed is tried again at first.
const AGAIN: Duration = Duration::from_secs(5);
/// Bytes a second that are copied at most, over some objects.
const RATE: u64 = 64 << 20;
/// What is over by then is not worth a copy.
const SOON_MS: u64 = 60_000;
/// News is gathered for this part of the time after which a member counts as lost, and not for less than the other.
const GATHER_PART: u32 = 20;
const GATHER_LEAST: Duration = Duration::from_secs(1);

/// What is to be looked at, and what has been done.
#[derive(Debug)]
pub(super) struct Repair {
    /// Damaged objects that may wait; 0: nothing is repaired.
    room: usize,
    news: Notify,
    damaged: Mutex<BTreeSet<ObjectId>>,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Repair {
    /// `patience` zero: nothing is ever looked at.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            room: if patience.is_zero() { 0 } else { MAX_DAMAGED },
            news: Notify::new(),
            damaged: Mutex::default(),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// There are other members than before, or copies that are missing.
    pub(super) fn news(&self) {
        self.news.notify_one();
    }

    /// This member's copy is damaged.
    pub(super) fn damaged(&self, object: ObjectId) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < self.room {
            damaged.insert(object);
        }
        drop(damaged);
        self.news();
    }

    /// Copies that were made, and those that came to nothing.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Makes copies until the node stops. A member that does not answer for `patience` counts as lost; zero: none ever does.
pub(super) async fn run(shared: Weak<Shared>, patience: Duration) {
    if patience.is_zero() {
        return;
    }
    let Some(repair) = going(&shared).map(|one| one.repair.clone()) else { return };
    let gather = (patience / GATHER_PART).max(GATHER_LEAST);
    let mut watch = Watch::new(patience);
    loop {
        tokio::select! {
            () = repair.news.notified() => {}
            () = sleep(LOOK.min(gather)) => {}
        }
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        let known = one.catalogue.applied().index;
        let due = watch.due(&one);
        drop(one);
        if !due {
            continue;
        }
        // A node that restarts comes back meanwhile, and copies that are under way get there.
        sleep(gather).await;
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        drop(one);
        if work(&shared, &repair, &mut watch, known).await.is_none() {
            return;
        }
    }
}

/// `None`: the node stops.
fn going(shared: &Weak<Shared>) -> Option<Arc<Shared>> {
    shared.upgrade().filter(|shared| !shared.stopping())
}

/// Looks at everything that was put up to `known` and has too few copies. `None`: the node stops.
async fn work(shared: &Weak<Shared>, repair: &Repair, watch: &mut Watch, known: u64) -> Option<()> {
    watch.begun();
    let mut left = false;
    let damaged = std::mem::take(&mut *repair.damaged.lock());
    for object in damaged {
        if going(shared)?.mend(object, Why::Damaged, watch).await == Mended::Failed {
            left = true;
            repair.damaged(object);
        }
    }
    let mut after = None;
    loop {
        let one = going(shared)?;
        let mut page = one.catalogue.missing(after, AT_ONCE);
        let Some(last) = page.last() else { break };
        after = Some(last.object);
        page.retain(|entry| entry.index <= known);
        // What another member is to see to may come back to this one.
        left |= one.mend_all(page, Why::Missing, watch).await < Mended::Made;
        drop(one);
        sleep(PAUSE).await;
    }
    if std::mem::take(&mut watch.full) {
        let mut after: Option<Arc<str>> = None;
        loop {
            let one = going(shared)?;
            let page = one.catalogue.list("", after.as_deref(), AT_ONCE);
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let failed = one.mend_all(page, Why::Lost, watch).await == Mended::Failed;
            (left, watch.again) = (left | failed, watch.again | failed);
            drop(one);
            sleep(PAUSE).await;
        }
    }
    watch.done(left);
    Some(())
}

/// Which members there are, which of them answer, and when there is something to do.
struct Watch {
    patience: Duration,
    others: Vec<RaftId>,
    answering: BTreeSet<RaftId>,
    /// Those that do not answer, and since when.
    silent: HashMap<RaftId, Instant>,
    /// Those that count as lost.
    lost: BTreeSet<RaftId>,
    /// Others are there, or answer, than when something was done last.
    news: bool,
    /// Somebody else is lost: everything is to be looked at.
    full: bool,
    /// Not all came of it that should have.
    again: bool,
    /// When something was done last, and how long after it what failed is tried again.
    tried: Instant,
    wait: Duration,
}

impl Watch {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            others: Vec::new(),
            answering: BTreeSet::new(),
            silent: HashMap::new(),
            lost: BTreeSet::new(),
            news: true,
            full: false,
            again: false,
            tried: Instant::now(),
            wait: AGAIN.min(patience),
        }
    }

    fn look(&mut self, shared: &Shared) {
        let mut others = shared.by_distance();
        others.sort_unstable();
        let answering = others.iter().copied().filter(|id| shared.mesh.answers(*id)).collect();
        self.silent.retain(|id, _| others.contains(id));
        for id in &others {
            if BTreeSet::contains(&answering, id) {
                self.silent.remove(id);
            } else {
                self.silent.entry(*id).or_insert_with(Instant::now);
            }
        }
        let lost = self.silent.iter().filter(|(_, since)| since.elapsed() >= self.patience);
        let lost: BTreeSet<_> = lost.map(|(id, _)| *id).collect();
        self.full |= !lost.is_subset(&self.lost);
        self.lost = lost;
        self.news |= answering != self.answering || others != self.others;
        (self.others, self.answering) = (others, answering);
    }

    /// Whether there is something to do, and somebody to do it with.
    fn due(&mut self, shared: &Shared) -> bool {
        let again = self.news || self.tried.elapsed() >= self.wait;
        self.full |= again && self.again;
        let some = || shared.catalogue.short() > 0 || !shared.repair.damaged.lock().is_empty();
        !self.answering.is_empty() && (self.full || again && some())
    }

    fn begun(&mut self) {
        if std::mem::take(&mut self.news) {
            self.wait = AGAIN.min(self.patience);
        }
        self.again = false;
    }

    fn done(&mut self, left: bool) {
        self.tried = Instant::now();
        self.wait = if left { self.wait * 2 } else { AGAIN }.min(self.patience);
    }
}

/// Why an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// This member's copy is damaged.
    Damaged,
    /// The catalogue says that copies are missing.
    Missing,
    /// A member is lost.
    Lost,
}

/// What came of a look at an object, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mended {
    /// Something is still missing.
    Failed,
    /// No copy of it can be made now, or it is another member's business.
    Nothing,
    /// What was missing is there.
    Made,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.going().is_err() || self.threads.lock().is_none()
    }

    /// Looks at all of them; the worst that came of it.
    async fn mend_all(
        self: &Arc<Self>,
        entries: Vec<Arc<Entry>>,
        why: Why,
        watch: &mut Watch,
    ) -> Mended {
        let mut worst = Mended::Made;
        for entry in entries {
            let mended = self.mend(entry.object, why, watch).await;
            worst = worst.min(mended);
            if mended != Mended::Nothing {
                // That took time.
                watch.look(self);
                if self.stopping() {
                    break;
                }
            }
        }
        worst
    }

    /// Makes the copies of an object that are missing, if that is this member's business.
    async fn mend(self: &Arc<Self>, object: ObjectId, why: Why, watch: &Watch) -> Mended {
        // As it is by now: making copies takes time.
        let Some(entry) = self.catalogue.by_object(object) else { return Mended::Made };
        let members: Vec<_> = self.catalogue.members().iter().map(|member| member.id).collect();
        let answers = |id: RaftId| id == self.id || self.mesh.answers(id);
        let there = |id: &RaftId| members.contains(id) && !watch.lost.contains(id);
        let holders: Vec<_> = entry.holders.iter().copied().filter(there).collect();
        let most = members.iter().filter(|id| there(id)).count();
        let few = self.copies.max(self.needed()).min(most).saturating_sub(holders.len());
        let lost = entry.holders.iter().filter(|id| watch.lost.contains(id)).count();
        let (mut missing, mine) = match why {
            Why::Damaged => (few, true),
            Why::Missing | Why::Lost => {
                let first = holders.iter().copied().find(|id| answers(*id));
                (few.min(usize::from(entry.missing) + lost), first == Some(self.id))
            }
        };
        if missing == 0 || !mine || !entry.live(now_ms().saturating_add(SOON_MS)) {
            return Mended::Nothing;
        }
        match self.store.open(object).await {
            Ok(Some(_)) => {}
            // It was damaged, or went and nobody could be told.
            Ok(None) => {
                if holders.contains(&self.id) {
                    self.holdings.lost(self.id, object);
                } else {
                    missing -= 1;
                }
                let fetched = self.bring(&entry).await.unwrap_or(false);
                self.count(fetched);
                pace(entry.len).await;
                if !fetched {
                    return Mended::Failed;
                }
            }
            // It may be there all the same.
            Err(error) => {
                tracing::debug!(key = %entry.key, %error, "a copy to be copied could not be opened");
                self.count(false);
                return Mended::Failed;
            }
        }
        let mut targets: Vec<_> = members
            .into_iter()
            .filter(|id| *id != self.id && !entry.holders.contains(id) && answers(*id))
            .collect();
        targets.sort_unstable_by_key(|id| std::cmp::Reverse(weight(object, *id)));
        self.copy_to_some(&targets, &entry, missing).await
    }

    /// Copies to as many of these members as are wanted, whichever of them take it.
    async fn copy_to_some(
        self: &Arc<Self>,
        targets: &[RaftId],
        entry: &Entry,
        mut wanted: usize,
    ) -> Mended {
        let info = ObjectInfo::from(entry);
        for target in targets {
            if wanted == 0 {
                break;
            }
            let copied = self.copy_to(*target, entry.object, &info).await;
            self.count(copied.is_ok());
            match copied {
                Ok(()) => {
                    self.holdings.gained(*target, entry.object);
                    wanted -= 1;
                }
                Err(error) => {
                    tracing::debug!(key = %entry.key, target, %error, "a copy could not be made anew");
                }
            }
            pace(entry.len).await;
        }
        if wanted == 0 { Mended::Made } else { Mended::Failed }
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
    fn what_fails_is_tried_again_later_and_later() {
        let mut watch = Watch::new(Duration::from_secs(18));
        let waits: Vec<_> = [true, true, true, false, true]
            .into_iter()
            .map(|left| {
                watch.done(left);
                watch.wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [10, 18, 18, 5, 10]);
        watch.news = true;
        watch.begun();
        assert_eq!(watch.wait, AGAIN);
    }

    #[test]
    fn where_nothing_is_repaired_nothing_waits() {
        let never = Repair::new(Duration::ZERO);
        never.damaged(ObjectId { node: 1, serial: 1 });
        assert!(never.damaged.lock().is_empty());
    }

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

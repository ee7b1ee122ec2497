//! Copies that were lost are made again, never those that were evicted: what has no room has none elsewhere either.
//!
//! The catalogue does not say why an object has few holders, so that is not looked at. A pass over all entries acts for those
//! that name a lost member among their holders, and makes as many copies as are lost with it; and for a member that joins a
//! cluster of fewer members than there are to be copies, which gets what there is. Single objects are queued by whoever knows
//! that a copy is missing: a put whose further copies came to nothing, a member that was removed, bytes that are damaged. The queue
//! is in memory: a member that restarts has forgotten it.
//!
//! For each object one member acts: the holder with the lowest number that answers. It copies one object at a time, to members
//! that it and all others would choose, no faster than [`RATE`], and tries each object once. What fails is looked at again when
//! members come or go, and after the time that a member may be away.
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Objects that may wait to be looked at one by one. What does not fit has fewer copies for good.
const MAX_WANTED: usize = 1 << 20;
/// Objects that are looked at without a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked which members answer.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes a second that are copied at most, over some objects.
const RATE: u64 = 64 << 20;
/// What is over by then is not worth a copy.
const SOON_MS: u64 = 60_000;
/// News is gathered for this part of the time after which a member counts as lost, and not for less than the other.
const GATHER_PART: u32 = 20;
const GATHER_LEAST: Duration = Duration::from_secs(1);

/// Why an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// This member put it, and not all copies were made.
    Few,
    /// This member's copy is damaged.
    Damaged,
    /// One copy went with a member that was removed, or could not be made before.
    One,
    /// Everything is looked at.
    Pass,
}

/// Objects that are looked at one by one.
#[derive(Debug, Default)]
struct Queue {
    now: BTreeMap<ObjectId, Why>,
    /// Those that could not be seen to.
    later: BTreeMap<ObjectId, Why>,
}

/// What is to be looked at, and what has been done.
#[derive(Debug)]
pub(super) struct Repair {
    /// 0: nothing is repaired.
    room: usize,
    news: Notify,
    queue: Mutex<Queue>,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Repair {
    /// `patience` zero: nothing is ever looked at.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            room: if patience.is_zero() { 0 } else { MAX_WANTED },
            news: Notify::new(),
            queue: Mutex::default(),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// There are other members than before.
    pub(super) fn members(&self) {
        self.news.notify_one();
    }

    /// Copies of this object, which this member put, are missing.
    pub(super) fn few(&self, object: ObjectId) {
        self.want([object], Why::Few);
    }

    /// This member's copy is damaged.
    pub(super) fn damaged(&self, object: ObjectId) {
        self.want([object], Why::Damaged);
    }

    /// A holder of these objects is no member any more.
    pub(super) fn released(&self, objects: Vec<ObjectId>) {
        self.want(objects, Why::One);
    }

    fn want(&self, objects: impl IntoIterator<Item = ObjectId>, why: Why) {
        let mut queue = self.queue.lock();
        for object in objects {
            if queue.now.len() + queue.later.len() >= self.room {
                break;
            }
            let known = queue.now.entry(object).or_insert(why);
            if *known == Why::One {
                *known = why;
            }
        }
        drop(queue);
        self.news.notify_one();
    }

    /// What could not be seen to waits for better times.
    fn settle(&self, object: ObjectId, why: Why, mended: Mended) {
        let mut queue = self.queue.lock();
        match mended {
            Mended::Made => drop(queue.later.remove(&object)),
            Mended::Failed if queue.now.len() + queue.later.len() < self.room => {
                let why = if why == Why::Pass { Why::One } else { why };
                queue.later.insert(object, why);
            }
            Mended::Failed | Mended::Nothing => {}
        }
    }

    /// Times may be better now.
    fn again(&self) {
        let mut queue = self.queue.lock();
        let mut later = std::mem::take(&mut queue.later);
        // What has been said since counts.
        later.append(&mut queue.now);
        queue.now = later;
    }

    fn next(&self) -> Option<(ObjectId, Why)> {
        self.queue.lock().now.pop_first()
    }

    fn idle(&self) -> bool {
        self.queue.lock().now.is_empty()
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
    let Some(one) = going(&shared) else { return };
    let repair = one.repair.clone();
    let mut watch = Watch::new(patience, &one);
    drop(one);
    let gather = (patience / GATHER_PART).max(GATHER_LEAST);
    loop {
        tokio::select! {
            () = repair.news.notified() => {}
            () = sleep(LOOK.min(gather)) => {}
        }
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        drop(one);
        if !watch.due && repair.idle() {
            continue;
        }
        // A node that restarts comes back meanwhile, and what is being announced gets there.
        sleep(gather).await;
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        drop(one);
        if work(&shared, &repair, &mut watch).await.is_none() {
            return;
        }
    }
}

/// `None`: the node stops.
fn going(shared: &Weak<Shared>) -> Option<Arc<Shared>> {
    shared.upgrade().filter(|shared| !shared.stopping())
}

/// Looks at what is queued, and at the whole catalogue if that is due. `None`: the node stops.
async fn work(shared: &Weak<Shared>, repair: &Repair, watch: &mut Watch) -> Option<()> {
    let mut after: Option<Arc<str>> = None;
    let mut passing = false;
    loop {
        let shared = going(shared)?;
        watch.look(&shared);
        if std::mem::take(&mut watch.due) {
            // From the beginning: what has been looked at may be lost now.
            (passing, after) = (true, None);
        }
        for _ in 0..AT_ONCE {
            let Some((object, why)) = repair.next() else { break };
            let mended = shared.mend(object, why, watch).await;
            repair.settle(object, why, mended);
            if mended != Mended::Nothing {
                // That took time.
                watch.look(&shared);
                if shared.stopping() {
                    break;
                }
            }
        }
        passing &= !(watch.lost.is_empty() && watch.fresh.is_empty());
        if passing {
            let page = shared.catalogue.list("", after.as_deref(), AT_ONCE);
            after = page.last().map(|last| last.key.clone());
            passing = after.is_some();
            for entry in page {
                let mended = shared.mend(entry.object, Why::Pass, watch).await;
                repair.settle(entry.object, Why::Pass, mended);
                if mended != Mended::Nothing {
                    watch.look(&shared);
                    if watch.due || shared.stopping() {
                        break;
                    }
                }
            }
        }
        if !passing && !watch.due {
            watch.fresh.clear();
            if repair.idle() {
                return Some(());
            }
        }
        drop(shared);
        sleep(PAUSE).await;
    }
}

/// Which members there are, and which of them answer.
struct Watch {
    patience: Duration,
    /// Those that do not answer, and since when.
    silent: HashMap<RaftId, Instant>,
    /// Those that count as lost.
    lost: BTreeSet<RaftId>,
    /// The highest number of a member so far.
    highest: RaftId,
    /// Members that have joined and have not answered yet.
    joined: BTreeSet<RaftId>,
    /// Members that have joined and are to be sent what there is.
    fresh: BTreeSet<RaftId>,
    /// Everything is to be looked at.
    due: bool,
    /// When what had failed was last tried again.
    tried: Instant,
}

impl Watch {
    fn new(patience: Duration, shared: &Shared) -> Self {
        let others = shared.by_distance();
        Self {
            patience,
            silent: HashMap::new(),
            lost: BTreeSet::new(),
            highest: others.into_iter().fold(shared.id, RaftId::max),
            joined: BTreeSet::new(),
            fresh: BTreeSet::new(),
            due: false,
            tried: Instant::now(),
        }
    }

    fn look(&mut self, shared: &Shared) {
        let others = shared.by_distance();
        let mut news = false;
        self.silent.retain(|id, _| others.contains(id));
        self.joined.retain(|id| others.contains(id));
        self.fresh.retain(|id| others.contains(id));
        self.joined.extend(others.iter().copied().filter(|id| *id > self.highest));
        self.highest = others.iter().copied().fold(self.highest, RaftId::max);
        let before = others.len() + 1 - self.joined.len() - self.fresh.len();
        let few = before < shared.copies.max(shared.needed());
        for id in others {
            if !shared.mesh.answers(id) {
                self.silent.entry(id).or_insert_with(Instant::now);
                continue;
            }
            news |= self.silent.remove(&id).is_some();
            if self.joined.remove(&id) {
                news = true;
                if few {
                    self.due = true;
                    self.fresh.insert(id);
                }
            }
        }
        let lost = self.silent.iter().filter(|(_, since)| since.elapsed() >= self.patience);
        let lost: BTreeSet<_> = lost.map(|(id, _)| *id).collect();
        let more = !lost.is_subset(&self.lost);
        self.due |= more;
        self.lost = lost;
        if news || more || self.tried.elapsed() >= self.patience {
            self.tried = Instant::now();
            shared.repair.again();
        }
    }
}

/// What came of a look at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// No copy of it is missing, or it is another member's business.
    Nothing,
    /// What was missing is there.
    Made,
    /// Something still is.
    Failed,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.going().is_err() || self.threads.lock().is_none()
    }

    /// Makes the copies of an object that are missing, if that is this member's business.
    async fn mend(self: &Arc<Self>, object: ObjectId, why: Why, watch: &Watch) -> Mended {
        // As it is by now: making copies takes time.
        let Some(entry) = self.catalogue.by_object(object) else { return Mended::Nothing };
        let members: Vec<_> = self.catalogue.members().iter().map(|member| member.id).collect();
        let answers = |id: RaftId| id == self.id || self.mesh.answers(id);
        let there = |id: &RaftId| members.contains(id) && !watch.lost.contains(id);
        let holders: Vec<_> = entry.holders.iter().copied().filter(there).collect();
        let fresh: Vec<_> =
            watch.fresh.iter().copied().filter(|id| !entry.holders.contains(id)).collect();
        let lost = entry.holders.iter().filter(|id| watch.lost.contains(id)).count();
        let most = match why {
            Why::Few | Why::Damaged => members.len(),
            Why::One | Why::Pass => members.iter().filter(|id| there(id)).count(),
        };
        let few = self.copies.max(self.needed()).min(most).saturating_sub(holders.len());
        let mut missing = match why {
            Why::Few | Why::Damaged => few,
            Why::One => few.min(1),
            Why::Pass => few.min(lost + fresh.len()),
        };
        let mine = match why {
            Why::Few => holders.contains(&self.id),
            Why::Damaged => true,
            Why::One | Why::Pass => {
                holders.iter().copied().find(|id| answers(*id)) == Some(self.id)
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
                let fetched = self.fetch_unread(&entry).await;
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
            // Where nothing is lost, there is something to do for those who have joined only.
            .filter(|id| why != Why::Pass || lost > 0 || fresh.contains(id))
            .collect();
        targets.sort_unstable_by_key(|id| {
            std::cmp::Reverse((fresh.contains(id), weight(object, *id)))
        });
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
    fn what_fails_waits_and_nothing_waits_where_nothing_is_repaired() {
        let object = |serial| ObjectId { node: 1, serial };
        let repair = Repair::new(Duration::from_secs(1));
        repair.released(vec![object(1), object(2)]);
        repair.few(object(2));
        repair.settle(object(3), Why::Pass, Mended::Failed);
        assert_eq!(repair.next(), Some((object(1), Why::One)));
        assert_eq!(repair.next(), Some((object(2), Why::Few)), "all of its copies, not one");
        assert!(repair.idle());
        repair.again();
        assert_eq!(repair.next(), Some((object(3), Why::One)));
        let never = Repair::new(Duration::ZERO);
        never.damaged(object(1));
        never.settle(object(2), Why::Few, Mended::Failed);
        never.again();
        assert!(never.idle());
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

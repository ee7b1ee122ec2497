//! Copies that are missing are made, never those that were evicted: what has no room has none elsewhere either.
//!
//! The catalogue knows what is missing ([`Entry::missing`]): what a put did not copy, what went with a member that was removed, what
//! is damaged. A member that does not answer for long counts as lost; then all entries are looked at for those that it holds.
//!
//! For each object one member acts: the holder with the lowest number that answers. It copies one object at a time, to members
//! that it and all others would choose, no faster than [`RATE`]. What fails is tried again when members come, go, answer or cease
//! to, and after a while that doubles up to the time that a member may be away.
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::copying::LATE_COPIES;
use super::{Shared, now_ms};
use crate::catalogue::{Catalogue, Entry};
use crate::ids::{ObjectId, RaftId};
use crate::store::ObjectInfo;

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
/// What is missing is left alone for this part of the time after which a member counts as lost, and not for less than the other.
const GATHER_PART: u32 = 10;
const GATHER_LEAST: Duration = Duration::from_secs(1);

/// What there is to hear of, and what has been done.
#[derive(Debug, Default)]
pub(super) struct Repair {
    news: Notify,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Repair {
    /// There are other members than before.
    pub(super) fn news(&self) {
        self.news.notify_one();
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
    let gather = (patience / GATHER_PART).clamp(GATHER_LEAST, LATE_COPIES);
    let mut watch = Watch::new(patience);
    loop {
        tokio::select! {
            () = repair.news.notified() => {}
            () = sleep(LOOK.min(gather)) => {}
        }
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        let known = one.catalogue.applied().index;
        let due = watch.due(&one.catalogue);
        drop(one);
        if !due {
            continue;
        }
        // A node that restarts comes back meanwhile, and copies that are under way get there.
        sleep(gather).await;
        let Some(one) = going(&shared) else { return };
        watch.look(&one);
        drop(one);
        if work(&shared, &mut watch, known).await.is_none() {
            return;
        }
    }
}

/// `None`: the node stops.
fn going(shared: &Weak<Shared>) -> Option<Arc<Shared>> {
    shared.upgrade().filter(|shared| !shared.stopping())
}

/// Looks at what was put up to `known` and is short of copies, or holds for lost what a lost member has. `None`: the node stops.
async fn work(shared: &Weak<Shared>, watch: &mut Watch, known: u64) -> Option<()> {
    let mut after = watch.begin();
    // What is newer is looked at the next time, however fast it comes.
    while after < known && !watch.interrupted() {
        let one = going(shared)?;
        let range = (Bound::Excluded(after), Bound::Included(known));
        let page = one.catalogue.short(range, AT_ONCE);
        after = page.get(AT_ONCE - 1).map_or(known, |last| last.index);
        one.mend_all(page, watch).await;
        drop(one);
        sleep(PAUSE).await;
    }
    watch.seen = watch.seen.max(after);
    while let Walk::Due(key) = &watch.walk
        && !watch.news
    {
        let one = going(shared)?;
        let page = one.catalogue.list("", key.as_deref(), AT_ONCE);
        let last = page.get(AT_ONCE - 1).map(|last| last.key.clone());
        watch.walk = last.map_or(Walk::Done, |last| Walk::Due(Some(last)));
        watch.again |= one.mend_all(page, watch).await;
        drop(one);
        sleep(PAUSE).await;
    }
    let left = !going(shared)?.catalogue.short(..=known, 1).is_empty();
    watch.done(left);
    Some(())
}

/// A walk over all entries.
#[derive(Debug, PartialEq, Eq)]
enum Walk {
    Done,
    /// It goes on behind this key.
    Due(Option<Arc<str>>),
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
    /// How often entries fell short of copies: by damage, and with members that were removed.
    fell_short: u64,
    /// Something of this is otherwise than when something was done last.
    news: bool,
    /// Over everything, when somebody else is lost.
    walk: Walk,
    /// Not all came of that that should have.
    again: bool,
    /// What was put up to this index has been looked at.
    seen: u64,
    /// Whether what failed before is tried again just now.
    retried: bool,
    /// When that was done last, and how long after it it is done again.
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
            fell_short: 0,
            news: true,
            walk: Walk::Done,
            again: false,
            seen: 0,
            retried: false,
            tried: Instant::now(),
            wait: Duration::ZERO,
        }
    }

    fn look(&mut self, shared: &Shared) {
        let mut others = shared.by_distance();
        others.sort_unstable();
        let answering = others.iter().copied().filter(|id| shared.mesh.answers(*id)).collect();
        let fell_short = shared.catalogue.fell_short();
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
        // Somebody else is lost, or there to take what a lost one had.
        let takes = |id: &RaftId| {
            !lost.contains(id) && (self.lost.contains(id) || !self.others.contains(id))
        };
        if !lost.is_subset(&self.lost) || !lost.is_empty() && others.iter().any(takes) {
            self.walk = Walk::Due(None);
        }
        self.lost = lost;
        self.news |=
            (&others, &answering, fell_short) != (&self.others, &self.answering, self.fell_short);
        (self.others, self.answering, self.fell_short) = (others, answering, fell_short);
    }

    /// Whether what failed is tried again.
    fn retries(&self) -> bool {
        self.news || self.tried.elapsed() >= self.wait
    }

    /// Whether there is something to do, and somebody to do it with.
    fn due(&mut self, catalogue: &Catalogue) -> bool {
        if self.again && self.retries() && self.walk == Walk::Done {
            self.walk = Walk::Due(None);
        }
        let from = if self.retries() { 0 } else { self.seen + 1 };
        !self.answering.is_empty()
            && (self.walk != Walk::Done || !catalogue.short(from.., 1).is_empty())
    }

    /// What has been looked at and is left alone this time.
    fn begin(&mut self) -> u64 {
        self.retried = self.retries();
        if std::mem::take(&mut self.news) {
            self.wait = Duration::ZERO;
        }
        if self.walk == Walk::Due(None) {
            self.again = false;
        }
        if self.retried { 0 } else { self.seen }
    }

    /// What is new comes first.
    fn interrupted(&self) -> bool {
        self.news || self.walk != Walk::Done
    }

    /// `left`: something is still short of copies.
    fn done(&mut self, left: bool) {
        // What is new, and fails, comes all the time: what is older has its own time.
        if self.retried {
            self.tried = Instant::now();
            let longer = (self.wait * 2).max(AGAIN).min(self.patience);
            self.wait = if left || self.again { longer } else { Duration::ZERO };
        }
    }
}

/// What came of a look at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// Nobody who has not got it answers.
    Nowhere,
    /// No copy of it can be made now, or it is another member's business.
    Nothing,
    /// What was missing is there.
    Made,
    /// Something is still missing.
    Failed,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.going().is_err() || self.threads.lock().is_none()
    }

    /// Looks at all of them; whether something failed.
    async fn mend_all(self: &Arc<Self>, entries: Vec<Arc<Entry>>, watch: &mut Watch) -> bool {
        let mut failed = false;
        for entry in entries {
            let mended = self.mend(entry.object, watch).await;
            failed |= matches!(mended, Mended::Failed | Mended::Nowhere);
            if matches!(mended, Mended::Failed | Mended::Made) {
                // That took time.
                watch.look(self);
                if self.stopping() {
                    break;
                }
            }
        }
        failed
    }

    /// Makes the copies of an object that are missing, if that is this member's business.
    async fn mend(self: &Arc<Self>, object: ObjectId, watch: &Watch) -> Mended {
        // As it is by now: making copies takes time.
        let Some(entry) = self.catalogue.by_object(object) else { return Mended::Nothing };
        let members: Vec<_> = self.catalogue.members().iter().map(|member| member.id).collect();
        let answers = |id: RaftId| id == self.id || self.mesh.answers(id);
        let there = |id: &RaftId| members.contains(id) && !watch.lost.contains(id);
        let holders: Vec<_> = entry.holders.iter().copied().filter(there).collect();
        let most = members.iter().filter(|id| there(id)).count();
        let missing = entry.due().min(most).saturating_sub(holders.len());
        let mine = holders.iter().copied().find(|id| answers(*id)) == Some(self.id);
        if missing == 0 || !mine || !entry.live(now_ms().saturating_add(SOON_MS)) {
            return Mended::Nothing;
        }
        let mut targets: Vec<_> = members
            .into_iter()
            .filter(|id| *id != self.id && !entry.holders.contains(id) && answers(*id))
            .collect();
        if targets.is_empty() {
            return Mended::Nowhere;
        }
        match self.store.open(object).await {
            Ok(Some(_)) => {}
            // It went, and nobody could be told. The next one sees to it.
            Ok(None) => {
                self.holdings.lost(self.id, object);
                return Mended::Failed;
            }
            // It may be there all the same.
            Err(error) => {
                tracing::debug!(key = %entry.key, %error, "a copy to be copied could not be opened");
                self.count(false);
                return Mended::Failed;
            }
        }
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
                watch.retried = true;
                watch.done(left);
                watch.wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [5, 10, 18, 0, 5]);
        (watch.seen, watch.news) = (7, false);
        watch.wait = Duration::from_hours(1);
        let tried = watch.tried;
        assert_eq!(watch.begin(), 7, "only what is new");
        watch.done(true);
        assert_eq!(watch.tried, tried, "which puts nothing off");
        watch.news = true;
        assert_eq!((watch.begin(), watch.wait), (0, Duration::ZERO), "everything, at once");
    }

    #[test]
    fn what_failed_of_a_pass_is_remembered_until_there_is_another() {
        let mut watch = Watch::new(Duration::from_secs(18));
        (watch.again, watch.walk) = (true, Walk::Due(Some("k".into())));
        watch.begin();
        assert!(watch.again, "it goes on where it was interrupted");
        watch.walk = Walk::Due(None);
        watch.begin();
        assert!(!watch.again, "it begins anew");
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

//! Which extent a key's hash leads to: a fixed table that readers probe without a lock.
//!
//! 64-byte buckets of four slots of 16 bytes (hash, location). A hash may live in either of two buckets and goes to the
//! emptier one: at 80 % load, 20 bytes an object, about 1.4 % had to give way to others while the table filled (with
//! the first bucket preferred it would be 4.4 %). Entries never change slots: a reader could miss one on its way.
//!
//! A reader loads hash and location one after the other, so that it may pair the hash of one object with the location
//! of another that took the slot in between (never the new hash with the old location: the slot is emptied first).
//! That does no harm: what a location leads to is believed only after its segment is pinned and the full key found
//! there matches.
//!
//! Inserts come from one thread (the committer); removals and the marks of use come from anybody, by compare-and-swap.
use std::ops::Range;

use crate::format::location::Location;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The table.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
    writing: Mutex<()>,
    len: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    hash: AtomicU64,
    /// Zero: the slot is free.
    location: AtomicU64,
}

/// Slots in a bucket.
pub(crate) const SLOTS: usize = 4;

/// What an insert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Where it is now.
    pub(crate) slot: u32,
    /// Somebody else's entry that had to give way.
    pub(crate) displaced: Option<(u64, Location)>,
}

impl Index {
    pub(crate) fn with_buckets(buckets: u32) -> Self {
        let buckets = (0..buckets.max(2)).map(|_| Bucket::default()).collect();
        Self { buckets, writing: Mutex::new(()), len: AtomicU64::new(0) }
    }

    /// Where the hash leads.
    pub(crate) fn find(&self, hash: u64) -> Option<Location> {
        self.candidates(hash)
            .find_map(|slot| self.read(slot).filter(|(found, _)| *found == hash))
            .map(|(_, location)| location)
    }

    /// What a slot holds.
    pub(crate) fn at(&self, slot: u32) -> Option<(u64, Location)> {
        self.read(slot as usize)
    }

    /// Enters or replaces. Takes a free slot of the emptier bucket, else one whose entry `is_stale`, else that of the
    /// least used entry.
    pub(crate) fn insert(
        &self,
        hash: u64,
        location: Location,
        is_stale: impl Fn(Location) -> bool,
    ) -> Inserted {
        let _writing = self.writing.lock();
        let [first, second] = self.buckets_of(hash);
        let emptier = if self.free_slots(second) > self.free_slots(first) { second } else { first };
        let choice = self.candidates(hash).min_by_key(|slot| match self.read(*slot) {
            Some((found, _)) if found == hash => 0,
            None if slot / SLOTS == emptier => 1,
            None => 2,
            Some((_, old)) if is_stale(old) => 3,
            Some((_, old)) => 4 + old.freq(),
        });
        let slot = choice.unwrap_or(0);
        let old = self.read(slot);
        let target = self.slot(slot);
        let was = if old.is_some_and(|(found, _)| found == hash) {
            // The same key: there is no moment at which it is missing.
            target.location.swap(location.get(), Ordering::AcqRel)
        } else {
            // Emptied first: a reader sees the old pair, nothing, or the new pair, or one that its key check refuses.
            let was = target.location.swap(0, Ordering::AcqRel);
            target.hash.store(hash, Ordering::Release);
            target.location.store(location.get(), Ordering::Release);
            was
        };
        if was == 0 {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        let displaced = old.filter(|(found, old)| was != 0 && *found != hash && !is_stale(*old));
        Inserted { slot: u32::try_from(slot).unwrap_or(u32::MAX), displaced }
    }

    /// Removes whatever the hash leads to.
    pub(crate) fn remove(&self, hash: u64) -> Option<Location> {
        let _writing = self.writing.lock();
        let mut removed = None;
        for slot in self.candidates(hash) {
            if let Some((found, location)) = self.read(slot)
                && found == hash
                && self.clear(slot, |_| true)
            {
                removed = Some(location);
            }
        }
        removed
    }

    /// Removes the entry if it still leads there.
    pub(crate) fn remove_if(&self, hash: u64, location: Location) -> bool {
        let _writing = self.writing.lock();
        self.candidates(hash).any(|slot| {
            self.read(slot).is_some_and(|(found, _)| found == hash)
                && self.clear(slot, |now| now.same_place(location))
        })
    }

    /// Marks an entry as used, up to three times.
    pub(crate) fn touch(&self, hash: u64, location: Location) {
        self.change_freq(hash, location, |freq| (freq < 3).then_some(freq + 1));
    }

    /// Takes back one mark of use.
    pub(crate) fn cool(&self, hash: u64, location: Location) {
        self.change_freq(hash, location, |freq| freq.checked_sub(1));
    }

    /// Entries, stale ones included.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    fn change_freq(&self, hash: u64, location: Location, change: impl Fn(u64) -> Option<u64>) {
        for slot in self.candidates(hash) {
            let Some((found, now)) = self.read(slot) else { continue };
            if found == hash && now.same_place(location) {
                if let Some(freq) = change(now.freq()) {
                    // Lost against another change: the mark is not worth a second try.
                    let target = &self.slot(slot).location;
                    let marked = now.with_freq(freq).get();
                    let _lost = target.compare_exchange(
                        now.get(),
                        marked,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                }
                return;
            }
        }
    }

    fn clear(&self, slot: usize, wanted: impl Fn(Location) -> bool) -> bool {
        let target = &self.slot(slot).location;
        let mut now = target.load(Ordering::Acquire);
        while let Some(location) = Location::from_raw(now).filter(|location| wanted(*location)) {
            match target.compare_exchange(location.get(), 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    return true;
                }
                Err(other) => now = other,
            }
        }
        false
    }

    fn read(&self, slot: usize) -> Option<(u64, Location)> {
        let slot = self.buckets.get(slot / SLOTS)?.slots.get(slot % SLOTS)?;
        let hash = slot.hash.load(Ordering::Acquire);
        Location::from_raw(slot.location.load(Ordering::Acquire)).map(|location| (hash, location))
    }

    fn slot(&self, slot: usize) -> &Slot {
        &self.buckets[slot / SLOTS].slots[slot % SLOTS]
    }

    /// The slots of the hash's two buckets.
    fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        self.buckets_of(hash).into_iter().flat_map(slots_of)
    }

    /// Each half of the hash picks a bucket, by multiply-shift.
    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        let count = self.buckets.len() as u64;
        let pick = |half: u64| usize::try_from((half * count) >> 32).unwrap_or(0);
        let first = pick(hash >> 32);
        let other = pick(hash & 0xffff_ffff);
        [first, if other == first { (first + 1) % self.buckets.len() } else { other }]
    }

    fn free_slots(&self, bucket: usize) -> usize {
        slots_of(bucket).filter(|slot| self.read(*slot).is_none()).count()
    }
}

fn slots_of(bucket: usize) -> Range<usize> {
    bucket * SLOTS..(bucket + 1) * SLOTS
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn place(unit: u64) -> Location {
        Location::new(unit + 1, 9, 100)
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_that_may_forget_what_it_says_it_displaced(
            ops in proptest::collection::vec((0..3u8, 1..200u64, 0..1000u64), 1..600)
        ) {
            let index = Index::with_buckets(16);
            let mut model: HashMap<u64, Location> = HashMap::new();
            for (op, key, unit) in ops {
                let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                match op {
                    0 => {
                        let inserted = index.insert(hash, place(unit), |_| false);
                        if let Some((displaced, location)) = inserted.displaced {
                            prop_assert_eq!(model.remove(&displaced), Some(location));
                        }
                        model.insert(hash, place(unit));
                        prop_assert_eq!(index.at(inserted.slot), Some((hash, place(unit))));
                    }
                    1 => prop_assert_eq!(index.remove(hash), model.remove(&hash)),
                    _ => {
                        let right = model.get(&hash) == Some(&place(unit));
                        prop_assert_eq!(index.remove_if(hash, place(unit)), right);
                        if right { model.remove(&hash); }
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert_eq!(index.find(hash), model.get(&hash).copied());
            }
        }
    }

    /// A hash as good as a keyed one (the finaliser of SplitMix64): a weaker one flatters the table.
    fn mix(n: u64) -> u64 {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    #[test]
    fn fills_to_four_fifths_with_hardly_anything_displaced() {
        let index = Index::with_buckets(10_000);
        let objects = 32_000u64;
        let displaced = (1..=objects)
            .filter(|n| {
                let hash = mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                index.insert(hash, place(*n), |_| false).displaced.is_some()
            })
            .count();
        assert!(displaced < 500, "{displaced} of {objects} displaced at 80 % load");
        assert_eq!(index.len() + displaced, 32_000);
        assert_eq!(index.memory_bytes(), 640_000);
    }

    /// Keys that stay are found by every reader at every moment, and only at places of their own, while they are
    /// overwritten and other keys come and go in the slots beside them.
    #[test]
    fn what_stays_is_never_missed_while_others_come_and_go() {
        const STABLE: u64 = 40;
        let index = Index::with_buckets(16);
        // The place's unit modulo STABLE tells whose it is.
        let own = |key: u64, round: u64| place(key + STABLE * round).with_freq(3);
        for key in 0..STABLE {
            index.insert(mix(key), own(key, 0), |_| false);
        }
        assert_eq!(index.len() as u64, STABLE, "none displaced another");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        for key in 0..STABLE {
                            let found = index.find(mix(key)).expect("never missing");
                            assert_eq!((found.unit() - 1) % STABLE, key, "a place of its own");
                            index.touch(mix(key), found);
                        }
                    }
                });
            }
            for round in 1..=20_000 {
                let key = round % STABLE;
                assert_eq!(index.insert(mix(key), own(key, round), |_| false).displaced, None);
                let passing = mix(1 << 32 | round);
                assert_eq!(index.insert(passing, place(round), |_| false).displaced, None);
                index.touch(passing, place(round));
                assert!(index.remove(passing).is_some());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(index.len() as u64, STABLE);
    }

    #[test]
    fn the_used_stay_and_the_stale_go_first() {
        let index = Index::with_buckets(2);
        for hash in 1..=8u64 {
            index.insert(hash, place(hash), |_| false);
            if hash != 5 {
                index.touch(hash, place(hash));
            }
        }
        assert_eq!(index.insert(100, place(100), |_| false).displaced, Some((5, place(5))));
        let stale = index.insert(101, place(101), |l| l.same_place(place(3)));
        assert_eq!(stale.displaced, None, "what is stale was already gone");
        assert_eq!(index.find(3), None);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    fn place(unit: u64) -> Location {
        Location::new(unit, 9, 100)
    }

    /// Two buckets, both open to every hash.
    fn filled(entries: u64) -> Arc<Index> {
        let index = Index::with_buckets(2);
        for hash in 1..=entries {
            index.insert(hash, place(hash), |_| false);
        }
        Arc::new(index)
    }

    /// An overwritten key is found at its old or its new place, and is never missing.
    #[test]
    fn an_overwrite_has_no_gap() {
        loom::model(|| {
            let index = filled(1);
            let reader = {
                let index = index.clone();
                loom::thread::spawn(move || index.find(1))
            };
            assert_eq!(index.insert(1, place(50), |_| false).displaced, None);
            let found = reader.join().expect("the reader is content");
            assert!(found == Some(place(1)) || found == Some(place(50)), "{found:?}");
        });
    }

    /// A key that takes over a slot is never seen at the place of the key that had it; the one that had it may be seen
    /// at the new place (which its reader's key check refuses) or not at all.
    #[test]
    fn a_new_key_never_leads_to_an_old_place() {
        loom::model(|| {
            let index = filled(8);
            let reader = {
                let index = index.clone();
                loom::thread::spawn(move || (index.find(9), index.find(1)))
            };
            assert_eq!(index.insert(9, place(90), |_| false).displaced, Some((1, place(1))));
            let (new, old) = reader.join().expect("the reader is content");
            assert!(new.is_none() || new == Some(place(90)), "{new:?}");
            assert!(old.is_none() || old == Some(place(1)) || old == Some(place(90)), "{old:?}");
            assert_eq!((index.find(9), index.find(1)), (Some(place(90)), None));
        });
    }

    /// A mark of use that meets an overwrite or a removal undoes neither.
    #[test]
    fn a_mark_of_use_brings_nothing_back() {
        loom::model(|| {
            let index = filled(2);
            let reader = {
                let index = index.clone();
                loom::thread::spawn(move || {
                    index.touch(1, place(1));
                    index.touch(2, place(2));
                })
            };
            index.insert(1, place(50), |_| false);
            assert!(index.remove(2).is_some());
            reader.join().expect("the reader is content");
            assert_eq!((index.find(1), index.find(2), index.len()), (Some(place(50)), None, 1));
        });
    }
}

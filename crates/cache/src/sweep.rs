//! The sweep behind purges: walks over the index and removes what the rules in force cover.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::commit::{Change, Current, Why};
use crate::core::Core;
use crate::format::location::Location;
use crate::purge::Live;
use crate::read::Object;

/// Removals that are handed to the committer together.
const SWEEP_BATCH: usize = 256;

/// The sweep's thread: returns after [`crate::purge::Rules::stop`].
pub(crate) fn run(core: &Arc<Core>) {
    while core.rules.wait() {
        let rules = core.rules.unswept();
        // Uploads of the generation before a rule may still come: they are looked for by a later walk.
        let oldest = core.rules.oldest_upload();
        let waiting =
            rules.iter().all(|live| *live.tally.counted.borrow() && oldest < live.rule.generation);
        if rules.is_empty() || waiting {
            continue;
        }
        let Some(all_removed) = sweep(core) else { return };
        for live in &rules {
            if all_removed && oldest >= live.rule.generation {
                live.swept.store(true, Ordering::Release);
            }
            live.tally.counted.send_replace(true);
        }
        if core.rules.is_crowded() {
            core.committer.journal.want_checkpoint();
        }
    }
}

/// Walks over the index once; whether everything that is covered was removed. `None`: it is time to stop.
fn sweep(core: &Arc<Core>) -> Option<bool> {
    let mut all_removed = true;
    let mut found = Vec::with_capacity(SWEEP_BATCH);
    for slot in 0..u32::try_from(core.index.slots()).unwrap_or(u32::MAX) {
        if slot.is_multiple_of(256) && core.rules.is_stopped() {
            return None;
        }
        let Some((hash, location)) = core.index.at(slot) else { continue };
        let Some(object) = pin(core, hash, location) else { continue };
        found.extend(Covered::judge(core, &object));
        if found.len() == SWEEP_BATCH {
            all_removed &= remove(core, &mut found);
        }
    }
    all_removed &= remove(core, &mut found);
    Some(all_removed)
}

/// Pins what the index holds for a hash, at `location` or wherever it has been moved since. `None`: nothing that could
/// be read; what is damaged leaves the index where it is found.
fn pin(core: &Arc<Core>, hash: u64, mut location: Location) -> Option<Object> {
    loop {
        if let Ok(object) = Object::pin_blocking(core, hash, location) {
            return Some(object);
        }
        location = core.index.find(hash).filter(|now| !now.same_place(location))?;
    }
}

struct Covered {
    live: Arc<Live>,
    hash: u64,
    location: Location,
    expired: bool,
}

impl Covered {
    fn judge(core: &Core, object: &Object) -> Option<Self> {
        let entry = object.entry();
        let live = core.rules.covering(entry)?;
        let expired = entry.meta.is_expired(core.clock.now_ms());
        Some(Self { live, hash: entry.hash, location: object.location(), expired })
    }
}

/// Removes what was found, in journal order with whatever else happens to it: what was moved meanwhile is found again.
/// `false`: the journal failed, and the next walk has to find the rest.
fn remove(core: &Arc<Core>, found: &mut Vec<Covered>) -> bool {
    let mut journaled = true;
    while !found.is_empty() {
        let mut under_way = Vec::with_capacity(found.len());
        for covered in found.drain(..) {
            let current = Current::Is(Some(covered.location));
            let (reply, answer) = tokio::sync::oneshot::channel();
            let change = Change::Remove { hash: covered.hash, current, why: Why::Swept };
            match core.committer.hand_in(change, None, reply) {
                Ok(()) => under_way.push((covered, answer)),
                Err(_) => journaled = false,
            }
        }
        for (covered, answer) in under_way {
            match answer.blocking_recv() {
                Ok(Ok(committed)) if committed.applied && covered.expired => {}
                Ok(Ok(committed)) if committed.applied => {
                    covered.live.tally.objects.fetch_add(1, Ordering::AcqRel);
                    core.counters.purged.add(1);
                }
                Ok(Ok(_)) => {
                    let moved = core.index.find(covered.hash);
                    let object = moved.and_then(|to| pin(core, covered.hash, to));
                    found.extend(object.and_then(|object| Covered::judge(core, &object)));
                }
                _ => journaled = false,
            }
        }
    }
    journaled
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::RawDiskCache;

    /// What was moved between the look into the index and the pin is found where it went: a sweep that passed over it
    /// would have its rule forgotten, and the object back.
    #[tokio::test]
    async fn a_sweep_follows_what_was_moved() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = RawDiskCache::new(dir.path().join("c"), 4 << 20, 4096, Duration::ZERO).await;
        let cache = cache.expect("opens");
        cache.store("k", bytes::Bytes::from_static(b"x")).await.expect("stored");
        let core = cache.core();
        let hash = core.hash("k");
        let now = core.index.find(hash).expect("stored");
        let entry = core.peek("k").await.expect("looked up").expect("stored");
        let before = Location::new(now.unit(), entry.version.seq + 1, entry.units());
        let pinned = pin(core, hash, before).expect("found");
        assert!(pinned.location().same_place(now));
        core.index.remove(hash);
        assert!(pin(core, hash, before).is_none(), "it is gone");
    }
}

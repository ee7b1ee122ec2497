//! Pins: how a reader keeps a segment from being rewritten, with one atomic operation and no lock.
//!
//! ```text
//! word   | state 2 bits | pins 22 bits | sequence number 40 bits |
//! ```
//!
//! Each region has a word and the number of its *leader*; only the word of a segment's first region, its leader,
//! counts. Who may do what:
//!
//! - Anybody may add a pin to any word at any time, and must take it off again when the word does not say what it
//!   should. Such transient pins are why nobody ever *stores* a word: every change is a read-modify-write that keeps
//!   the pin bits.
//! - `Free -> Open`: the allocator, under its lock, and only on a word that `try_free` made free.
//! - `Open -> Sealed -> Draining`: the allocator and the reclaimer, under the allocator's lock. All three can be pinned.
//! - `Draining -> Free`: the reclaimer, by a compare-and-swap that succeeds only at zero pins. After it a reader's pin
//!   finds `Free` and is taken back, so nothing can be read while the segment is rewritten.
//!
//! A reader pins the leader's word and *then* looks whether the state, the low bits of the sequence number and the
//! leader of the region are still what the index said. While the pin is held none of them can change. One thing is left
//! to the caller: a freed region keeps the name of its last leader until it is opened again, and only 14 bits of the
//! number are compared, so a location left over from 16384 segments ago may pin a segment that is not its own. The
//! *full* number that a pin answers with tells: it must be the one in the extent's header.
use std::ops::Range;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of the sequence number that the index keeps.
pub(crate) const SEQ_LOW_BITS: u32 = 14;

const SEQ_BITS: u32 = 40;
const PIN_BITS: u32 = 22;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;
const PIN_ONE: u64 = 1 << SEQ_BITS;
const PIN_MASK: u64 = ((1 << PIN_BITS) - 1) << SEQ_BITS;
const STATE_SHIFT: u32 = SEQ_BITS + PIN_BITS;
/// Far below the field's end, so that transient pins of any number of threads cannot overflow it.
const MAX_PINS: u64 = 1 << 20;

const FREE: u64 = 0;
const OPEN: u64 = 1;
const SEALED: u64 = 2;
const DRAINING: u64 = 3;

/// The pin words of all regions.
#[derive(Debug)]
pub(crate) struct PinTable {
    words: Box<[AtomicU64]>,
    leaders: Box<[AtomicU32]>,
}

impl PinTable {
    pub(crate) fn new(regions: u32) -> Self {
        Self {
            words: (0..regions).map(|_| AtomicU64::new(FREE)).collect(),
            leaders: (0..regions).map(AtomicU32::new).collect(),
        }
    }

    /// Pins the segment that holds `region`, if it is still the one whose sequence number ends in `seq_low`.
    /// Answers with its leader, to unpin, and its full sequence number.
    pub(crate) fn try_pin(&self, region: u32, seq_low: u64) -> Option<(u32, u64)> {
        let leader_of = self.leaders.get(region as usize)?;
        let leader = leader_of.load(Ordering::Acquire);
        let word = self.words.get(leader as usize)?;
        let before = word.fetch_add(PIN_ONE, Ordering::AcqRel);
        let seq = before & SEQ_MASK;
        let fits = state(before) != FREE
            && seq & ((1 << SEQ_LOW_BITS) - 1) == seq_low
            && pins(before) < MAX_PINS
            && leader_of.load(Ordering::Acquire) == leader;
        if fits {
            return Some((leader, seq));
        }
        word.fetch_sub(PIN_ONE, Ordering::AcqRel);
        None
    }

    /// Pins a segment that the caller knows to be in use (it holds the allocator's lock). `false`: too many pins.
    pub(crate) fn pin_leader(&self, leader: u32) -> bool {
        let word = &self.words[leader as usize];
        let before = word.fetch_add(PIN_ONE, Ordering::AcqRel);
        if state(before) != FREE && pins(before) < MAX_PINS {
            return true;
        }
        word.fetch_sub(PIN_ONE, Ordering::AcqRel);
        false
    }

    /// Takes off a pin that [`Self::try_pin`] or [`Self::pin_leader`] gave.
    pub(crate) fn unpin(&self, leader: u32) {
        self.words[leader as usize].fetch_sub(PIN_ONE, Ordering::AcqRel);
    }

    /// Whether the index's low bits still name the segment at this region. A hint: it may change at once.
    pub(crate) fn is_current(&self, region: u32, seq_low: u64) -> bool {
        let Some(leader) = self.leaders.get(region as usize) else { return false };
        let Some(word) = self.words.get(leader.load(Ordering::Acquire) as usize) else {
            return false;
        };
        let word = word.load(Ordering::Acquire);
        state(word) != FREE && word & ((1 << SEQ_LOW_BITS) - 1) == seq_low
    }

    /// Opens a segment over free regions.
    pub(crate) fn open(&self, leader: u32, regions: u32, seq: u64) {
        self.extend(leader, leader..leader + regions);
        self.update(leader, |word| (OPEN << STATE_SHIFT) | (word & PIN_MASK) | (seq & SEQ_MASK));
    }

    /// Adds free regions to a segment.
    pub(crate) fn extend(&self, leader: u32, regions: Range<u32>) {
        for region in regions {
            self.leaders[region as usize].store(leader, Ordering::Release);
        }
    }

    /// A segment is not filled any further.
    pub(crate) fn seal(&self, leader: u32) {
        self.set_state(leader, SEALED);
    }

    /// A segment is about to be freed; readers may still come and go.
    pub(crate) fn drain(&self, leader: u32) {
        self.set_state(leader, DRAINING);
    }

    /// Frees a draining segment if nobody holds a pin on it.
    pub(crate) fn try_free(&self, leader: u32) -> bool {
        let word = &self.words[leader as usize];
        let now = word.load(Ordering::Acquire);
        let idle = state(now) == DRAINING && pins(now) == 0;
        idle && word
            .compare_exchange(now, now & SEQ_MASK, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    pub(crate) fn is_pinned(&self, leader: u32) -> bool {
        pins(self.words[leader as usize].load(Ordering::Acquire)) > 0
    }

    /// Pins held on all segments.
    pub(crate) fn pins_held(&self) -> u64 {
        self.words.iter().map(|word| pins(word.load(Ordering::Relaxed))).sum()
    }

    fn set_state(&self, leader: u32, state: u64) {
        self.update(leader, |word| (word & !(3 << STATE_SHIFT)) | (state << STATE_SHIFT));
    }

    fn update(&self, leader: u32, change: impl Fn(u64) -> u64) {
        let word = &self.words[leader as usize];
        let mut now = word.load(Ordering::Acquire);
        while let Err(other) =
            word.compare_exchange(now, change(now), Ordering::AcqRel, Ordering::Acquire)
        {
            now = other;
        }
    }
}

fn state(word: u64) -> u64 {
    word >> STATE_SHIFT
}

fn pins(word: u64) -> u64 {
    (word & PIN_MASK) >> SEQ_BITS
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_off_freeing_and_names_the_whole_segment() {
        let table = PinTable::new(8);
        table.open(2, 3, 70_000);
        let seq = 70_000u64;
        let low = seq & ((1 << SEQ_LOW_BITS) - 1);
        assert_eq!(table.try_pin(4, low), Some((2, 70_000)));
        assert_eq!(table.try_pin(4, low + 1), None, "another segment");
        assert_eq!(table.try_pin(5, low), None, "a region outside");
        assert!(!table.try_free(2), "not draining");
        table.drain(2);
        assert!(!table.try_free(2), "pinned");
        assert_eq!(table.pins_held(), 1);
        table.unpin(2);
        assert!(table.try_free(2));
        assert_eq!(table.try_pin(2, low), None, "free");
        assert_eq!(table.pins_held(), 0);
    }

    #[test]
    fn a_region_that_went_to_another_segment_is_not_pinned_under_the_old_one() {
        let table = PinTable::new(4);
        table.open(0, 4, 5);
        table.drain(0);
        assert!(table.try_free(0));
        table.open(2, 2, 6);
        assert_eq!(table.try_pin(3, 5), None);
        assert_eq!(table.try_pin(3, 6), Some((2, 6)));
        assert_eq!(table.try_pin(1, 5), None, "its word is free");
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    /// A reader pins and reads while the reclaimer frees and the segment is rewritten under a new number: whenever the
    /// reader holds a pin, the bytes are those of the number it pinned.
    #[test]
    fn a_pinned_segment_is_never_rewritten() {
        loom::model(|| {
            let table = Arc::new(PinTable::new(1));
            let bytes = Arc::new(AtomicU64::new(1));
            table.open(0, 1, 1);
            let reader = {
                let (table, bytes) = (table.clone(), bytes.clone());
                loom::thread::spawn(move || {
                    if let Some((leader, seq)) = table.try_pin(0, 1) {
                        assert_eq!(bytes.load(Ordering::Acquire), seq);
                        table.unpin(leader);
                    }
                })
            };
            table.drain(0);
            if table.try_free(0) {
                bytes.store(2, Ordering::Release);
                table.open(0, 1, 2);
            }
            reader.join().expect("the reader is content");
            assert_eq!(table.pins_held(), 0, "transient pins are all taken off");
        });
    }
    /// The regions of a freed segment go to two new ones, and the one under the old leader has a number that ends like
    /// the old one's: a reader of the other region does not take it for its own.
    #[test]
    fn a_region_under_a_new_leader_is_never_pinned_by_the_old_one() {
        const ALIKE: u64 = 1 + (1 << SEQ_LOW_BITS);
        loom::model(|| {
            let table = Arc::new(PinTable::new(2));
            let bytes = Arc::new(AtomicU64::new(1));
            table.open(0, 2, 1);
            let reader = {
                let (table, bytes) = (table.clone(), bytes.clone());
                loom::thread::spawn(move || {
                    if let Some((leader, seq)) = table.try_pin(1, 1) {
                        assert_eq!((leader, seq, bytes.load(Ordering::Acquire)), (0, 1, 1));
                        table.unpin(leader);
                    }
                })
            };
            table.drain(0);
            if table.try_free(0) {
                bytes.store(2, Ordering::Release);
                table.open(1, 1, 2);
                table.open(0, 1, ALIKE);
            }
            reader.join().expect("the reader is content");
            assert_eq!(table.pins_held(), 0);
        });
    }

    /// Two readers, and a reclaimer that seals, drains and frees: whatever the order, no pin is lost, and freeing
    /// works once both are gone.
    #[test]
    fn pins_of_two_readers_are_all_counted() {
        // Three threads have too many interleavings: those with up to three preemptions.
        let mut bounded = loom::model::Builder::new();
        bounded.preemption_bound = Some(3);
        bounded.check(|| {
            let table = Arc::new(PinTable::new(1));
            table.open(0, 1, 1);
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let table = table.clone();
                    loom::thread::spawn(move || {
                        if let Some((leader, _)) = table.try_pin(0, 1) {
                            assert!(!table.try_free(leader), "held by this very reader");
                            table.unpin(leader);
                        }
                    })
                })
                .collect();
            table.seal(0);
            table.drain(0);
            let early = table.try_free(0);
            for reader in readers {
                reader.join().expect("the reader is content");
            }
            assert_eq!(table.pins_held(), 0);
            assert!(early || table.try_free(0), "nobody is left to wait for");
        });
    }
}

//! Where an extent is, in eight bytes that the index can swap atomically.
//!
//! ```text
//! | unit offset 38 | sequence number, low bits 14 | size class 8 | use 2 | (reserved) 2 |
//! ```
//! The unit offset counts 64-byte units from the start of the file (up to 16 TiB) and is never zero, since the file
//! starts with superblocks: a location is never zero either.
use std::num::NonZeroU64;

use crate::segment::pin::SEQ_LOW_BITS;

/// An extent's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Location(NonZeroU64);

const UNIT_BITS: u32 = 38;
const UNIT_SHIFT: u32 = 64 - UNIT_BITS;
const SEQ_SHIFT: u32 = UNIT_SHIFT - SEQ_LOW_BITS;
const CLASS_SHIFT: u32 = 4;
const FREQ_SHIFT: u32 = 2;
const PLACE_MASK: u64 = !(0b1111);

/// The largest file that units of 64 bytes can address.
pub(crate) const MAX_FILE_BYTES: u64 = 64 << UNIT_BITS;

impl Location {
    /// An extent of `units` units at unit `unit` of the segment `seq`. A unit of zero is taken for one.
    pub(crate) fn new(unit: u64, seq: u64, units: u64) -> Self {
        let unit = unit.clamp(1, (1 << UNIT_BITS) - 1);
        let raw =
            unit << UNIT_SHIFT | Self::seq_low(seq) << SEQ_SHIFT | size_class(units) << CLASS_SHIFT;
        Self(NonZeroU64::MIN.saturating_add(raw - 1))
    }

    /// A location from its eight bytes; zero is none.
    pub(crate) fn from_raw(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Self)
    }

    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    pub(crate) fn unit(self) -> u64 {
        self.get() >> UNIT_SHIFT
    }

    /// The low bits of the sequence number of its segment.
    pub(crate) fn seq_bits(self) -> u64 {
        self.get() >> SEQ_SHIFT & ((1 << SEQ_LOW_BITS) - 1)
    }

    /// What [`Self::seq_bits`] is for the segment `seq`.
    pub(crate) fn seq_low(seq: u64) -> u64 {
        seq & ((1 << SEQ_LOW_BITS) - 1)
    }

    /// Length in units, rounded up by at most an eighth.
    pub(crate) fn size_units(self) -> u64 {
        class_units(self.get() >> CLASS_SHIFT & 0xff)
    }

    /// How often it was used, 0 to 3.
    pub(crate) fn freq(self) -> u64 {
        self.get() >> FREQ_SHIFT & 3
    }

    pub(crate) fn with_freq(self, freq: u64) -> Self {
        let raw = self.get() & !(3 << FREQ_SHIFT) | (freq.min(3) << FREQ_SHIFT);
        Self(NonZeroU64::MIN.saturating_add(raw - 1))
    }

    /// Whether both lead to the same extent, whatever its use.
    pub(crate) fn same_place(self, other: Self) -> bool {
        self.get() & PLACE_MASK == other.get() & PLACE_MASK
    }
}

/// Sizes below 16 units have a class each; above, eight classes to each power of two, so that a size is rounded up by an
/// eighth at most. The last class stands for about 1 TiB and all that is larger, so that the account of live bytes, which
/// is what sizes are used for, is only an estimate for such objects.
fn size_class(units: u64) -> u64 {
    if units < 16 {
        return units;
    }
    let step = u64::from(units.ilog2()) - 3;
    // Rounding up may reach the next power: sixteen eighths are its first class.
    (8 * step + units.div_ceil(1 << step)).min(255)
}

fn class_units(class: u64) -> u64 {
    if class < 16 {
        return class;
    }
    let step = (class - 8) / 8;
    (class - 8 * step) << step
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_come_back(unit in 1..(1u64 << UNIT_BITS), seq in 0..1u64 << 40, units in 0..2_000_000u64, freq in 0..4u64) {
            let location = Location::new(unit, seq, units).with_freq(freq);
            prop_assert_eq!(location.unit(), unit);
            prop_assert_eq!(location.seq_bits(), Location::seq_low(seq));
            prop_assert_eq!(location.freq(), freq);
            prop_assert_eq!(Location::from_raw(location.get()), Some(location));
            prop_assert!(location.same_place(Location::new(unit, seq, units)));
            prop_assert!(!location.same_place(Location::new(unit, seq + 1, units)));
        }

        #[test]
        fn a_size_is_rounded_up_by_at_most_an_eighth(units in 1..1u64 << 33) {
            let rounded = Location::new(1, 1, units).size_units();
            prop_assert!(rounded >= units, "{} {}", units, rounded);
            prop_assert!(rounded <= units + units / 8 + 1, "{} {}", units, rounded);
        }
    }

    #[test]
    fn classes_grow_with_sizes() {
        let classes: Vec<u64> = (0..600_000).map(size_class).collect();
        assert!(classes.is_sorted());
    }
}

//! What lies where in the file.
//!
//! ```text
//! superblock A | superblock B | probe scratch 64 KiB | journal, copy 1 | journal, copy 2 | checkpoint A | checkpoint B | regions
//! ```
use crate::format::location::MAX_FILE_BYTES;
use crate::format::{BLOCK_BYTES, FormatError};

/// Offsets and sizes, all in bytes unless they say otherwise; every offset is a multiple of 4096.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) region_size: u64,
    pub(crate) regions: u32,
    pub(crate) probe: u64,
    pub(crate) journal: [u64; 2],
    pub(crate) journal_blocks: u32,
    pub(crate) checkpoint: [u64; 2],
    pub(crate) checkpoint_blocks: u32,
    /// Of those, what purge rules may take.
    pub(crate) rule_blocks: u32,
    pub(crate) data_offset: u64,
    pub(crate) index_buckets: u32,
}

/// Bytes that the start-up probe may scribble on.
pub(crate) const PROBE_BYTES: u64 = 64 * 1024;
/// The smallest file.
pub(crate) const MIN_FILE_BYTES: u64 = 1 << 20;

const BLOCK: u64 = BLOCK_BYTES as u64;
const MIN_REGIONS: u64 = 8;
/// Index slots in one block of a checkpoint.
pub(crate) const SLOTS_PER_PAGE: u64 = 240;
/// Segments in one block of a checkpoint.
pub(crate) const SEGMENTS_PER_PAGE: u64 = 96;

impl Layout {
    /// Plans a file of `size` bytes for objects of `average_object` bytes.
    pub(crate) fn plan(
        size: u64,
        block_size: u32,
        average_object: u64,
    ) -> Result<Self, FormatError> {
        let refuse = |what, value, reason| Err(FormatError::Field { what, value, reason });
        if !block_size.is_power_of_two() || !(512..=1 << 20).contains(&block_size) {
            return refuse(
                "block size",
                u64::from(block_size),
                "must be a power of two from 512 B to 1 MiB",
            );
        }
        if size < MIN_FILE_BYTES {
            return refuse("cache size", size, "must be at least 1 MiB");
        }
        if size > MAX_FILE_BYTES {
            return refuse("cache size", size, "must be at most 16 TiB");
        }
        if !size.is_multiple_of(u64::from(block_size)) {
            return refuse("cache size", size, "must be a multiple of the block size");
        }
        if !(64..=1 << 40).contains(&average_object) {
            return refuse("average object size", average_object, "must be from 64 B to 1 TiB");
        }
        let align = BLOCK.max(u64::from(block_size));
        let region_size = (size / 64).next_power_of_two().clamp(64 * 1024, 64 << 20).max(align);
        // A hundredth for each copy of the journal: with a checkpoint every third of it, checkpoints stay rare.
        let journal_blocks = (size / 64).clamp(64 * 1024, 128 << 20) / BLOCK;
        let slots = (size / average_object).max(64) * 5 / 4;
        let buckets = slots.div_ceil(4);
        if buckets * 4 > u64::from(u32::MAX) {
            return refuse(
                "average object size",
                average_object,
                "makes an index of more than 4294967295 slots: enlarge it",
            );
        }
        let rule_blocks = (size >> 22).clamp(2, 16);
        let pages = (buckets * 4).div_ceil(SLOTS_PER_PAGE)
            + (size / region_size).div_ceil(SEGMENTS_PER_PAGE)
            + rule_blocks
            + 2;
        let probe = 2 * BLOCK;
        let journal = probe + PROBE_BYTES;
        let checkpoint = journal + 2 * journal_blocks * BLOCK;
        let data_offset = (checkpoint + 2 * pages * BLOCK).next_multiple_of(align);
        let regions = size.saturating_sub(data_offset) / region_size;
        if regions < MIN_REGIONS {
            return refuse(
                "cache size",
                size,
                "leaves no room for eight regions beside the index: enlarge it or the average object size, or use a smaller block size",
            );
        }
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Self {
            size,
            block_size,
            region_size,
            regions: narrow(regions),
            probe,
            journal: [journal, journal + journal_blocks * BLOCK],
            journal_blocks: narrow(journal_blocks),
            checkpoint: [checkpoint, checkpoint + pages * BLOCK],
            checkpoint_blocks: narrow(pages),
            rule_blocks: narrow(rule_blocks),
            data_offset,
            index_buckets: narrow(buckets),
        })
    }

    /// Bytes of purge rules that are sure to fit into their blocks, however they are cut.
    pub(crate) fn rule_bytes(&self) -> usize {
        self.rule_blocks as usize * 2000
    }

    /// Alignment of large extents.
    pub(crate) fn align(&self) -> u64 {
        BLOCK.max(u64::from(self.block_size))
    }

    /// Bytes of the data area.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.regions) * self.region_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn areas_follow_each_other_and_fit(blocks in 0..1u64 << 22, shift in 9..21u32, average in 64..1u64 << 24) {
            let block_size = 1u32 << shift;
            let size = (MIN_FILE_BYTES + blocks * 4096).next_multiple_of(u64::from(block_size));
            if let Ok(layout) = Layout::plan(size, block_size, average) {
                let ring = u64::from(layout.journal_blocks) * BLOCK;
                let dump = u64::from(layout.checkpoint_blocks) * BLOCK;
                prop_assert_eq!(layout.probe, 2 * BLOCK);
                prop_assert_eq!(layout.journal, [layout.probe + PROBE_BYTES, layout.probe + PROBE_BYTES + ring]);
                prop_assert_eq!(layout.checkpoint, [layout.journal[1] + ring, layout.journal[1] + ring + dump]);
                prop_assert!(layout.data_offset >= layout.checkpoint[1] + dump);
                prop_assert!(layout.data_offset + layout.capacity() <= size);
                prop_assert!(layout.data_offset.is_multiple_of(layout.align()));
                prop_assert!(layout.region_size.is_multiple_of(layout.align()));
                prop_assert!(layout.regions >= 8 && layout.journal_blocks >= 16);
                // A full index and a segment for every region fit behind the header.
                let entries = u64::from(layout.index_buckets) * 4;
                let pages = entries.div_ceil(SLOTS_PER_PAGE) + u64::from(layout.regions).div_ceil(SEGMENTS_PER_PAGE);
                prop_assert!(pages < u64::from(layout.checkpoint_blocks));
            }
        }
    }

    #[test]
    fn the_default_cache_gives_nearly_all_of_itself_to_data() {
        let layout = Layout::plan(1 << 30, 4096, 8192).expect("plans");
        assert_eq!(layout.region_size, 16 << 20);
        assert!(layout.capacity() >= (1 << 30) * 9 / 10, "{layout:?}");
        assert_eq!(u64::from(layout.index_buckets) * 4, (1 << 17) * 5 / 4, "20 bytes an object");
        Layout::plan(1 << 20, 4096, 8192).expect("the smallest");
        Layout::plan(1 << 44, 4096, 64 << 10).expect("the largest");
    }

    #[test]
    fn a_refusal_names_the_value_at_fault() {
        for (size, block_size, average, expected) in [
            (64 << 20, 0, 8192, ("block size", 0)),
            (64 << 20, 256, 8192, ("block size", 256)),
            (64 << 20, 3 << 12, 8192, ("block size", 3 << 12)),
            (64 << 20, 2 << 20, 8192, ("block size", 2 << 20)),
            (0, 4096, 8192, ("cache size", 0)),
            ((1 << 20) - 4096, 4096, 8192, ("cache size", (1 << 20) - 4096)),
            ((1 << 20) + 512, 4096, 8192, ("cache size", (1 << 20) + 512)),
            ((1 << 44) + 4096, 4096, 8192, ("cache size", (1 << 44) + 4096)),
            (1 << 20, 1 << 20, 8192, ("cache size", 1 << 20)),
            (1 << 30, 4096, 63, ("average object size", 63)),
            (1 << 44, 4096, 4096, ("average object size", 4096)),
        ] {
            match Layout::plan(size, block_size, average) {
                Err(FormatError::Field { what, value, .. }) => assert_eq!((what, value), expected),
                other => panic!("{size} {block_size} {average}: {other:?}"),
            }
        }
    }
}

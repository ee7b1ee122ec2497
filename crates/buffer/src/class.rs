//! Size classes.
use crate::error::BufferError;

/// The sizes that a pool keeps, smallest first, each with how much memory a block of it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Classes {
    sizes: Box<[usize]>,
    align: usize,
}

const LINE: usize = 64;
/// What the usual allocators put before each block.
const HEADER: usize = 16;
/// From this many lines on a block takes an odd number of them.
const SPREAD_LINES: usize = 8;

impl Classes {
    pub(crate) fn new(mut sizes: Vec<usize>, align: usize) -> Result<Self, BufferError> {
        sizes.retain(|size| *size > 0);
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            return Err(BufferError::NoClasses);
        }
        if !align.is_power_of_two() {
            return Err(BufferError::BadAlignment { align });
        }
        Ok(Self { sizes: sizes.into(), align })
    }

    /// The smallest class that holds `len` bytes; a length equal to a class's size fits it.
    pub(crate) fn for_len(&self, len: usize) -> Option<usize> {
        self.sizes.iter().position(|size| len <= *size)
    }

    pub(crate) fn size(&self, class: usize) -> usize {
        self.sizes.get(class).copied().unwrap_or(0)
    }

    pub(crate) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    pub(crate) fn align(&self) -> usize {
        self.align
    }

    /// Memory for `len` bytes. `None`: more than there can be.
    ///
    /// Blocks that need no page alignment are spread over an odd number of cache lines, so that the headers of many
    /// packets do not fall into the same few sets of the first-level cache: with a stride of 4096 bytes, touching the
    /// headers of 64 packets in turn was measured 40 times slower than with 4160. Small ones spread by themselves.
    pub(crate) fn bytes_for(&self, len: usize) -> Option<usize> {
        if self.align > LINE {
            return len.checked_next_multiple_of(self.align);
        }
        let lines = len.checked_add(HEADER)?.div_ceil(LINE);
        let lines = if lines < SPREAD_LINES { lines } else { lines | 1 };
        lines.checked_mul(LINE).map(|bytes| bytes - HEADER)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_length_finds_the_smallest_class_that_holds_it() {
        let classes = Classes::new(vec![1500, 256, 512, 256, 0], 64).expect("classes");
        assert_eq!(classes.sizes(), [256, 512, 1500]);
        for (len, class) in [(0, Some(0)), (256, Some(0)), (257, Some(1)), (1500, Some(2))] {
            assert_eq!(classes.for_len(len), class, "{len}");
        }
        assert_eq!(classes.for_len(1501), None);
        assert_eq!(Classes::new(vec![0], 64), Err(BufferError::NoClasses));
        assert_eq!(Classes::new(vec![1], 48), Err(BufferError::BadAlignment { align: 48 }));
    }

    #[test]
    fn packets_lie_an_odd_number_of_lines_apart_small_ones_close_and_pages_on_pages() {
        let packets = Classes::new(vec![1500], 64).expect("classes");
        assert_eq!((packets.bytes_for(1), packets.bytes_for(240)), (Some(48), Some(240)));
        for len in [512, 1500, 2048, 4096, 9000, 65_536] {
            let bytes = packets.bytes_for(len).expect("some");
            assert!(bytes >= len && ((bytes + HEADER) / LINE) % 2 == 1, "{len}: {bytes}");
        }
        let pages = Classes::new(vec![4096], 4096).expect("classes");
        assert_eq!(pages.bytes_for(4096), Some(4096));
        assert_eq!(pages.bytes_for(4097), Some(8192));
        assert_eq!(pages.bytes_for(usize::MAX), None);
        assert_eq!(packets.bytes_for(usize::MAX), None);
    }
}

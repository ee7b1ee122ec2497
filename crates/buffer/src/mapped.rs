//! Large memory straight from the system, on huge pages where it has them.
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::error::BufferError;

/// Which pages a [`MappedBuffer`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// The system's usual ones.
    #[default]
    No,
    /// Huge ones where the system finds some (`madvise(MADV_HUGEPAGE)`).
    Transparent,
    /// Reserved huge ones of 2 MiB (`MAP_HUGETLB`); transparent ones if none are reserved.
    Explicit,
}

/// What a [`MappedBuffer`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved huge pages.
    ExplicitHugePages,
    /// A mapping for which huge pages were asked for.
    TransparentHugePages,
    /// A plain mapping.
    Mapping,
    /// The heap: the system has no anonymous mappings, or refused one.
    Heap,
}

/// Zeroed memory outside the heap, for large buffers that live long.
///
/// Pages come into being where they are first touched: a buffer that one thread is to use is best made, or
/// [prefaulted](Self::prefault), on that thread, so that its pages lie near that processor (not on the
/// heap, whose pages are all written at once).
///
/// ```
/// use straightway_buffer::{HugePages, MappedBuffer};
///
/// let mut memory = MappedBuffer::new(8 << 20, HugePages::Transparent)?;
/// memory.prefault();
/// memory[..8].copy_from_slice(b"straight");
/// assert_eq!(memory.len(), 8 << 20);
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug)]
pub struct MappedBuffer {
    memory: Memory,
    backing: Backing,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    #[cfg(unix)]
    Mapped(memmap2::MmapMut),
    Heap(Vec<u8>),
}

/// A page of the smallest size in use: touching one byte in each touches every page.
const PAGE: usize = 4096;

impl MappedBuffer {
    /// `len` bytes of zeros on the best pages of the kind that the system gives, or on the heap.
    ///
    /// # Errors
    /// [`BufferError::OutOfMemory`].
    pub fn new(len: usize, pages: HugePages) -> Result<Self, BufferError> {
        if len == 0 {
            return Self::on_heap(len);
        }
        Self::mapped(len, pages).map_or_else(|| Self::on_heap(len), Ok)
    }

    fn on_heap(len: usize) -> Result<Self, BufferError> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(len).map_err(|_| BufferError::OutOfMemory { len })?;
        memory.resize(len, 0);
        Ok(Self { memory: Memory::Heap(memory), backing: Backing::Heap, len })
    }

    #[cfg(unix)]
    fn mapped(len: usize, pages: HugePages) -> Option<Self> {
        let map = |options: &memmap2::MmapOptions| options.map_anon().ok();
        let found = |map, backing| Some(Self { memory: Memory::Mapped(map), backing, len });
        #[cfg(target_os = "linux")]
        if pages == HugePages::Explicit {
            const HUGE_PAGE_BITS: u8 = 21;
            let rounded = len.checked_next_multiple_of(1 << HUGE_PAGE_BITS)?;
            let mut options = memmap2::MmapOptions::new();
            if let Some(memory) = map(options.len(rounded).huge(Some(HUGE_PAGE_BITS))) {
                return found(memory, Backing::ExplicitHugePages);
            }
        }
        let memory = map(memmap2::MmapOptions::new().len(len))?;
        #[cfg(target_os = "linux")]
        if pages != HugePages::No && memory.advise(memmap2::Advice::HugePage).is_ok() {
            return found(memory, Backing::TransparentHugePages);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        found(memory, Backing::Mapping)
    }

    #[cfg(not(unix))]
    fn mapped(_len: usize, _pages: HugePages) -> Option<Self> {
        None
    }

    /// What it lies on.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Touches every page on this thread, so that no later write waits for one. Contents stay.
    pub fn prefault(&mut self) {
        for page in self.chunks_mut(PAGE) {
            if let Some(first) = page.first_mut() {
                // Read and written back, or the compiler would see that nothing changes.
                *first = std::hint::black_box(*first);
            }
        }
    }

    /// Shares it without copying; it is unmapped when the last reader is gone.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for MappedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            #[cfg(unix)]
            Memory::Mapped(memory) => &memory[..self.len],
            Memory::Heap(memory) => memory,
        }
    }
}

impl DerefMut for MappedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            #[cfg(unix)]
            Memory::Mapped(memory) => &mut memory[..self.len],
            Memory::Heap(memory) => memory,
        }
    }
}

impl AsRef<[u8]> for MappedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_page_gives_zeroed_writable_memory() {
        for pages in [HugePages::No, HugePages::Transparent, HugePages::Explicit] {
            for len in [0, 1, 4097, 3 << 20] {
                let mut memory = MappedBuffer::new(len, pages).expect("memory");
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|byte| *byte == 0), "{pages:?} {len}");
                memory.prefault();
                memory.fill(7);
                let backing = memory.backing();
                assert_eq!(backing == Backing::Heap, len == 0 || cfg!(not(unix)), "{backing:?}");
                assert!(memory.freeze().iter().all(|byte| *byte == 7));
            }
        }
    }

    #[test]
    fn memory_that_does_not_exist_is_an_error() {
        let refused = MappedBuffer::new(usize::MAX / 2, HugePages::Explicit).err();
        assert_eq!(refused, Some(BufferError::OutOfMemory { len: usize::MAX / 2 }));
    }
}

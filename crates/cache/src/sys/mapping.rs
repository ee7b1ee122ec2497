//! One read-only mapping of the whole file for the life of the process: nothing is mapped or unmapped per request.
use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

/// The mapped file.
#[derive(Debug)]
pub(crate) struct Mapping(Mmap);

/// Part of a mapping, which it keeps mapped.
///
/// Whoever reads its bytes reads the file: another process that truncates the file makes such a read a SIGBUS. The
/// node's own paths hand it to system calls only, which fail with EFAULT instead.
#[derive(Debug, Clone)]
pub(crate) struct MappedSlice {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: `Mmap::map` asks that the file is not changed in a way that matters to those who hold a slice of the
        // map. This process changes only ranges that no pin holds (`segment/pin.rs`, proved by its loom model), and
        // the exclusive lock keeps other nodes away. That nobody truncates the file is the documented duty of the
        // operator; the node itself never reads through the map in user code.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Self(map))
    }

    /// Where a slice lies in the mapping, by its address.
    pub(crate) fn locate(&self, slice: &[u8]) -> Option<usize> {
        let start = self.0.as_ptr() as usize;
        let offset = (slice.as_ptr() as usize).checked_sub(start)?;
        (offset.checked_add(slice.len())? <= self.0.len()).then_some(offset)
    }

    pub(crate) fn slice(self: &Arc<Self>, start: usize, len: usize) -> Option<MappedSlice> {
        (start.checked_add(len)? <= self.0.len()).then(|| MappedSlice {
            mapping: self.clone(),
            start,
            len,
        })
    }
}

impl AsRef<[u8]> for MappedSlice {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.0[self.start..self.start + self.len]
    }
}

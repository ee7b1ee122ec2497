//! A slab: aligned memory, initialised once, owned by exactly one value.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;

/// Alignment of every slab: what O_DIRECT asks for on every device in use.
pub(crate) const ALIGN: usize = 4096;

/// Aligned memory.
///
/// Invariant: `memory` points to `layout.size()` initialised bytes allocated with `layout`, and no other value points
/// there.
#[derive(Debug)]
pub(crate) struct Slab {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a slab owns its memory alone (the invariant), and bytes have no thread affinity.
unsafe impl Send for Slab {}
// SAFETY: through `&Slab` the memory can only be read.
unsafe impl Sync for Slab {}

impl Slab {
    /// At least `len` bytes of zeros, rounded up to the alignment. `None`: there is no such memory.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let size = len.max(1).checked_next_multiple_of(ALIGN)?;
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the size is at least `ALIGN`, which is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        NonNull::new(memory).map(|memory| Self { memory, layout })
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant gives `len` initialised bytes; the shared borrow of `self` keeps writers out.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the invariant gives `len` initialised bytes; the exclusive borrow of `self` keeps others out.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr(), self.len()) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout (the invariant) and is not used again.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_writable_to_the_last_byte() {
        for len in [0, 1, 4095, 4096, 4097, 70_000] {
            let mut slab = Slab::zeroed(len).expect("memory");
            assert!(slab.len() >= len && slab.len().is_multiple_of(ALIGN));
            assert!((slab.bytes().as_ptr() as usize).is_multiple_of(ALIGN));
            assert!(slab.bytes().iter().all(|byte| *byte == 0));
            slab.bytes_mut().fill(0xa5);
            assert!(slab.bytes().iter().all(|byte| *byte == 0xa5));
        }
        assert!(Slab::zeroed(usize::MAX).is_none());
    }
}

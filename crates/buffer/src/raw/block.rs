//! A block: memory, and beside it (not in it, so that alignment is kept) the count of those who share it and the way
//! back to its pool.
//!
//! ```text
//! IdleBlock    nobody uses it; dropping it frees the memory
//!    │ lend            ▲ drop, by way of the pool
//!    ▼                 │
//! UniqueBlock  one owner, who may write
//!    │ share           ▲ the last one left: try_unique, or drop
//!    ▼                 │
//! SharedBlock  any number of owners, who may read
//! ```
//! The three are one pointer each, so that moving between the states costs nothing and no state can be mistaken.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use crate::pool::{Shared, give_back};
use crate::sync::{Arc, AtomicUsize, Ordering, Witness, fence};

/// What the three handles point to.
///
/// Invariants: `memory` points to `layout.size()` initialised bytes that were allocated with `layout`, and no other
/// record points there; `refs` is the number of handles to this record.
#[derive(Debug)]
#[repr(align(64))]
struct Record {
    refs: AtomicUsize,
    memory: NonNull<u8>,
    layout: Layout,
    capacity: usize,
    class: usize,
    pool: Option<Arc<Shared>>,
    witness: Witness,
}

/// A block in a pool.
#[derive(Debug)]
pub(crate) struct IdleBlock(NonNull<Record>);

/// A block with one owner.
#[derive(Debug)]
pub(crate) struct UniqueBlock(NonNull<Record>);

/// A block with any number of owners.
#[derive(Debug)]
pub(crate) struct SharedBlock(NonNull<Record>);

/// A size that no class has: such blocks are not kept.
pub(crate) const NO_CLASS: usize = usize::MAX;

// SAFETY: a handle gives what its state allows to whoever holds it, and bytes, counts and `Shared` have no thread affinity.
unsafe impl Send for IdleBlock {}
// SAFETY: through `&IdleBlock` only the immutable fields can be read.
unsafe impl Sync for IdleBlock {}
// SAFETY: as for `IdleBlock`; its only owner moves with it.
unsafe impl Send for UniqueBlock {}
// SAFETY: through `&UniqueBlock` the memory can only be read.
unsafe impl Sync for UniqueBlock {}
// SAFETY: a shared block is only read, and its count is atomic.
unsafe impl Send for SharedBlock {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedBlock {}

fn record(pointer: &NonNull<Record>) -> &Record {
    // SAFETY: a handle keeps its record alive, and records are only ever borrowed shared, except to be freed by the
    // last handle. The lifetime is that of the borrowed handle.
    unsafe { pointer.as_ref() }
}

impl IdleBlock {
    /// Zeros of `bytes`, of which `capacity` count. `None`: there is no such memory.
    pub(crate) fn allocate(
        bytes: usize,
        align: usize,
        capacity: usize,
        class: usize,
        pool: Arc<Shared>,
    ) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), align).ok()?;
        // SAFETY: the size is at least one byte.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self::of(memory, layout, capacity, class, Some(pool)))
    }

    fn of(
        memory: NonNull<u8>,
        layout: Layout,
        capacity: usize,
        class: usize,
        pool: Option<Arc<Shared>>,
    ) -> Self {
        let refs = AtomicUsize::new(1);
        let record =
            Record { refs, memory, layout, capacity, class, pool, witness: Witness::default() };
        Self(NonNull::from(Box::leak(Box::new(record))))
    }

    pub(crate) fn lend(self) -> UniqueBlock {
        UniqueBlock(ManuallyDrop::new(self).0)
    }

    pub(crate) fn class(&self) -> usize {
        record(&self.0).class
    }

    /// What tells it from every other block that exists.
    #[cfg(all(debug_assertions, not(loom)))]
    pub(crate) fn id(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Bytes of memory behind it.
    pub(crate) fn bytes(&self) -> usize {
        record(&self.0).layout.size()
    }

    pub(crate) fn pool(&self) -> Option<&Arc<Shared>> {
        record(&self.0).pool.as_ref()
    }

    /// Overwrites the memory with zeros, in a way that the compiler does not leave out.
    pub(crate) fn wipe(&mut self) {
        let record = record(&self.0);
        record.witness.write();
        // SAFETY: the record's invariant gives that many initialised bytes; an idle block has no other user.
        let bytes =
            unsafe { slice::from_raw_parts_mut(record.memory.as_ptr(), record.layout.size()) };
        zeroize::Zeroize::zeroize(bytes);
    }
}

impl Drop for IdleBlock {
    fn drop(&mut self) {
        // SAFETY: the pointer came out of `Box::leak`, and an idle block's handle is the only one.
        let record = unsafe { Box::from_raw(self.0.as_ptr()) };
        record.witness.write();
        // SAFETY: allocated with this layout (the record's invariant), and not used again.
        unsafe { dealloc(record.memory.as_ptr(), record.layout) }
    }
}

impl UniqueBlock {
    /// Takes over a vector's memory, without copying it.
    pub(crate) fn from_vec(vec: Vec<u8>) -> Option<Self> {
        let layout = Layout::array::<u8>(vec.capacity()).ok().filter(|layout| layout.size() > 0)?;
        let mut vec = ManuallyDrop::new(vec);
        // The record's bytes are all initialised, a vector's are only up to its length.
        let len = vec.len();
        let memory = NonNull::new(vec.as_mut_ptr())?;
        Some(IdleBlock::of(memory, layout, len, NO_CLASS, None).lend())
    }

    pub(crate) fn capacity(&self) -> usize {
        record(&self.0).capacity
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytes(record(&self.0))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let record = record(&self.0);
        record.witness.write();
        // SAFETY: the record's invariant gives that many initialised bytes; there is one handle, which is borrowed
        // exclusively.
        unsafe { slice::from_raw_parts_mut(record.memory.as_ptr(), record.capacity) }
    }

    pub(crate) fn share(self) -> SharedBlock {
        SharedBlock(ManuallyDrop::new(self).0)
    }
}

impl Drop for UniqueBlock {
    fn drop(&mut self) {
        give_back(IdleBlock(self.0));
    }
}

impl SharedBlock {
    pub(crate) fn bytes(&self) -> &[u8] {
        bytes(record(&self.0))
    }

    /// Whether this is the only handle; nobody else can multiply it unless they hold this very one.
    pub(crate) fn is_unique(&self) -> bool {
        // Acquire: what the others did before they let go is over.
        record(&self.0).refs.load(Ordering::Acquire) == 1
    }

    pub(crate) fn try_unique(self) -> Result<UniqueBlock, Self> {
        if self.is_unique() { Ok(UniqueBlock(ManuallyDrop::new(self).0)) } else { Err(self) }
    }
}

impl Clone for SharedBlock {
    fn clone(&self) -> Self {
        // Relaxed, as in `Arc`: a new handle is made from one that exists.
        let before = record(&self.0).refs.fetch_add(1, Ordering::Relaxed);
        // A count that overflowed would free memory in use. It takes 2^63 forgotten clones.
        if before > usize::MAX / 2 {
            std::process::abort();
        }
        Self(self.0)
    }
}

impl Drop for SharedBlock {
    fn drop(&mut self) {
        // Release: what this handle read is over before the last one goes on ...
        if record(&self.0).refs.fetch_sub(1, Ordering::Release) == 1 {
            // ... and Acquire: the last one sees that of all.
            fence(Ordering::Acquire);
            // One handle again: the count stays one while the block is idle or lent.
            record(&self.0).refs.store(1, Ordering::Relaxed);
            drop(UniqueBlock(self.0));
        }
    }
}

fn bytes(record: &Record) -> &[u8] {
    record.witness.read();
    // SAFETY: the record's invariant gives that many initialised bytes. While this borrow lasts its handle is borrowed,
    // and nobody writes: a unique block would have to be borrowed exclusively, a shared one is never written.
    unsafe { slice::from_raw_parts(record.memory.as_ptr(), record.capacity) }
}

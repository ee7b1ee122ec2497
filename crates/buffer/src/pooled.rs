//! A buffer in use: unique and writable, until it is frozen and shared. Either way it goes back to its pool by itself.
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::copy::{Reason, copy_counted};
use crate::error::BufferError;
use crate::pool::Shared;
use crate::raw::slab::Slab;
use crate::sync::Arc;

/// A unique, writable buffer; returns to its pool when dropped. Dereferences to the bytes filled so far.
#[derive(Debug)]
pub struct PooledBuffer {
    /// Always there, except while it is being dropped.
    slab: Option<Slab>,
    pool: Arc<Shared>,
    len: usize,
}

impl PooledBuffer {
    pub(crate) fn new(slab: Slab, pool: Arc<Shared>) -> Self {
        Self { slab: Some(slab), pool, len: 0 }
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.slab.as_ref().map_or(0, Slab::len)
    }

    /// Bytes that it can still take.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Sets how many bytes count as filled. The memory is always initialised: a buffer that was used before shows what
    /// was in it.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`].
    pub fn set_len(&mut self, len: usize) -> Result<(), BufferError> {
        if len > self.capacity() {
            return Err(BufferError::BeyondCapacity { len, capacity: self.capacity() });
        }
        self.len = len;
        Ok(())
    }

    /// Makes it empty again.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The whole memory, filled or not.
    pub fn as_mut_capacity(&mut self) -> &mut [u8] {
        self.slab.as_mut().map(Slab::bytes_mut).unwrap_or_default()
    }

    /// Appends as much of `src` as fits, counting the copy; answers with the number of bytes taken.
    pub fn fill_from(&mut self, src: &[u8], reason: Reason) -> usize {
        let start = self.len;
        let taken = copy_counted(&mut self.as_mut_capacity()[start..], src, reason);
        self.len += taken;
        taken
    }

    /// Shares the filled bytes without copying them. One small allocation (the owner that [`Bytes`] boxes); the buffer
    /// goes back to its pool when the last clone or slice is dropped, on whichever thread that is.
    pub fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.slab.as_ref().map(|slab| &slab.bytes()[..self.len]).unwrap_or_default()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.as_mut_capacity()[..len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(slab) = self.slab.take() {
            self.pool.take_back(slab);
        }
    }
}

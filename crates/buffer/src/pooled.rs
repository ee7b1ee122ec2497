//! A buffer in use: unique and writable, until it is shared. Either way it goes back to its pool by itself.
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::copy::{Reason, copy_counted};
use crate::error::BufferError;
use crate::raw::block::UniqueBlock;
use crate::shared::SharedPacket;

/// A unique, writable buffer; returns to its pool when dropped, on whichever thread that is. Dereferences to the bytes
/// filled so far.
///
/// Room can be left in front, for headers that are known later:
/// ```
/// use straightway_buffer::{BufferPool, PoolConfig, Reason};
///
/// let pool = BufferPool::new(PoolConfig::packets())?;
/// let mut packet = pool.acquire(100)?;
/// packet.set_headroom(16)?;
/// packet.fill_from(b"payload", Reason::Ingest);
/// packet.prepend(4)?.copy_from_slice(b"head");
/// assert_eq!(&packet[..], b"headpayload");
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
// In this order, in which it is both written and moved as one pair of words and one word: a processor that is to read a pair
// of which one word was just written waits for the write, about as long as all of `acquire` takes.
#[derive(Debug)]
#[repr(C)]
pub struct PooledBuffer {
    start: usize,
    len: usize,
    block: UniqueBlock,
}

impl PooledBuffer {
    pub(crate) fn new(block: UniqueBlock) -> Self {
        Self { start: 0, len: 0, block }
    }

    pub(crate) fn from_parts(block: UniqueBlock, start: usize, len: usize) -> Self {
        Self { start, len, block }
    }

    /// Bytes that it can hold, headroom aside.
    pub fn capacity(&self) -> usize {
        self.block.capacity() - self.start
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

    /// Makes it empty again, without headroom.
    pub fn clear(&mut self) {
        (self.start, self.len) = (0, 0);
    }

    /// Empties it and leaves that many bytes free in front.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`].
    pub fn set_headroom(&mut self, headroom: usize) -> Result<(), BufferError> {
        let capacity = self.block.capacity();
        if headroom > capacity {
            return Err(BufferError::BeyondCapacity { len: headroom, capacity });
        }
        (self.start, self.len) = (headroom, 0);
        Ok(())
    }

    /// Makes the headroom's last `len` bytes the buffer's first, to be written.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`] when the headroom is smaller.
    pub fn prepend(&mut self, len: usize) -> Result<&mut [u8], BufferError> {
        let beyond = BufferError::BeyondCapacity { len, capacity: self.start };
        self.start = self.start.checked_sub(len).ok_or(beyond)?;
        self.len += len;
        Ok(&mut self[..len])
    }

    /// The whole memory behind the headroom, filled or not.
    pub fn as_mut_capacity(&mut self) -> &mut [u8] {
        let start = self.start;
        &mut self.block.bytes_mut()[start..]
    }

    /// Appends as much of `src` as fits, counting the copy; answers with the number of bytes taken.
    pub fn fill_from(&mut self, src: &[u8], reason: Reason) -> usize {
        let start = self.len;
        let taken = copy_counted(&mut self.as_mut_capacity()[start..], src, reason);
        self.len += taken;
        taken
    }

    /// Shares the filled bytes without copying or allocating.
    pub fn share(self) -> SharedPacket {
        SharedPacket::new(self.block.share(), self.start, self.len)
    }

    /// Shares the filled bytes as [`Bytes`], without copying them. One small allocation (the owner that [`Bytes`]
    /// boxes); the buffer goes back to its pool when the last clone or slice is dropped.
    pub fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.bytes()[self.start..self.start + self.len]
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

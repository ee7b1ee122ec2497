//! A cursor over a pooled buffer: one position to write at, one to read from.
use std::io;

use bytes::Bytes;

use crate::copy::{Reason, copy_counted};
use crate::error::BufferError;
use crate::pooled::PooledBuffer;
use crate::shared::SharedPacket;

/// A buffer of an exact size that is written from its start and read behind.
///
/// Reading never passes what was written, a write that does not fit whole says how much it took, and copies are counted
/// under [`Reason::Cursor`]. [`Self::read_slice`] reads without copying.
///
/// ```
/// use straightway_buffer::MemoryPool;
///
/// let pool = MemoryPool::new(64 * 1024);
/// let mut buffer = pool.allocate(8)?;
/// assert_eq!(buffer.write(b"straightway"), 8, "as much as fits");
/// assert_eq!((buffer.len(), buffer.remaining()), (8, 0));
/// let mut word = [0; 5];
/// assert_eq!(buffer.read(&mut word), 5);
/// assert_eq!((&word, buffer.read_slice(10)), (b"strai", &b"ght"[..]));
/// buffer.seek(2)?;
/// assert_eq!(buffer.read_slice(3), b"rai");
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug)]
pub struct ZeroCopyBuffer {
    buffer: PooledBuffer,
    /// Bytes that it may hold: the buffer behind it may be larger.
    size: usize,
    read_at: usize,
}

impl ZeroCopyBuffer {
    /// A cursor over an empty buffer, which may use all of its capacity.
    pub fn new(mut buffer: PooledBuffer) -> Self {
        buffer.clear();
        let size = buffer.capacity();
        Self { buffer, size, read_at: 0 }
    }

    pub(crate) fn exactly(buffer: PooledBuffer, size: usize) -> Self {
        Self { size, ..Self::new(buffer) }
    }

    /// Appends as much as fits; answers with the number of bytes taken.
    #[must_use = "what did not fit was not written"]
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let fitting = &bytes[..bytes.len().min(self.remaining())];
        self.buffer.fill_from(fitting, Reason::Cursor)
    }

    /// Appends everything, or nothing.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`].
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), BufferError> {
        if bytes.len() > self.remaining() {
            let len = self.len().saturating_add(bytes.len());
            return Err(BufferError::BeyondCapacity { len, capacity: self.size });
        }
        self.buffer.fill_from(bytes, Reason::Cursor);
        Ok(())
    }

    /// Reads into `into`; answers with the number of bytes, 0 when everything was read.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let read = copy_counted(into, &self.buffer[self.read_at..], Reason::Cursor);
        self.read_at += read;
        read
    }

    /// Reads up to `len` bytes where they are.
    pub fn read_slice(&mut self, len: usize) -> &[u8] {
        let start = self.read_at;
        self.read_at += len.min(self.unread());
        &self.buffer[start..self.read_at]
    }

    /// Goes on reading at a position, counted from the start.
    ///
    /// # Errors
    /// [`BufferError::BeyondWritten`].
    pub fn seek(&mut self, position: usize) -> Result<(), BufferError> {
        let len = self.len();
        if position > len {
            return Err(BufferError::BeyondWritten { position, len });
        }
        self.read_at = position;
        Ok(())
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that can still be written.
    pub fn remaining(&self) -> usize {
        self.size - self.buffer.len()
    }

    /// Bytes written and not yet read.
    pub fn unread(&self) -> usize {
        self.buffer.len() - self.read_at
    }

    /// Everything that was written.
    pub fn written(&self) -> &[u8] {
        &self.buffer
    }

    /// Shares everything that was written, without copying or allocating.
    pub fn share(self) -> SharedPacket {
        self.buffer.share()
    }

    /// As [`PooledBuffer::freeze`].
    pub fn freeze(self) -> Bytes {
        self.buffer.freeze()
    }
}

impl io::Write for ZeroCopyBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(Self::write(self, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for ZeroCopyBuffer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(Self::read(self, into))
    }
}

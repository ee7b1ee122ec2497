//! A packet with any number of readers.
use std::ops::{Bound, Deref, RangeBounds};

use bytes::Bytes;

use crate::pooled::PooledBuffer;
use crate::raw::block::{SharedBlock, UniqueBlock};

/// Bytes shared by reference. The count lies in the buffer's own record: cloning, slicing and dropping allocate nothing,
/// and the buffer goes back to its pool when the last reader is gone, on whichever thread that is.
///
/// ```
/// use straightway_buffer::{BufferPool, PoolConfig, Reason};
///
/// let pool = BufferPool::new(PoolConfig::packets())?;
/// let mut buffer = pool.acquire(64)?;
/// buffer.fill_from(b"header|payload", Reason::Ingest);
/// let packet = buffer.share();
/// let (header, payload) = (packet.slice(..6), packet.slice(7..));
/// drop(packet);
/// assert_eq!((&header[..], &payload[..]), (&b"header"[..], &b"payload"[..]));
/// drop(header);
/// let mut unique = payload.try_into_mut().expect("the last reader");
/// unique[0] = b'P';
/// assert_eq!(&unique[..], b"Payload");
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Clone, Default)]
pub struct SharedPacket {
    /// `None`: empty, without memory.
    block: Option<SharedBlock>,
    start: usize,
    len: usize,
}

impl SharedPacket {
    pub(crate) fn new(block: SharedBlock, start: usize, len: usize) -> Self {
        Self { block: Some(block), start, len }
    }

    /// A part of it, which shares the same memory.
    ///
    /// # Panics
    /// When the range ends before it starts or beyond the packet; [`Self::get`] does not.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        match self.get(bounds) {
            Some(slice) => slice,
            None => panic!("the range {bounds:?} is not within a packet of {} bytes", self.len),
        }
    }

    /// A part of it, which shares the same memory. `None`: the range is not within it.
    pub fn get(&self, range: impl RangeBounds<usize>) -> Option<Self> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.checked_add(1)?,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len,
        };
        let len = end.checked_sub(start).filter(|_| end <= self.len)?;
        Some(Self { block: self.block.clone(), start: self.start + start, len })
    }

    /// Whether this is the only reader of the memory.
    pub fn is_unique(&self) -> bool {
        self.block.as_ref().is_none_or(SharedBlock::is_unique)
    }

    /// The buffer, writable again, if this is its only reader; the bytes before and behind the slice become headroom
    /// and free space.
    ///
    /// # Errors
    /// The packet itself, when it is shared, or has no memory.
    pub fn try_into_mut(mut self) -> Result<PooledBuffer, Self> {
        let Some(block) = self.block.take() else { return Err(self) };
        match block.try_unique() {
            Ok(block) => Ok(PooledBuffer::from_parts(block, self.start, self.len)),
            Err(block) => {
                self.block = Some(block);
                Err(self)
            }
        }
    }

    /// The same bytes as [`Bytes`], for those who ask for that type: nothing is copied; one small allocation, the owner
    /// that [`Bytes`] boxes.
    pub fn into_bytes(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

/// Takes over the vector's memory: one small allocation for the count, nothing copied.
impl From<Vec<u8>> for SharedPacket {
    fn from(vec: Vec<u8>) -> Self {
        let len = vec.len();
        UniqueBlock::from_vec(vec)
            .map_or_else(Self::default, |block| Self::new(block.share(), 0, len))
    }
}

impl From<SharedPacket> for Bytes {
    fn from(packet: SharedPacket) -> Self {
        packet.into_bytes()
    }
}

impl From<PooledBuffer> for SharedPacket {
    fn from(buffer: PooledBuffer) -> Self {
        buffer.share()
    }
}

impl Deref for SharedPacket {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.block.as_ref().map(SharedBlock::bytes).unwrap_or_default();
        &bytes[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for SharedPacket {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SharedPacket {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for SharedPacket {}

impl std::fmt::Debug for SharedPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPacket").field("len", &self.len).finish_non_exhaustive()
    }
}

//! Many packets in one buffer.
use crate::error::BufferError;
use crate::pooled::PooledBuffer;
use crate::shared::SharedPacket;

/// Packets built one after the other in a single buffer, and shared together: one buffer taken for a whole batch.
///
/// ```
/// use straightway_buffer::{Arena, BufferPool, PoolConfig};
///
/// let pool = BufferPool::new(PoolConfig::packets())?;
/// let mut arena = Arena::new(pool.acquire(64 * 1024)?);
/// for n in 0..32u8 {
///     arena.reserve(1400)?.fill(n);
/// }
/// let batch = arena.finish();
/// let third = batch.get(2).expect("there");
/// assert_eq!((batch.len(), third.len(), third[0]), (32, 1400, 2));
/// drop(third);
/// let again = batch.recycle().expect("nobody holds a packet any more");
/// assert_eq!(again.remaining(), 64 * 1024);
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    buffer: PooledBuffer,
    /// Where each packet ends.
    ends: Vec<usize>,
}

impl Arena {
    /// An empty arena in a buffer.
    pub fn new(mut buffer: PooledBuffer) -> Self {
        buffer.clear();
        Self { buffer, ends: Vec::new() }
    }

    /// Room for the next packet, to be filled in whole: its bytes are whatever they were.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`]: the arena is full; finish it.
    pub fn reserve(&mut self, len: usize) -> Result<&mut [u8], BufferError> {
        let start = self.buffer.len();
        let capacity = self.buffer.capacity();
        let end = start.checked_add(len).ok_or(BufferError::BeyondCapacity { len, capacity })?;
        self.check_count(len)?;
        self.buffer.set_len(end)?;
        self.ends.push(end);
        Ok(&mut self.buffer[start..])
    }

    /// Lets `build` write the next packet into all the room that is left and say how long it is.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`] when it says more than there was room for, or the error of `build`; the arena is
    /// as before then.
    pub fn push_with<E: From<BufferError>>(
        &mut self,
        build: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.buffer.len();
        let len = build(&mut self.buffer.as_mut_capacity()[start..])?;
        self.check_count(len)?;
        self.buffer.set_len(start.saturating_add(len))?;
        self.ends.push(start + len);
        Ok(())
    }

    /// Empty packets take no bytes, and are bounded all the same.
    fn check_count(&self, len: usize) -> Result<(), BufferError> {
        let capacity = self.buffer.capacity();
        if self.ends.len() < capacity {
            Ok(())
        } else {
            Err(BufferError::BeyondCapacity { len, capacity })
        }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.buffer.remaining()
    }

    /// Shares what was built.
    pub fn finish(self) -> ArenaBatch {
        ArenaBatch { memory: self.buffer.share(), ends: self.ends }
    }
}

/// The packets of an [`Arena`], to be shared.
#[derive(Debug)]
pub struct ArenaBatch {
    memory: SharedPacket,
    ends: Vec<usize>,
}

impl ArenaBatch {
    /// A packet; it shares the arena's memory.
    pub fn get(&self, n: usize) -> Option<SharedPacket> {
        let start = n.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.memory.get(start..*self.ends.get(n)?)
    }

    /// All packets in order.
    pub fn iter(&self) -> impl Iterator<Item = SharedPacket> {
        (0..self.ends.len()).filter_map(|n| self.get(n))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The arena again, empty, if no packet of it is in use any more.
    ///
    /// # Errors
    /// The batch itself otherwise.
    pub fn recycle(self) -> Result<Arena, Self> {
        let Self { memory, mut ends } = self;
        match memory.try_into_mut() {
            Ok(mut buffer) => {
                buffer.clear();
                ends.clear();
                Ok(Arena { buffer, ends })
            }
            Err(memory) => Err(Self { memory, ends }),
        }
    }
}

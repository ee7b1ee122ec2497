//! Small packets on the stack.
use std::ops::{Deref, DerefMut};

use crate::error::BufferError;

/// Up to `N` bytes (256 unless told) without any allocation.
///
/// ```
/// use straightway_buffer::StackBuffer;
///
/// let mut packet = StackBuffer::<64>::new();
/// packet.extend_from(b"heartbeat")?;
/// assert_eq!(&packet[..], b"heartbeat");
/// assert!(packet.extend_from(&[0; 60]).is_err(), "it does not fit, and nothing was written");
/// # Ok::<(), straightway_buffer::BufferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct StackBuffer<const N: usize = 256> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> StackBuffer<N> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Appends everything, or nothing.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`].
    pub fn extend_from(&mut self, bytes: &[u8]) -> Result<(), BufferError> {
        let beyond =
            BufferError::BeyondCapacity { len: self.len.saturating_add(bytes.len()), capacity: N };
        let end = self.len.checked_add(bytes.len()).ok_or(beyond)?;
        self.bytes.get_mut(self.len..end).ok_or(beyond)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Lets `fill` write into the free part and say how much it wrote.
    ///
    /// # Errors
    /// [`BufferError::BeyondCapacity`] when it says more than there was room for, or the error of `fill`.
    pub fn fill_with<E: From<BufferError>>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let room = &mut self.bytes[self.len..];
        let capacity = room.len();
        let len = fill(room)?;
        if len > capacity {
            return Err(BufferError::BeyondCapacity { len, capacity }.into());
        }
        self.len += len;
        Ok(len)
    }

    /// Makes it empty again.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<const N: usize> Default for StackBuffer<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deref for StackBuffer<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const N: usize> DerefMut for StackBuffer<N> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl<const N: usize> AsRef<[u8]> for StackBuffer<N> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

//! What every encoding can do.
use straightway_buffer::{BufferPool, PooledBuffer};

use crate::error::CodecError;

/// Bytes that a first try gets when nobody knows better.
const FIRST_TRY_BYTES: usize = 512;
/// No message is larger.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Turns values into bytes and back.
pub trait Codec<T> {
    /// What [`Self::access`] gives: a reference into the bytes where the encoding allows it.
    type View<'a>
    where
        Self: 'a,
        T: 'a;

    /// The media type of the bytes.
    fn content_type(&self) -> &'static str;

    /// Appends the encoded value to a buffer; answers with the number of bytes.
    ///
    /// # Errors
    /// [`CodecError::Full`] when it does not fit; the buffer is then as it was.
    fn encode_into(&self, value: &T, into: &mut PooledBuffer) -> Result<usize, CodecError>;

    /// The value, rebuilt.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;

    /// The value as far as it can be read where it is; validated.
    fn access<'a>(&'a self, bytes: &'a [u8]) -> Result<Self::View<'a>, CodecError>
    where
        T: 'a;

    /// Encodes into a buffer of the pool, a larger one if the first is too small.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] beyond 16 MiB, [`CodecError::Buffer`].
    fn encode(&self, value: &T, pool: &BufferPool) -> Result<PooledBuffer, CodecError> {
        with_room(pool, FIRST_TRY_BYTES, 0, |buffer| self.encode_into(value, buffer).map(drop))
    }
}

/// Writes into a buffer with `headroom` in front; begins again in a larger one when it is full.
pub(crate) fn with_room(
    pool: &BufferPool,
    hint: usize,
    headroom: usize,
    mut write: impl FnMut(&mut PooledBuffer) -> Result<(), CodecError>,
) -> Result<PooledBuffer, CodecError> {
    let mut len = hint.clamp(64, MAX_MESSAGE_BYTES) + headroom;
    loop {
        let mut buffer = pool.acquire(len)?;
        buffer.set_headroom(headroom)?;
        match write(&mut buffer) {
            Err(CodecError::Full { .. }) if len < MAX_MESSAGE_BYTES => {
                len = (buffer.capacity() + headroom).saturating_mul(4).min(MAX_MESSAGE_BYTES);
            }
            Err(CodecError::Full { .. }) => {
                return Err(CodecError::TooLarge { limit: MAX_MESSAGE_BYTES });
            }
            Err(error) => return Err(error),
            Ok(()) if buffer.len() > MAX_MESSAGE_BYTES => {
                return Err(CodecError::TooLarge { limit: MAX_MESSAGE_BYTES });
            }
            Ok(()) => return Ok(buffer),
        }
    }
}

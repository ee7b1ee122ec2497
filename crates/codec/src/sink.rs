//! The pooled buffer as a place that serialisers write to.
use std::io;

use rkyv::rancor::{Source, fail};
use rkyv::ser::{Positional, Writer};
use straightway_buffer::PooledBuffer;

use crate::error::CodecError;

/// Appends to a buffer; positions count from where it was made.
///
/// What is written is produced there and not copied from another buffer, so that it is not counted as copied.
#[derive(Debug)]
pub struct Sink<'a> {
    /// The buffer's memory behind what was in it.
    room: &'a mut [u8],
    at: usize,
    full: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the buffer is full")]
struct Full;

/// Lets `write` append to a buffer; answers with the number of bytes, and what it said. The buffer is as it was unless
/// all went well.
///
/// # Errors
/// [`CodecError::Full`].
pub(crate) fn append<T, E>(
    into: &mut PooledBuffer,
    write: impl FnOnce(&mut Sink<'_>) -> Result<T, E>,
) -> Result<(usize, Result<T, E>), CodecError> {
    let start = into.len();
    let mut sink = Sink { room: &mut into.as_mut_capacity()[start..], at: 0, full: false };
    let outcome = write(&mut sink);
    let Sink { at, full, .. } = sink;
    if full {
        return Err(CodecError::Full { capacity: into.capacity() });
    }
    if outcome.is_ok() {
        into.set_len(start + at)?;
    }
    Ok((at, outcome))
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.at + bytes.len();
        match self.room.get_mut(self.at..end) {
            Some(room) if !self.full => {
                room.copy_from_slice(bytes);
                self.at = end;
                true
            }
            _ => {
                self.full = true;
                false
            }
        }
    }
}

impl Positional for Sink<'_> {
    fn pos(&self) -> usize {
        self.at
    }
}

impl<E: Source> Writer<E> for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        if !self.put(bytes) {
            fail!(Full);
        }
        Ok(())
    }
}

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.put(bytes) { Ok(bytes.len()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

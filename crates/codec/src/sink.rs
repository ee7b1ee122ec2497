//! The pooled buffer as a place that serialisers write to.
use std::io;

use rkyv::rancor::{Source, fail};
use rkyv::ser::{Positional, Writer};
use straightway_buffer::PooledBuffer;

/// Appends to a buffer; positions count from where it was made.
///
/// What is written is produced there and not copied from another buffer, so that it is not counted as copied.
#[derive(Debug)]
pub struct Sink<'a> {
    buffer: &'a mut PooledBuffer,
    base: usize,
    full: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the buffer is full")]
struct Full;

impl<'a> Sink<'a> {
    pub(crate) fn new(buffer: &'a mut PooledBuffer) -> Self {
        let base = buffer.len();
        Self { buffer, base, full: false }
    }

    /// Whether something did not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        let start = self.buffer.len();
        let end = start + bytes.len();
        self.full |= self.buffer.set_len(end).is_err();
        if !self.full {
            self.buffer[start..end].copy_from_slice(bytes);
        }
        !self.full
    }
}

impl Positional for Sink<'_> {
    fn pos(&self) -> usize {
        self.buffer.len() - self.base
    }
}

impl<E: Source> Writer<E> for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        if !self.append(bytes) {
            fail!(Full);
        }
        Ok(())
    }
}

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.append(bytes) { Ok(bytes.len()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Where bytes are kept.
use std::io::{self, IoSlice};

pub(crate) mod file;
mod send;

pub(crate) use crate::sys::mapping::MappedSlice;
pub(crate) use file::CacheFile;

/// A fixed number of bytes that survive the process. Calls block; short reads and writes are errors.
pub(crate) trait Device: Send + Sync + 'static {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// Reads through the page cache.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes past the page cache where the system grants that. Address, length and offset are multiples of 4096.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// As [`Self::write_at`], from several buffers of which each is a multiple of 4096.
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        for buffer in buffers {
            self.write_at(buffer, offset)?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    /// Returns once everything written is on the medium.
    fn sync(&self) -> io::Result<()>;

    /// The file behind it, if it is one.
    fn file(&self) -> Option<&CacheFile> {
        None
    }
}

//! A device in memory: for tests of everything above it, and for faults that no disk produces on demand.
#![cfg_attr(not(test), allow(dead_code, reason = "fakes stand beside the trait they fake"))]
use std::io;

use parking_lot::Mutex;

use crate::device::Device;

/// Bytes in memory.
#[derive(Debug)]
pub(crate) struct MemoryDevice {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryDevice {
    pub(crate) fn new(size: usize) -> Self {
        Self { bytes: Mutex::new(vec![0; size]) }
    }

    fn range(offset: u64, len: usize, size: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(len).filter(|end| *end <= size).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(start..end)
    }
}

impl Device for MemoryDevice {
    fn len(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes.lock();
        let range = Self::range(offset, buffer.len(), bytes.len())?;
        buffer.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock();
        let range = Self::range(offset, buffer.len(), bytes.len())?;
        bytes[range].copy_from_slice(buffer);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

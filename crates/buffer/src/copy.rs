//! The one function that copies on a data path, and the counters that make "zero copy" a number.
use std::sync::atomic::{AtomicU64, Ordering};

/// Why bytes were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A body into the aligned buffer that goes to the device.
    Ingest,
    /// A small object out of the file.
    SmallRead,
    /// Checksums behind a body.
    Checksums,
    /// An object to another place on the device.
    Relocate,
    /// An object into memory that encryption may read.
    Encrypt,
    /// Into or out of a buffer through a cursor.
    Cursor,
    /// Short messages one behind the other, once for all who read them.
    Gather,
}

const REASONS: usize = 7;
static COPIED: [AtomicU64; REASONS] = [const { AtomicU64::new(0) }; REASONS];

/// Bytes copied in this process since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyStats {
    /// By [`Reason::Ingest`].
    pub ingest: u64,
    /// By [`Reason::SmallRead`].
    pub small_read: u64,
    /// By [`Reason::Checksums`].
    pub checksums: u64,
    /// By [`Reason::Relocate`].
    pub relocate: u64,
    /// By [`Reason::Encrypt`].
    pub encrypt: u64,
    /// By [`Reason::Cursor`].
    pub cursor: u64,
    /// By [`Reason::Gather`].
    pub gather: u64,
}

/// Copies as much of `src` as `dst` has room for, counts it, and answers with the number of bytes.
///
/// ```
/// # use straightway_buffer::{Reason, copied, copy_counted};
/// let before = copied().ingest;
/// let mut room = [0; 4];
/// assert_eq!(copy_counted(&mut room, b"straight", Reason::Ingest), 4);
/// assert_eq!(copied().ingest - before, 4);
/// ```
pub fn copy_counted(dst: &mut [u8], src: &[u8], reason: Reason) -> usize {
    let len = dst.len().min(src.len());
    dst[..len].copy_from_slice(&src[..len]);
    count_copied(len, reason);
    len
}

/// Counts bytes that a system call copied into user space on our behalf.
pub fn count_copied(len: usize, reason: Reason) {
    COPIED[reason as usize].fetch_add(len as u64, Ordering::Relaxed);
}

/// What was copied so far.
pub fn copied() -> CopyStats {
    let read = |reason: Reason| COPIED[reason as usize].load(Ordering::Relaxed);
    CopyStats {
        ingest: read(Reason::Ingest),
        small_read: read(Reason::SmallRead),
        checksums: read(Reason::Checksums),
        relocate: read(Reason::Relocate),
        encrypt: read(Reason::Encrypt),
        cursor: read(Reason::Cursor),
        gather: read(Reason::Gather),
    }
}

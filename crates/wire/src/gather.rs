//! Bytes that arrive in pieces, copied together once.
use bytes::buf::Limit;
use bytes::{BufMut, Bytes};
use straightway_buffer::{Reason, count_copied};

use crate::limits::CHUNK_BYTES;

/// A message of at most two chunks is allocated at once: one that is a little longer than a chunk is not moved.
const WHOLE_BYTES: usize = 2 * CHUNK_BYTES;
/// Room for the first bytes, if none has arrived that is to be copied.
const FIRST_BYTES: usize = 4 << 10;
/// How much more than what has arrived may be allocated, beyond the first [`CHUNK_BYTES`]. Twice would commit less, and
/// move the bytes more often.
const GROWTH: usize = 4;

/// A buffer of exactly the announced length once all is there, and never much larger than what has arrived. It is not
/// from a pool: entries of the log are slices of it and live for long.
#[derive(Debug)]
pub(crate) struct Gather {
    bytes: Vec<u8>,
    total: usize,
    copied: u64,
}

impl Gather {
    /// For `total` bytes, of which none is allocated yet.
    pub(crate) fn new(total: usize) -> Self {
        Self { bytes: Vec::new(), total, copied: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that are still to come.
    pub(crate) fn missing(&self) -> usize {
        self.total - self.bytes.len()
    }

    /// What was gathered from the byte `from` on.
    pub(crate) fn since(&self, from: usize) -> &[u8] {
        self.bytes.get(from..).unwrap_or_default()
    }

    /// Bytes copied so far, those that were moved to a larger buffer among them.
    pub(crate) fn copied(&self) -> u64 {
        self.copied
    }

    /// Takes back what is behind the first `end` bytes: of something else, read in the same go.
    pub(crate) fn split_off(&mut self, end: usize) -> Option<Bytes> {
        let rest = self.bytes.get(end..).filter(|rest| !rest.is_empty())?;
        let rest = Bytes::copy_from_slice(rest);
        self.bytes.truncate(end);
        Some(rest)
    }

    /// Takes as much of `piece` as is missing, and answers with how much that was.
    pub(crate) fn append(&mut self, piece: &[u8]) -> usize {
        let taken = piece.len().min(self.missing());
        let Some(piece) = piece.get(..taken).filter(|piece| !piece.is_empty()) else { return 0 };
        self.grow(taken);
        self.bytes.extend_from_slice(piece);
        self.count(taken);
        taken
    }

    /// Room for the next bytes, to be read into: at most `most` of them, none of them overwritten before.
    pub(crate) fn spare(&mut self, most: usize) -> Limit<&mut Vec<u8>> {
        if self.bytes.is_empty() {
            // A length's word is good for no more than this.
            let first = self.missing().min(most).min(FIRST_BYTES);
            self.bytes.reserve_exact(first);
            return (&mut self.bytes).limit(first);
        }
        let more = self.missing().min(most);
        self.grow(more);
        (&mut self.bytes).limit(more)
    }

    /// All of it, without another copy.
    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    fn grow(&mut self, more: usize) {
        let len = self.bytes.len();
        let needed = len + more;
        if needed <= self.bytes.capacity() {
            return;
        }
        let first = if self.total <= WHOLE_BYTES { self.total } else { CHUNK_BYTES };
        let next = first.max(len.saturating_mul(GROWTH)).max(needed).min(self.total);
        self.bytes.reserve_exact(next - len);
        self.count(len);
    }

    fn count(&mut self, len: usize) {
        count_copied(len, Reason::Gather);
        self.copied += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allocated_for_bytes_that_have_not_come() {
        let mut gather = Gather::new(100 << 20);
        assert_eq!(gather.bytes.capacity(), 0);
        let mut arrived = 0;
        while arrived < 1 << 20 {
            arrived += gather.append(&[7; 1000]);
            let allowed = (GROWTH * arrived).max(CHUNK_BYTES);
            assert!(gather.bytes.capacity() <= allowed, "{arrived}");
        }
    }

    #[test]
    fn little_is_allocated_to_read_the_first_bytes_to() {
        let mut gather = Gather::new(100_000);
        assert_eq!(gather.spare(CHUNK_BYTES).remaining_mut(), FIRST_BYTES);
        assert_eq!(gather.bytes.capacity(), FIRST_BYTES);
        gather.spare(CHUNK_BYTES).put_slice(b"first");
        assert_eq!(gather.spare(CHUNK_BYTES).remaining_mut(), CHUNK_BYTES);
        assert_eq!(gather.bytes.capacity(), 100_000);
    }

    #[test]
    fn what_is_complete_has_exactly_its_length_and_keeps_its_place() {
        let mut gather = Gather::new(200_000);
        while gather.missing() > 0 {
            gather.append(&[7; 1424]);
        }
        assert_eq!(gather.append(b"more"), 0);
        assert_eq!(gather.bytes.capacity(), 200_000);
        let place = gather.bytes.as_ptr();
        let copied = gather.copied();
        assert!(copied < 200_000 + 70_000, "{copied}");
        let bytes = gather.finish();
        assert_eq!((bytes.as_ptr(), bytes.len()), (place, 200_000));
    }
}

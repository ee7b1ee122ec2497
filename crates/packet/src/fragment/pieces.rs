//! The fragments of one datagram: none may overlap, and together they are one packet.
use bytes::{Bytes, BytesMut};

use super::rules::MAX_LEN;
use crate::checksum::update;
use crate::field::be16;
use crate::view::Ipv6;

/// What is kept of a datagram that is not complete.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Ordered by offset, never overlapping.
    list: Vec<Piece>,
    /// Length of the whole payload, once the last fragment is there.
    end: Option<usize>,
    /// Header of the first fragment, made that of the whole packet.
    header: Bytes,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Bytes,
}

/// A fragment as it comes, of either version.
pub(super) struct Fragment<'a> {
    /// The header of the whole packet, but for its length.
    pub(super) header: &'a [u8],
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) payload: &'a [u8],
}

/// What became of a fragment.
pub(super) enum Added {
    Kept,
    Duplicate,
    Overlap,
    /// There are too many, or together they are longer than any packet.
    Oversized,
}

impl Pieces {
    /// Bytes of payload.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a fragment that keeps to the rules by itself; at most `most` of them.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>, most: usize) -> Added {
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        let at = self.list.partition_point(|piece| piece.offset < start);
        if let Some(same) = self.list.get(at)
            && same.offset == start
            && same.bytes == fragment.payload
            && fragment.more == (self.end != Some(end))
        {
            return Added::Duplicate;
        }
        let before = at.checked_sub(1).and_then(|before| self.list.get(before));
        let last = self.list.last().map_or(0, Piece::end);
        let overlaps = before.is_some_and(|piece| piece.end() > start)
            || self.list.get(at).is_some_and(|piece| piece.offset < end)
            // Beyond an end that is known, or an end where there is something beyond.
            || self.end.is_some_and(|known| end > known || !fragment.more)
            || !fragment.more && last > end;
        if overlaps {
            return Added::Overlap;
        }
        // The whole packet has the first fragment's header, which may be longer than those of the others.
        let header = if start == 0 { fragment.header } else { &self.header };
        if self.list.len() >= most || counted(header) + last.max(end) > MAX_LEN {
            return Added::Oversized;
        }
        if !fragment.more {
            self.end = Some(end);
        }
        if start == 0 {
            self.header = Bytes::copy_from_slice(fragment.header);
        }
        self.bytes += fragment.payload.len();
        self.list
            .insert(at, Piece { offset: start, bytes: Bytes::copy_from_slice(fragment.payload) });
        Added::Kept
    }

    /// The whole packet, if nothing of it is missing.
    pub(super) fn whole(&self) -> Option<Bytes> {
        // They do not overlap: as many bytes as there are to be means that none is missing.
        let payloads = self.list.iter().map(|piece| &piece.bytes[..]);
        (self.end == Some(self.bytes)).then(|| join(&self.header, payloads))
    }
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

/// Bytes of a header that count for its packet's length.
pub(super) fn counted(header: &[u8]) -> usize {
    match header.first() {
        Some(first) if first >> 4 == 6 => header.len() - Ipv6::HEADER_BYTES,
        _ => header.len(),
    }
}

/// A packet of a fragment's header and all payload, its lengths and checksum made right.
pub(super) fn join<'a>(header: &[u8], payloads: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
    let payload: usize = payloads.clone().map(<[u8]>::len).sum();
    let mut whole = BytesMut::with_capacity(header.len() + payload);
    whole.extend_from_slice(header);
    payloads.for_each(|payload| whole.extend_from_slice(payload));
    // Checked when the fragments were added: no more than fits the field.
    let len = u16::try_from(counted(header) + payload).unwrap_or(u16::MAX);
    if header[0] >> 4 == 6 {
        whole[4..6].copy_from_slice(&len.to_be_bytes());
        return whole.freeze();
    }
    let mut sum = be16(header, 10);
    // No fragment any more: of its flags only "don't fragment" is left.
    for (at, new) in [(2, len), (6, be16(header, 6) & 0x4000)] {
        sum = update(sum, be16(header, at), new);
        whole[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
    whole[10..12].copy_from_slice(&sum.to_be_bytes());
    whole.freeze()
}

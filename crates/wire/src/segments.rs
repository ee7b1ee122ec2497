//! What is to be written, as a list of [`Bytes`]: small parts copied together, large ones by reference.
use std::io::IoSlice;

use bytes::{BufMut, Bytes, BytesMut};
use straightway_buffer::{Reason, count_copied};

use crate::crc::{Crc32c, crc32c};

/// From how many bytes on a part goes by reference into a `writev`: below, the copy is cheaper than another slice.
pub const CUT: usize = 512;
/// The same for QUIC, whose implementation copies whatever is shorter than a packet anyway.
pub const QUIC_CUT: usize = 1453;
/// Room for heads that is made at once, and kept.
const HEAD_BYTES: usize = 4 << 10;
/// A buffer of heads that has grown beyond this is given up by [`Segments::clear`].
const HEAD_BYTES_KEPT: usize = 512 << 10;

/// A place in [`Segments`], to measure or to write over what follows it. Void after [`Segments::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    head: usize,
    large: usize,
    len: usize,
}

/// An ordered list of byte strings for one vectored write. Heads and other small parts are gathered in one buffer; parts
/// of at least `cut` bytes are kept by reference. Once warm, filling, finishing and clearing allocate nothing, as long as
/// what was handed out is dropped before the next use.
///
/// ```
/// use bytes::Bytes;
/// use straightway_wire::Segments;
///
/// let body = Bytes::from(vec![7; 1000]);
/// let mut segments = Segments::new(512);
/// segments.put_u32_le(1000);
/// segments.push(body.clone());
/// segments.put_slice(b"end");
/// let parts = segments.finish();
/// assert_eq!(parts.len(), 3);
/// assert_eq!(parts[1].as_ptr(), body.as_ptr());
/// ```
#[derive(Debug)]
pub struct Segments {
    cut: usize,
    /// All heads, one behind the other.
    head: BytesMut,
    /// Parts by reference, each with the length of `head` before which it belongs.
    large: Vec<(usize, Bytes)>,
    len: usize,
    finished: Vec<Bytes>,
}

impl Default for Segments {
    fn default() -> Self {
        Self::new(CUT)
    }
}

impl Segments {
    /// An empty list; parts of `cut` bytes and more go by reference.
    pub fn new(cut: usize) -> Self {
        Self { cut, head: BytesMut::new(), large: Vec::new(), len: 0, finished: Vec::new() }
    }

    /// From how many bytes on parts go by reference.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// Whether nothing was put in since the last [`Segments::clear`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes put in since the last [`Segments::clear`].
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Appends small bytes that were made for this: lengths, tags, headers.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).put_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends one byte.
    pub fn put_u8(&mut self, byte: u8) {
        self.put_slice(&[byte]);
    }

    /// Appends a little-endian number.
    pub fn put_u32_le(&mut self, number: u32) {
        self.put_slice(&number.to_le_bytes());
    }

    /// Appends a little-endian number.
    pub fn put_u64_le(&mut self, number: u64) {
        self.put_slice(&number.to_le_bytes());
    }

    /// Appends a number as protobuf writes it: seven bits a byte, the lowest first.
    pub fn put_varint(&mut self, mut number: u64) {
        let mut bytes = [0; 10];
        let mut len = 0;
        for byte in &mut bytes {
            len += 1;
            *byte = (number & 0x7f) as u8;
            number >>= 7;
            if number == 0 {
                break;
            }
            *byte |= 0x80;
        }
        self.put_slice(&bytes[..len]);
    }

    /// Lets `write` append to the buffer of heads. Whatever it does to what was there before is lost on nobody but the
    /// reader: it must only append.
    pub fn put_with<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let head = self.room(0);
        let before = head.len();
        let answer = write(head);
        self.len += self.head.len().saturating_sub(before);
        answer
    }

    /// Appends a payload: by reference from `cut` bytes on, otherwise copied, which is counted.
    pub fn push(&mut self, part: Bytes) {
        if part.len() < self.cut {
            return self.push_copy(&part);
        }
        self.len += part.len();
        self.large.push((self.head.len(), part));
    }

    /// Appends a payload that is only borrowed: copied, which is counted.
    pub fn push_copy(&mut self, part: &[u8]) {
        count_copied(part.len(), Reason::Gather);
        self.put_slice(part);
    }

    /// Where the next byte will be.
    pub fn mark(&self) -> Mark {
        Mark { head: self.head.len(), large: self.large.len(), len: self.len }
    }

    /// Bytes put in since `mark`.
    pub fn len_since(&self, mark: Mark) -> usize {
        self.len.saturating_sub(mark.len)
    }

    /// CRC-32C of the bytes put in since `mark`.
    pub fn crc_since(&self, mark: Mark) -> u32 {
        if self.large.len() <= mark.large {
            return crc32c(self.head.get(mark.head..).unwrap_or_default());
        }
        let mut sum = Crc32c::default();
        self.visit_since(mark, |part| sum.update(part));
        sum.sum()
    }

    /// Writes over bytes that were put in as heads right after `mark`, `at` bytes on. Answers `false`, and does nothing,
    /// when there are not as many.
    pub fn patch(&mut self, mark: Mark, at: usize, bytes: &[u8]) -> bool {
        let range =
            mark.head.checked_add(at).and_then(|from| Some(from..from.checked_add(bytes.len())?));
        let Some(place) = range.and_then(|range| self.head.get_mut(range)) else { return false };
        place.copy_from_slice(bytes);
        true
    }

    /// The heads between two places.
    pub(crate) fn heads_between(&mut self, from: Mark, to: Mark) -> Option<&mut [u8]> {
        self.head.get_mut(from.head..to.head)
    }

    /// Takes back everything that was put in since `mark`.
    pub fn truncate(&mut self, mark: Mark) {
        self.head.truncate(mark.head);
        self.large.truncate(mark.large);
        self.len = self.len.min(mark.len);
    }

    /// The parts in order, for one vectored write. Whoever writes them may take them out or advance over them; the list
    /// is to be cleared before it is used again. Called twice, it answers with what is left of the same parts.
    pub fn finish(&mut self) -> &mut [Bytes] {
        let mut taken = 0;
        for (at, part) in self.large.drain(..) {
            if at > taken {
                self.finished.push(self.head.split_to(at - taken).freeze());
                taken = at;
            }
            self.finished.push(part);
        }
        if !self.head.is_empty() {
            self.finished.push(self.head.split().freeze());
        }
        &mut self.finished
    }

    /// The parts of the last [`Segments::finish`], for `writev`.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.finished.iter().map(|part| IoSlice::new(part))
    }

    /// Forgets everything and keeps the memory, if nobody holds on to it.
    pub fn clear(&mut self) {
        self.finished.clear();
        self.large.clear();
        self.head.clear();
        // What was advanced over counts: the buffer behind is as long as all heads together.
        if self.len > HEAD_BYTES_KEPT && self.head.try_reclaim(HEAD_BYTES_KEPT + 1) {
            self.head = BytesMut::new();
        }
        self.len = 0;
    }

    /// Room for `len` more bytes of heads.
    #[inline]
    fn room(&mut self, len: usize) -> &mut BytesMut {
        if self.head.is_empty() {
            // Comes back from the last use, or is made.
            self.head.reserve(len.max(HEAD_BYTES));
        } else {
            self.head.reserve(len);
        }
        &mut self.head
    }

    fn visit_since(&self, mark: Mark, mut visit: impl FnMut(&[u8])) {
        let mut taken = mark.head;
        let large = self.large.get(mark.large..).unwrap_or_default();
        for (at, part) in large {
            visit(self.head.get(taken..*at).unwrap_or_default());
            visit(part);
            taken = *at;
        }
        visit(self.head.get(taken..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(parts: &[Bytes]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn large_parts_keep_their_memory_and_small_ones_are_gathered() {
        let large = Bytes::from(vec![1; 600]);
        let mut segments = Segments::new(512);
        segments.put_u8(9);
        segments.push(Bytes::from_static(b"small"));
        segments.push(large.clone());
        segments.push(large.slice(..511));
        segments.push(large.slice(1..));
        let expected = segments.len_bytes();
        let parts = segments.finish();
        assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [6, 600, 511, 599]);
        assert_eq!(parts[1].as_ptr(), large.as_ptr());
        assert_eq!(parts[3].as_ptr(), large[1..].as_ptr());
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), expected);
        assert_eq!(segments.io_slices().map(|slice| slice.len()).sum::<usize>(), expected);
    }

    #[test]
    fn heads_can_be_written_over_until_they_are_finished() {
        let mut segments = Segments::new(4);
        segments.put_slice(b"before");
        let mark = segments.mark();
        segments.put_u32_le(0);
        segments.push(Bytes::from_static(b"payload"));
        assert!(segments.patch(mark, 0, &7_u32.to_le_bytes()));
        assert!(!segments.patch(mark, 1, &7_u32.to_le_bytes()), "beyond the heads");
        assert!(!segments.patch(mark, usize::MAX, b"x"));
        assert_eq!(segments.len_since(mark), 11);
        assert_eq!(joined(segments.finish()), b"before\x07\0\0\0payload");
    }

    #[test]
    fn the_same_memory_is_used_again() {
        let mut segments = Segments::new(512);
        let mut place = std::ptr::null();
        for round in 0..4 {
            segments.clear();
            segments.put_slice(b"head");
            segments.push(Bytes::from(vec![0; 600]));
            segments.put_slice(b"tail");
            let parts = segments.finish();
            assert!(round == 0 || parts[0].as_ptr() == place, "round {round}");
            place = parts[0].as_ptr();
        }
    }

    #[test]
    fn what_somebody_holds_is_not_written_over() {
        let mut segments = Segments::new(512);
        segments.put_slice(b"first");
        let held = segments.finish()[0].clone();
        segments.clear();
        segments.put_slice(b"other");
        assert_eq!(joined(segments.finish()), b"other");
        assert_eq!(&held[..], b"first");
    }

    proptest! {
        #[test]
        fn order_length_and_sum_are_those_of_the_parts(
            parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cut in 0..40_usize,
            from in 0..20_usize,
        ) {
            let mut segments = Segments::new(cut);
            let mut expected = Vec::new();
            let mut mark = (segments.mark(), 0);
            for (index, (head, part)) in parts.iter().enumerate() {
                if index == from {
                    mark = (segments.mark(), expected.len());
                }
                if *head { segments.put_slice(part) } else { segments.push(Bytes::copy_from_slice(part)) }
                expected.extend_from_slice(part);
            }
            prop_assert_eq!(segments.len_bytes(), expected.len());
            prop_assert_eq!(segments.len_since(mark.0), expected.len() - mark.1);
            prop_assert_eq!(segments.crc_since(mark.0), crate::crc::crc32c(&expected[mark.1..]));
            prop_assert_eq!(joined(segments.finish()), expected);
        }

        #[test]
        fn varints_are_as_protobuf_writes_them(number: u64) {
            let mut segments = Segments::default();
            segments.put_varint(number);
            let mut back = 0_u64;
            for (index, byte) in joined(segments.finish()).into_iter().enumerate() {
                back |= u64::from(byte & 0x7f) << (7 * index);
            }
            prop_assert_eq!(back, number);
        }
    }
}

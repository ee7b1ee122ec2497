//! What is to be written, as a list of [`Bytes`]: small parts copied together, large ones by reference.
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
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

/// A place in [`Segments`], to measure or to take back what follows it. Void after [`Segments::finish`] and
/// [`Segments::clear`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    head: usize,
    large: usize,
    len: usize,
    generation: u32,
}

/// How far a list has been moved into another one.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    head: usize,
    large: usize,
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
/// segments.put_slice(&1000_u32.to_le_bytes());
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
    /// Marks of another one are void.
    generation: u32,
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
        let (large, finished) = (Vec::new(), Vec::new());
        Self { cut, head: BytesMut::new(), large, len: 0, generation: 0, finished }
    }

    /// Makes room for so many parts by reference.
    pub(crate) fn reserve_parts(&mut self, count: usize) {
        self.large.reserve(count);
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
        if self.head.is_empty() {
            self.first_room();
        }
        self.head.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends a payload: by reference from `cut` bytes on, otherwise copied, which is counted.
    pub fn push(&mut self, part: Bytes) {
        if part.len() < self.cut {
            return self.push_copy(&part);
        }
        self.push_shared(part);
    }

    fn push_shared(&mut self, part: Bytes) {
        self.len += part.len();
        self.large.push((self.head.len(), part));
    }

    /// Appends a payload that is only borrowed: copied, which is counted.
    pub fn push_copy(&mut self, part: &[u8]) {
        if !part.is_empty() {
            count_copied(part.len(), Reason::Gather);
            self.put_slice(part);
        }
    }

    /// Moves the next bytes, at most `most` of them, into another list: what is here by reference is so there.
    pub(crate) fn move_into(&mut self, from: &mut Cursor, out: &mut Self, mut most: usize) {
        while most > 0 {
            let end = self.large.get(from.large).map_or(self.head.len(), |(at, _)| *at);
            let head = self.head.get(from.head..end).unwrap_or_default();
            if !head.is_empty() {
                let head = head.get(..most).unwrap_or(head);
                out.put_slice(head);
                from.head += head.len();
                most -= head.len();
                continue;
            }
            let Some((_, part)) = self.large.get_mut(from.large) else { break };
            let piece = part.split_to(part.len().min(most));
            if part.is_empty() {
                from.large += 1;
            }
            most -= piece.len();
            out.push_shared(piece);
        }
    }

    /// Where the next byte will be.
    pub fn mark(&self) -> Mark {
        let Self { len, generation, .. } = *self;
        Mark { head: self.head.len(), large: self.large.len(), len, generation }
    }

    /// Whether `mark` is of this list as it is, and not as it was before it was finished or cleared.
    pub(crate) fn is_current(&self, mark: Mark) -> bool {
        mark.generation == self.generation
    }

    /// Bytes put in since `mark`; none since a void one.
    pub fn len_since(&self, mark: Mark) -> usize {
        if self.is_current(mark) { self.len.saturating_sub(mark.len) } else { 0 }
    }

    /// CRC-32C of the bytes put in since `mark`; of none since a void one.
    pub fn crc_since(&self, mark: Mark) -> u32 {
        if !self.is_current(mark) {
            return 0;
        }
        if self.large.len() <= mark.large {
            return crc32c(self.head.get(mark.head..).unwrap_or_default());
        }
        let mut sum = Crc32c::default();
        self.visit_since(mark, |part| sum.update(part));
        sum.sum()
    }

    /// The heads between two places.
    pub(crate) fn heads_between(&mut self, from: Mark, to: Mark) -> Option<&mut [u8]> {
        let current = self.is_current(from) && self.is_current(to);
        self.head.get_mut(from.head..to.head).filter(|_| current)
    }

    /// Takes back everything that was put in since `mark`; nothing for a void one.
    pub fn truncate(&mut self, mark: Mark) {
        if !self.is_current(mark) {
            return;
        }
        self.head.truncate(mark.head);
        self.large.truncate(mark.large);
        self.len = self.len.min(mark.len);
    }

    /// The parts in order, for one vectored write. Whoever writes them may take them out or advance over them; the list
    /// is to be cleared before it is used again. Called twice, it answers with what is left of the same parts.
    pub fn finish(&mut self) -> &mut [Bytes] {
        self.generation = self.generation.wrapping_add(1);
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

    /// The parts in order, for `writev`: those of the last [`Segments::finish`] and what was put in since. It need not be
    /// finished for that, which is cheaper: heads are shared with nobody.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let pairs = self.large.iter().scan(0, |taken, (at, part)| {
            let head = self.head.get(*taken..*at).unwrap_or_default();
            *taken = *at;
            Some([head, part])
        });
        let from = self.large.last().map_or(0, |(at, _)| *at);
        let tail = self.head.get(from..).unwrap_or_default();
        let finished = self.finished.iter().map(|part| &part[..]);
        let all = finished.chain(pairs.flatten()).chain([tail]);
        all.filter(|part| !part.is_empty()).map(IoSlice::new)
    }

    /// The whole list, where it is one part and not finished.
    pub(crate) fn only_part(&self) -> Option<&[u8]> {
        (self.finished.is_empty() && self.large.is_empty()).then_some(&self.head)
    }

    /// At most as many parts as [`Segments::io_slices`] has.
    pub(crate) fn most_slices(&self) -> usize {
        self.finished.len() + 2 * self.large.len() + 1
    }

    /// Forgets everything and keeps the memory, if nobody holds on to it.
    pub fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.finished.clear();
        self.large.clear();
        self.head.clear();
        // What was advanced over counts: the buffer behind is as long as all heads together.
        if self.len > HEAD_BYTES_KEPT && self.head.try_reclaim(HEAD_BYTES_KEPT + 1) {
            self.head = BytesMut::new();
        }
        self.len = 0;
    }

    /// Comes back from the last use, or is made.
    fn first_room(&mut self) {
        self.head.reserve(HEAD_BYTES);
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
        segments.put_slice(&[9]);
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
    }
}

//! The protobuf wire format: numbers of seven bits a byte, fields behind tags, nested messages behind their length.
//! Nothing here recurses over bytes from outside and nothing allocates.
use super::encode::Sink;
use bytes::Bytes;

/// Longest varint.
const VARINT: usize = 10;
/// The longest tag and number.
const ROOM: usize = 2 + VARINT;
/// Heads are put together in this much memory before they go to the sink.
const HEAD: usize = 128;
/// In each of eight bytes, the bit that says that another follows.
const MORE: u64 = 0x8080_8080_8080_8080;

/// What is wrong with encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Truncated,
    Varint,
    Tag,
    WireType,
    Group,
    Enum,
    Flag,
    Twice,
    TooManyEntries,
    EmptyEntry,
    Entries,
    TooManyMembers,
    TooManyChanges,
}

impl Fault {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Truncated => "it ends within a field",
            Self::Varint => "a number is longer than 64 bits",
            Self::Tag => "a field has no number",
            Self::WireType => "a known field has another type",
            Self::Group => "it holds a group, which nothing here writes",
            Self::Enum => "an enumeration has a value that is not known here; update this side",
            Self::Flag => "a flag is neither 0 nor 1",
            Self::Twice => "a field that may be there once is there twice",
            Self::TooManyEntries => "more entries than a message may hold",
            Self::EmptyEntry => "an entry says nothing",
            Self::Entries => "a message of this type holds more than one entry",
            Self::TooManyMembers => "more members than a configuration may hold",
            Self::TooManyChanges => "more changes than one step may hold",
        }
    }
}

/// Bytes that `number` takes.
#[inline]
pub(super) fn varint_len(number: u64) -> usize {
    // 64 - leading zeros of a number that is never 0, divided by 7 and rounded up, without a division.
    let bits = 64 - (number | 1).leading_zeros() as usize;
    (bits * 9 + 64) / 64
}

/// Bytes that a number behind a one-byte tag takes; 0 is left out.
#[inline]
pub(super) fn uint_len(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + varint_len(number) }
}

/// Bytes that something of `len` bytes takes behind its tag and length.
#[inline]
pub(super) fn nested_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Bytes that a byte string takes; an empty one is left out.
#[inline]
pub(super) fn bytes_len(bytes: &Bytes) -> usize {
    if bytes.is_empty() { 0 } else { nested_len(bytes.len()) }
}

/// Puts heads together and hands them to a sink in as few pieces as payloads allow.
pub(super) struct Out<'a, S: Sink + ?Sized> {
    sink: &'a mut S,
    head: [u8; HEAD],
    len: usize,
}

impl<'a, S: Sink + ?Sized> Out<'a, S> {
    pub(super) fn new(sink: &'a mut S) -> Self {
        Self { sink, head: [0; HEAD], len: 0 }
    }

    /// Room for the longest tag (two bytes) and number; everything that is put at once fits into it.
    #[inline]
    fn room(&mut self) -> &mut [u8; ROOM] {
        if self.len > HEAD - ROOM {
            self.flush();
        }
        let from = self.len.min(HEAD - ROOM);
        match self.head[from..].first_chunk_mut() {
            Some(room) => room,
            None => unreachable!("`from` leaves room"),
        }
    }

    /// A number behind a one-byte tag, whatever its value.
    #[inline]
    pub(super) fn tagged(&mut self, tag: u8, number: u64) {
        let room = self.room();
        room[0] = tag;
        self.len += 1 + put_varint(room, 1, number);
    }

    /// A number behind a one-byte tag, unless it is 0.
    #[inline]
    pub(super) fn uint(&mut self, tag: u8, number: u64) {
        if number != 0 {
            self.tagged(tag, number);
        }
    }

    /// A number behind a two-byte tag, unless it is 0.
    #[inline]
    pub(super) fn uint_wide(&mut self, tag: [u8; 2], number: u64) {
        if number != 0 {
            let room = self.room();
            [room[0], room[1]] = tag;
            self.len += 2 + put_varint(room, 2, number);
        }
    }

    /// A byte string, by reference if the sink likes, unless it is empty.
    #[inline]
    pub(super) fn bytes(&mut self, tag: u8, bytes: &Bytes) {
        if !bytes.is_empty() {
            self.tagged(tag, bytes.len() as u64);
            self.flush();
            self.sink.payload(bytes);
        }
    }

    #[inline]
    pub(super) fn flush(&mut self) {
        if let Some(head) = self.head.get(..self.len)
            && !head.is_empty()
        {
            self.sink.head(head);
        }
        self.len = 0;
    }
}

/// Writes `number` from `at` (1 or 2) on and answers with its length. Up to eight bytes are put together in a register.
#[inline]
fn put_varint(room: &mut [u8; ROOM], at: usize, mut number: u64) -> usize {
    if number < 0x80 {
        room[at] = number.to_le_bytes()[0];
        return 1;
    }
    if number < 0x4000 {
        let number = (number & 0x7f) | ((number & 0x3f80) << 1) | 0x80;
        let [low, high, ..] = number.to_le_bytes();
        [room[at], room[at + 1]] = [low, high];
        return 2;
    }
    let Some(word) = room[at..].first_chunk_mut::<8>().filter(|_| number >> 56 == 0) else {
        let mut len = 0;
        for byte in &mut room[at..] {
            len += 1;
            *byte = number.to_le_bytes()[0];
            if number < 0x80 {
                break;
            }
            *byte |= 0x80;
            number >>= 7;
        }
        return len;
    };
    let len = varint_len(number);
    // 7 x 8 bits, in three steps of doubling lanes; then the bit that says that more follows.
    number = (number & 0x0fff_ffff) | ((number & 0x00ff_ffff_f000_0000) << 4);
    number = (number & 0x0000_3fff_0000_3fff) | ((number & 0x0fff_c000_0fff_c000) << 2);
    number = (number & 0x007f_007f_007f_007f) | ((number & 0x3f80_3f80_3f80_3f80) << 1);
    number |= MORE & ((1 << (8 * (len - 1))) - 1);
    *word = number.to_le_bytes();
    len
}

/// Reads fields of one message. `after`: bytes behind it in the whole, so that places can be told.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    after: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(whole: &'a [u8]) -> Self {
        Self { rest: whole, after: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes from here to the end of the whole.
    #[inline]
    pub(super) fn distance(&self) -> usize {
        self.rest.len() + self.after
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                return Ok(u64::from(*byte));
            }
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                return Ok(u64::from(low & 0x7f) | u64::from(*high) << 7);
            }
            _ => {}
        }
        if let Some(word) = self.rest.first_chunk::<8>() {
            let word = u64::from_le_bytes(*word);
            let ends = !word & MORE;
            if ends != 0 {
                let len = ends.trailing_zeros() as usize / 8 + 1;
                // Nothing of what follows, then 8 x 7 bits in three steps of halving lanes.
                let word = word & (u64::MAX >> (64 - 8 * len)) & !MORE;
                let word = (word & 0x007f_007f_007f_007f) | ((word & 0x7f00_7f00_7f00_7f00) >> 1);
                let word = (word & 0x0000_3fff_0000_3fff) | ((word & 0x3fff_0000_3fff_0000) >> 2);
                let word = (word & 0x0fff_ffff) | ((word & 0x0fff_ffff_0000_0000) >> 4);
                self.rest = &self.rest[len..];
                return Ok(word);
            }
        }
        self.long_varint()
    }

    /// Close to the end, or of more than 56 bits.
    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for (index, byte) in self.rest.iter().take(VARINT).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                // The tenth byte holds one bit.
                if index == VARINT - 1 && *byte > 1 {
                    return Err(Fault::Varint);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < VARINT { Fault::Truncated } else { Fault::Varint })
    }

    #[inline]
    pub(super) fn tag(&mut self) -> Result<u32, Fault> {
        if let [byte, rest @ ..] = self.rest
            && *byte < 0x80
        {
            self.rest = rest;
            return Ok(u32::from(*byte));
        }
        u32::try_from(self.long_varint()?).map_err(|_| Fault::Tag)
    }

    #[inline]
    pub(super) fn flag(&mut self) -> Result<bool, Fault> {
        match self.varint()? {
            0 => Ok(false),
            1 => Ok(true),
            // Nobody writes it, and readers differ: to some, one of more than 32 bits is not set.
            _ => Err(Fault::Flag),
        }
    }

    /// What is inside of a field behind its length.
    #[inline]
    pub(super) fn nested(&mut self) -> Result<Reader<'a>, Fault> {
        let len = usize::try_from(self.varint()?).map_err(|_| Fault::Truncated)?;
        let (inside, rest) = self.rest.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(Reader { rest: inside, after: self.after + rest.len() })
    }

    /// Steps over a field whose number, of those up to `known`, means nothing here.
    #[cold]
    pub(super) fn skip(&mut self, tag: u32, known: u32) -> Result<(), Fault> {
        match tag >> 3 {
            0 => return Err(Fault::Tag),
            number if number <= known => return Err(Fault::WireType),
            _ => {}
        }
        let fixed = match tag & 7 {
            0 => return self.varint().map(drop),
            2 => return self.nested().map(drop),
            1 => 8,
            5 => 4,
            3 | 4 => return Err(Fault::Group),
            _ => return Err(Fault::Tag),
        };
        self.rest = self.rest.get(fixed..).ok_or(Fault::Truncated)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back_and_are_as_long_as_foretold(number: u64, shift in 0..64_u32, behind in 0..9_usize) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            let mut whole = super::super::encode::Whole(&mut bytes);
            let mut out = Out::new(&mut whole);
            out.tagged(8, number);
            out.uint_wide([0x80, 1], number);
            out.flush();
            let len = bytes.len();
            bytes.resize(len + behind, 0xff);
            prop_assert_eq!(varint_len(number), len.min(bytes.iter().skip(1).take_while(|byte| **byte >= 0x80).count() + 1));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.tag(), Ok(8));
            prop_assert_eq!(reader.varint(), Ok(number));
            if number != 0 {
                prop_assert_eq!(reader.tag(), Ok(128));
                prop_assert_eq!(reader.varint(), Ok(number));
            }
            prop_assert_eq!(reader.len(), behind);
        }
    }

    #[test]
    fn numbers_longer_than_64_bits_are_refused() {
        let refused = |bytes: &[u8]| Reader::new(bytes).varint();
        assert_eq!(refused(&[0xff; 11]), Err(Fault::Varint));
        assert_eq!(
            refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            Err(Fault::Varint)
        );
        assert_eq!(refused(&[0xff; 9]), Err(Fault::Truncated));
        assert_eq!(refused(&[]), Err(Fault::Truncated));
        assert_eq!(
            refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Ok(u64::MAX)
        );
    }

    #[test]
    fn a_flag_is_one_or_the_other() {
        let flag = |bytes: &[u8]| Reader::new(bytes).flag();
        assert_eq!([flag(&[0]), flag(&[1]), flag(&[2])], [Ok(false), Ok(true), Err(Fault::Flag)]);
        // Of more than 32 bits: read by some as set, and by others not.
        let high = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(flag(&high), Err(Fault::Flag));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader::new(&[5, 1, 2, 3, 4]).nested().err(), Some(Fault::Truncated));
        let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Reader::new(&endless).nested().err(), Some(Fault::Truncated));
    }
}

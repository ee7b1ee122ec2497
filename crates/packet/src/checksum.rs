//! The Internet checksum (RFC 1071), with updates in place (RFC 1624).
use std::net::{Ipv4Addr, Ipv6Addr};

/// A sum in the making, over any number of pieces of any length.
///
/// The pieces are added as native-endian 32-bit words into 64 bits, which compilers turn into vector instructions; the
/// one's complement sum does not care about the order of bytes as long as it is the same throughout.
///
/// ```
/// use straightway_packet::{Checksum, checksum};
///
/// let mut sum = Checksum::new();
/// sum.add(b"straight");
/// sum.add(b"way");
/// assert_eq!(sum.finish(), checksum(b"straightway"));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum {
    /// Native-endian words. Room for 2^32 of them before it could overflow: 16 GiB.
    sum: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

impl Checksum {
    /// Of nothing.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Adds bytes.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = sum(bytes);
        // Behind an odd number of bytes everything stands in the other half of its word.
        self.sum += if self.odd { u64::from(fold(sum).swap_bytes()) } else { sum };
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds the pseudo header of TCP, UDP and the like over IPv4 (RFC 793).
    #[inline]
    pub fn add_pseudo_v4(&mut self, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, len: u16) {
        self.add(&from.octets());
        self.add(&to.octets());
        let [high, low] = len.to_be_bytes();
        self.add(&[0, protocol, high, low]);
    }

    /// Adds the pseudo header over IPv6 (RFC 8200 §8.1).
    #[inline]
    pub fn add_pseudo_v6(&mut self, from: Ipv6Addr, to: Ipv6Addr, protocol: u8, len: u32) {
        self.add(&from.octets());
        self.add(&to.octets());
        self.add(&len.to_be_bytes());
        self.add(&[0, 0, 0, protocol]);
    }

    /// The checksum: what goes into the header, in host order. 0 over bytes that hold their own right checksum.
    #[inline]
    pub fn finish(self) -> u16 {
        u16::from_be(!fold(self.sum))
    }
}

/// The checksum of some bytes.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    u16::from_be(!fold(sum(bytes)))
}

/// A checksum after one 16-bit word that it covers was changed (RFC 1624, equation 3).
///
/// ```
/// use straightway_packet::checksum::{checksum, update};
///
/// let mut bytes = [1, 2, 3, 4];
/// let before = checksum(&bytes);
/// bytes[2..].copy_from_slice(&[9, 9]);
/// assert_eq!(update(before, 0x0304, 0x0909), checksum(&bytes));
/// ```
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[inline]
fn sum(bytes: &[u8]) -> u64 {
    // Blocks for the vector instructions, which are not worth setting up for a header.
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut sum: u64 = blocks.iter().map(add_words).sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let last = match *rest {
        [a, b, c] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        _ => [0; 4],
    };
    sum + u64::from(u32::from_ne_bytes(last))
}

#[inline]
fn add_words(block: &[u8; 64]) -> u64 {
    block.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// Both halves are added at once: with them rotated, the carry of the lower sum goes into the upper one, which is kept.
#[inline]
fn fold(sum: u64) -> u16 {
    let [a, b, c, d, ..] = sum.wrapping_add(sum.rotate_left(32)).to_be_bytes();
    let sum = u32::from_be_bytes([a, b, c, d]);
    let [high, low, ..] = sum.wrapping_add(sum.rotate_left(16)).to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }

    proptest! {
        #[test]
        fn is_what_the_plain_way_gives_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..3000), cuts in proptest::collection::vec(0..3000usize, 0..5)) {
            prop_assert_eq!(checksum(&bytes), plain(&bytes));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pieces = Checksum::new();
            for pair in cuts.windows(2) {
                pieces.add(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(pieces.finish(), plain(&bytes));
        }

        #[test]
        fn an_update_is_what_summing_again_gives(mut bytes in proptest::collection::vec(any::<u8>(), 4..100), at in 0..100usize, new: u16) {
            // A real header is never all zeros, where the two forms of zero differ.
            bytes[0] = 0x45;
            let at = 2 + at % (bytes.len() - 3) / 2 * 2;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }
    }

    #[test]
    fn rfc_1071s_own_example() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
    }
}

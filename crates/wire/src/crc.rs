//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): of what is long by the processor's own instructions where it has them, of
//! what is as short as a header by tables, since going there costs more than the sum.
use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Up to this length tables are faster.
const SHORT: usize = 24;
/// What a byte contributes that stands so many bytes before the end of eight.
static TABLES: [[u32; 256]; 16] = tables();

/// Of bytes that lie together.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    if bytes.len() <= SHORT {
        !short(u32::MAX, bytes)
    } else {
        narrow(crc_fast::checksum(Crc32Iscsi, bytes))
    }
}

/// Of sixteen bytes: these eight, four that are 0, and these four. Every table is asked at once.
#[inline]
pub(crate) fn crc32c_of_fixed(first: [u8; 8], last: [u8; 4]) -> u32 {
    // What would be added for the zeros is 0.
    let mut sum = 0;
    let word = u64::from_le_bytes(first) ^ u64::from(u32::MAX);
    for (table, byte) in TABLES[8..].iter().rev().zip(word.to_le_bytes()) {
        sum ^= table[usize::from(byte)];
    }
    for (table, byte) in TABLES[..4].iter().rev().zip(last) {
        sum ^= table[usize::from(byte)];
    }
    !sum
}

/// Eight bytes at a time, then four.
fn short(mut sum: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let word = u64::from_le_bytes(*eight) ^ u64::from(sum);
        sum = 0;
        for (table, byte) in TABLES[..8].iter().rev().zip(word.to_le_bytes()) {
            sum ^= table[usize::from(byte)];
        }
    }
    let rest = match rest.split_first_chunk::<4>() {
        None => rest,
        Some((four, rest)) => {
            let word = u32::from_le_bytes(*four) ^ sum;
            sum = 0;
            for (table, byte) in TABLES[..4].iter().rev().zip(word.to_le_bytes()) {
                sum ^= table[usize::from(byte)];
            }
            rest
        }
    };
    for byte in rest {
        let [low, ..] = sum.to_le_bytes();
        sum = (sum >> 8) ^ TABLES[0][usize::from(low ^ byte)];
    }
    sum
}

const fn tables() -> [[u32; 256]; 16] {
    let mut tables = [[0; 256]; 16];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut sum = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        tables[0][byte as usize] = sum;
        byte += 1;
    }
    let mut table = 1;
    while table < 16 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Of bytes that come in parts.
#[derive(Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32c {
    /// Adds the next part.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        if bytes.len() <= SHORT {
            self.0 = short(self.0, bytes);
        } else {
            let mut long = crc_fast::Digest::new_with_init_state(Crc32Iscsi, self.0.into());
            long.update(bytes);
            self.0 = narrow(long.get_state());
        }
    }

    /// The sum over all parts so far.
    pub fn sum(&self) -> u32 {
        !self.0
    }
}

/// The algorithm is 32 bits wide; the crate answers in a wider type for all of its widths.
fn narrow(sum: u64) -> u32 {
    u32::try_from(sum).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_whole_agree_with_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of RFC 3720");
        let mut parts = Crc32c::default();
        parts.update(b"1234");
        parts.update(b"");
        parts.update(b"56789");
        assert_eq!(parts.sum(), 0xe306_9283);
        let long: Vec<u8> = (0..=255).cycle().take(3000).collect();
        for cut in [0, 1, 16, SHORT, SHORT + 1, 1500, 2999] {
            let mut parts = Crc32c::default();
            parts.update(&long[..cut]);
            parts.update(&long[cut..]);
            assert_eq!(u64::from(parts.sum()), crc_fast::checksum(Crc32Iscsi, &long), "{cut}");
        }
    }

    #[test]
    fn a_header_is_summed_at_once() {
        let bytes = *b"\x53\x10\x03\x08\x01\x02\x03\xff\0\0\0\0\x07\xd5\0\x01";
        let (first, last) = (bytes[..8].try_into(), bytes[12..].try_into());
        let sum = crc32c_of_fixed(first.expect("eight"), last.expect("four"));
        assert_eq!(sum, crc32c(&bytes));
    }

    #[test]
    fn short_and_long_agree() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * SHORT).collect();
        for from in 0..8 {
            for len in 0..=bytes.len() - from {
                let bytes = &bytes[from..from + len];
                let expected = crc_fast::checksum(Crc32Iscsi, bytes);
                assert_eq!(u64::from(!short(u32::MAX, bytes)), expected, "{len}");
            }
        }
    }
}

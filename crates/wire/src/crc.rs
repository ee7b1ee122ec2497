//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the processor's own instruction where it has one.
use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Of bytes that lie together.
pub fn crc32c(bytes: &[u8]) -> u32 {
    narrow(crc_fast::checksum(Crc32Iscsi, bytes))
}

/// Of bytes that come in parts.
#[derive(Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(Crc32Iscsi))
    }
}

impl Crc32c {
    /// Adds the next part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum over all parts so far.
    pub fn sum(&self) -> u32 {
        narrow(self.0.finalize())
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
    }
}

//! Bytes on the device and what they mean. Pure: no I/O here. `docs/format.md` mirrors these files.
use thiserror::Error;

pub(crate) mod checkpoint;
pub(crate) mod extent;
pub(crate) mod journal;
pub(crate) mod layout;
pub(crate) mod location;
pub(crate) mod rule;
pub(crate) mod superblock;

/// Metadata is read and written in blocks of this many bytes, each with its own checksum.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Why bytes were not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FormatError {
    #[error("{what} does not start with its magic number")]
    Magic { what: &'static str },
    #[error("{what} fails its checksum")]
    Checksum { what: &'static str },
    #[error("{what} ends after {found} bytes where {needed} are needed")]
    Truncated { what: &'static str, needed: usize, found: usize },
    #[error("format version {found} (this program knows {supported})")]
    NewerVersion { found: u32, supported: u32 },
    #[error("unknown feature bits {bits:#x}")]
    UnknownFeature { bits: u64 },
    #[error("{what} is {value}: {reason}")]
    Field { what: &'static str, value: u64, reason: &'static str },
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the processor's own instruction where it has one.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    // The algorithm is 32 bits wide; the crate answers in a wider type for all of its widths.
    u32::try_from(sum).unwrap_or(u32::MAX)
}

/// Puts fixed-width little-endian fields one after the other.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Appends; what does not fit is a programming error that the callers' size checks exclude, and is cut off.
    pub(crate) fn put(&mut self, field: &[u8]) {
        let room = self.bytes.get_mut(self.at..).unwrap_or_default();
        let len = field.len().min(room.len());
        room[..len].copy_from_slice(&field[..len]);
        self.at += len;
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

/// Takes fixed-width little-endian fields one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let truncated =
            FormatError::Truncated { what: self.what, needed: len, found: self.bytes.len() };
        let (field, rest) = self.bytes.split_at_checked(len).ok_or(truncated)?;
        self.bytes = rest;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Seals a block: its last four bytes become the checksum of the rest.
pub(crate) fn seal(block: &mut [u8; BLOCK_BYTES]) {
    let (body, sum) = block.split_at_mut(BLOCK_BYTES - 4);
    sum.copy_from_slice(&crc32c(body).to_le_bytes());
}

/// Checks a sealed block's magic number and checksum; answers with what is between them.
pub(crate) fn unseal<'a>(
    block: &'a [u8; BLOCK_BYTES],
    magic: [u8; 8],
    what: &'static str,
) -> Result<Reader<'a>, FormatError> {
    let (body, sum) = block.split_at(BLOCK_BYTES - 4);
    if !body.starts_with(&magic) {
        return Err(FormatError::Magic { what });
    }
    if crc32c(body).to_le_bytes() != sum {
        return Err(FormatError::Checksum { what });
    }
    Ok(Reader::new(&body[magic.len()..], what))
}

#[cfg(test)]
pub(crate) mod checks {
    //! What every sealed block must withstand.
    use super::{BLOCK_BYTES, seal};

    /// Asserts that no single flipped bit of a block goes unnoticed.
    pub(crate) fn every_flipped_bit_is_noticed(
        block: &[u8; BLOCK_BYTES],
        is_sound: impl Fn(&[u8; BLOCK_BYTES]) -> bool,
    ) {
        assert!(is_sound(block), "sound to begin with");
        let mut block = *block;
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sound(&block), "bit {bit} flipped unnoticed");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// A block with the right magic number and checksum around arbitrary content: what only a broken writer makes.
    pub(crate) fn sealed(magic: [u8; 8], content: &[u8]) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(&magic);
        let len = content.len().min(BLOCK_BYTES - 12);
        block[8..8 + len].copy_from_slice(&content[..len]);
        seal(&mut block);
        block
    }
}

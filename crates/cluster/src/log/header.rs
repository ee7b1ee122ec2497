//! The first 64 bytes of a segment: whose it is, which one it is, and the secret that its records' sums cover.
use std::path::Path;

use straightway_wire::crc32c;

use crate::error::ClusterError;
use crate::ids::StorageId;

/// The format that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// Bytes of a segment before its first record.
pub(super) const HEADER: usize = 64;
/// Segments shorter than this would hold little but their own state.
pub(super) const MIN_SEGMENT: u64 = 4096;
/// The length field of a record has 32 bits.
pub(super) const MAX_SEGMENT: u64 = 1 << 31;
const MAGIC: &[u8; 8] = b"SwRaftLg";
const RECYCLED: u32 = 1;

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Counts segments in the order of their use. A recycled file has a new one.
    pub(super) generation: u64,
    pub(super) storage: StorageId,
    /// Random, never told anybody.
    pub(super) salt: u64,
    /// How long the file is.
    pub(super) len: u64,
    /// Whether older records may follow the last one, rather than zeros.
    pub(super) recycled: bool,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(if self.recycled { RECYCLED } else { 0 }).to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..40].copy_from_slice(&self.storage.0);
        out[40..48].copy_from_slice(&self.salt.to_le_bytes());
        out[48..56].copy_from_slice(&self.len.to_le_bytes());
        // 56..60 is reserved, and zero.
        let sum = crc32c(&out[..60]);
        out[60..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The header of a segment that lies in the file `path` and is of generation `generation` by its name.
    pub(super) fn read(
        segment: &[u8],
        path: &Path,
        generation: u64,
        storage: StorageId,
    ) -> Result<Self, ClusterError> {
        let corrupt = |reason: &str| ClusterError::Corrupt {
            path: path.to_owned(),
            offset: 0,
            reason: reason.to_owned(),
        };
        let refuse = |reason: String| ClusterError::Invalid { what: "the log", reason };
        let Some(bytes) = segment.first_chunk::<HEADER>() else {
            return Err(corrupt("it is shorter than a header"));
        };
        if !bytes.starts_with(MAGIC) {
            return Err(corrupt("it does not begin as a segment of the log"));
        }
        let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if version != VERSION {
            let reason = format!(
                "{} is of format {version}, and this release reads format {VERSION}; start the release that wrote it",
                path.display(),
            );
            return Err(refuse(reason));
        }
        let (covered, sum) = bytes.split_at(60);
        if crc32c(covered).to_le_bytes() != sum {
            return Err(corrupt("the header's sum does not fit"));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[24..40]);
        let header = Self {
            generation: u64_at(bytes, 16),
            storage: StorageId(id),
            salt: u64_at(bytes, 40),
            len: u64_at(bytes, 48),
            recycled: bytes[12] & 1 != 0,
        };
        if header.storage != storage {
            let reason = format!(
                "{} belongs to storage {}, and this node's is {storage}; give it back the data folder that is its own",
                path.display(),
                header.storage,
            );
            return Err(refuse(reason));
        }
        if header.generation != generation {
            return Err(corrupt("the name is another segment's"));
        }
        if header.len != segment.len() as u64 {
            return Err(corrupt("it is not as long as it was made"));
        }
        Ok(header)
    }
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: StorageId = StorageId([7; 16]);

    fn header() -> Header {
        Header {
            generation: 9,
            storage: OURS,
            salt: 0x1234_5678_9abc_def0,
            len: 64,
            recycled: true,
        }
    }

    fn read(bytes: &[u8]) -> Result<Header, ClusterError> {
        Header::read(bytes, Path::new("0009.log"), 9, OURS)
    }

    #[test]
    fn survives_its_bytes_and_no_flipped_bit() {
        let bytes = header().encode();
        assert_eq!(read(&bytes).unwrap(), header());
        for bit in 0..HEADER * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn says_why_it_is_refused() {
        let mut other = header();
        other.storage = StorageId([8; 16]);
        let text = read(&other.encode()).unwrap_err().to_string();
        assert!(text.contains("belongs to storage 0808"), "{text}");
        let mut later = header().encode();
        later[8] = 2;
        let text = read(&later).unwrap_err().to_string();
        assert!(text.contains("is of format 2"), "{text}");
        other = header();
        other.generation = 8;
        assert!(matches!(read(&other.encode()), Err(ClusterError::Corrupt { .. })));
        assert!(matches!(read(&header().encode()[..63]), Err(ClusterError::Corrupt { .. })));
        assert!(matches!(
            read(&[header().encode(), [0; 64]].concat()),
            Err(ClusterError::Corrupt { .. })
        ));
    }
}

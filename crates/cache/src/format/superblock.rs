//! The superblock: whose file this is, and how it is laid out. Two equal copies; the first sound one rules.
use crate::format::layout::Layout;
use crate::format::{BLOCK_BYTES, FormatError, Writer, seal, unseal};

/// The format that this program writes.
///
/// 2: extents and checkpoints know of purges.
pub(crate) const VERSION: u32 = 2;
/// Features without which a file cannot be read; this program knows none yet.
const KNOWN_FEATURES: u64 = 0;

const MAGIC: [u8; 8] = *b"STRTWAY\x01";
const WHAT: &str = "the superblock";

/// A cache file's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Renewed when the index has to start empty: what the journal and checkpoints of an older epoch say is void.
    pub(crate) epoch: u64,
    pub(crate) secret: [u8; 16],
    pub(crate) created_ms: u64,
    pub(crate) average_object: u64,
    pub(crate) layout: Layout,
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut w = Writer::new(&mut block);
        w.put(&MAGIC);
        w.u32(VERSION);
        w.u32(self.layout.block_size);
        w.u64(KNOWN_FEATURES);
        w.u64(self.epoch);
        w.put(&self.secret);
        w.u64(self.created_ms);
        w.u64(self.layout.size);
        w.u64(self.average_object);
        w.u64(self.layout.region_size);
        w.u64(self.layout.data_offset);
        seal(&mut block);
        block
    }

    pub(crate) fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, FormatError> {
        let mut r = unseal(block, MAGIC, WHAT)?;
        let version = r.u32()?;
        if version != VERSION {
            return Err(FormatError::NewerVersion { found: version, supported: VERSION });
        }
        let block_size = r.u32()?;
        let unknown = r.u64()? & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(FormatError::UnknownFeature { bits: unknown });
        }
        let (epoch, secret, created_ms) = (r.u64()?, r.array()?, r.u64()?);
        let (size, average_object) = (r.u64()?, r.u64()?);
        let layout = Layout::plan(size, block_size, average_object)?;
        for (what, found, planned) in [
            ("region size", r.u64()?, layout.region_size),
            ("data offset", r.u64()?, layout.data_offset),
        ] {
            if found != planned {
                return Err(FormatError::Field {
                    what,
                    value: found,
                    reason: "does not follow from the file's size",
                });
            }
        }
        Ok(Self { epoch, secret, created_ms, average_object, layout })
    }

    /// Whether a block claims to be a superblock, whatever its state.
    pub(crate) fn is_ours(block: &[u8; BLOCK_BYTES]) -> bool {
        block.starts_with(&MAGIC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::checks;
    use proptest::prelude::*;

    fn sample() -> Superblock {
        let layout = Layout::plan(64 << 20, 4096, 8192).expect("plans");
        Superblock { epoch: 3, secret: [7; 16], created_ms: 99, average_object: 8192, layout }
    }

    #[test]
    fn comes_back_and_names_what_it_does_not_know() {
        assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
        let mut newer = sample().encode();
        newer[8] = 3;
        seal(&mut newer);
        assert_eq!(
            Superblock::decode(&newer),
            Err(FormatError::NewerVersion { found: 3, supported: 2 })
        );
        let mut feature = sample().encode();
        feature[16] = 4;
        seal(&mut feature);
        assert_eq!(Superblock::decode(&feature), Err(FormatError::UnknownFeature { bits: 4 }));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        checks::every_flipped_bit_is_noticed(&sample().encode(), |b| Superblock::decode(b).is_ok());
    }

    proptest! {
        #[test]
        fn invented_superblocks_never_panic(content in proptest::collection::vec(any::<u8>(), 0..120), version in 0..3u32) {
            let mut block = checks::sealed(MAGIC, &content);
            block[8..12].copy_from_slice(&version.to_le_bytes());
            seal(&mut block);
            drop(Superblock::decode(&block));
        }

        #[test]
        fn geometry_that_does_not_follow_is_refused(size: u64, block_size: u32, average: u64, region: u64) {
            let mut block = sample().encode();
            block[12..16].copy_from_slice(&block_size.to_le_bytes());
            for (at, field) in [(56, size), (64, average), (72, region)] {
                block[at..at + 8].copy_from_slice(&field.to_le_bytes());
            }
            seal(&mut block);
            if let Ok(read) = Superblock::decode(&block) {
                let planned = Layout::plan(size, block_size, average);
                prop_assert_eq!(Ok(&read.layout), planned.as_ref());
                prop_assert_eq!(read.layout.region_size, region);
            }
        }
    }
}

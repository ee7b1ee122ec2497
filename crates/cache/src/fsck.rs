//! The offline check: everything that the metadata leads to is read and verified. Changes nothing.
use std::io;
use std::path::Path;

use crate::core::{BLOCK, BLOCK_BYTES, UNIT_BYTES, hash_key};
use crate::device::file::Access;
use crate::device::{CacheFile, Device};
use crate::error::CacheError;
use crate::format::extent::{CHUNK_BYTES, ExtentHeader, ExtentView};
use crate::format::location::Location;
use crate::format::rule::Rule;
use crate::format::superblock::Superblock;
use crate::format::{BLOCK_BYTES as BLOCK_LEN, FormatError, crc32c};
use crate::recover::{Recovered, recover};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsckReport {
    /// Objects whose header and body are sound.
    pub objects: u64,
    /// Their bodies' bytes.
    pub bytes: u64,
    /// Objects that are not.
    pub damaged: Vec<FsckDamage>,
    /// Metadata that is damaged, in words; the copies made up for it unless objects are missing.
    pub metadata_damage: Vec<String>,
    /// Bytes of the data area.
    pub capacity: u64,
    /// Regions in use.
    pub regions_used: u32,
    /// Regions in all.
    pub regions: u32,
}

impl FsckReport {
    /// Whether nothing at all is wrong.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.metadata_damage.is_empty()
    }
}

/// An object that would not be served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsckDamage {
    /// Its key, if its header can be read.
    pub key: Option<String>,
    /// Where it starts in the file.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsckProgress {
    /// Index entries looked at.
    pub done: u64,
    /// Index entries in all.
    pub total: u64,
    /// Bytes of bodies verified.
    pub bytes: u64,
}

/// Checks a cache file that no node uses. Blocks; calls `progress` after each object.
///
/// # Errors
/// [`CacheError::InUse`], [`CacheError::Foreign`], [`CacheError::NewerFormat`], [`CacheError::Damaged`] (both
/// superblocks), [`CacheError::Io`]. Damage to objects and to one copy of the metadata is in the report.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("straightway.cache");
/// let cache = straightway_cache::RawDiskCache::new(&path, 4 << 20, 4096, Duration::ZERO).await?;
/// cache.store("key", bytes::Bytes::from_static(b"body")).await?;
/// cache.close().await?;
/// drop(cache);
/// let report = straightway_cache::fsck(&path, |_| {})?;
/// assert!(report.is_clean());
/// assert_eq!((report.objects, report.bytes), (1, 4));
/// # Ok(()) }
/// ```
pub fn fsck(
    path: impl AsRef<Path>,
    mut progress: impl FnMut(FsckProgress),
) -> Result<FsckReport, CacheError> {
    let path = path.as_ref();
    let failed =
        |what| move |source: io::Error| CacheError::Io { what, path: path.to_path_buf(), source };
    let file = CacheFile::open_existing(path, Access { portable: false })?;
    let (superblock, metadata_damage) = superblock(&file, path)?;
    let recovered = recover(&file, &superblock.layout, superblock.epoch)
        .map_err(failed("reading the index"))?;
    let Recovered { index, map, purges, damage, .. } = recovered;
    let mut check = Check {
        file: &file,
        superblock: &superblock,
        rules: &purges.rules,
        report: FsckReport::default(),
        chunk: vec![0; CHUNK_BYTES],
    };
    check.report.metadata_damage = metadata_damage.into_iter().chain(damage).collect();
    check.report.capacity = superblock.layout.capacity();
    check.report.regions = superblock.layout.regions;
    check.report.regions_used = superblock.layout.regions - map.free_regions();
    let (total, mut done) = (index.len() as u64, 0);
    for slot in 0..u32::try_from(index.slots()).unwrap_or(u32::MAX) {
        let Some((hash, location)) = index.at(slot) else { continue };
        if let Err(error) = check.object(hash, location) {
            // A sector that cannot be read costs its object, as it does in a node, and not the rest of the check.
            let offset = location.unit() * UNIT_BYTES;
            check.damaged(None, offset, format!("cannot be read: {error}"));
        }
        done += 1;
        progress(FsckProgress { done, total, bytes: check.report.bytes });
    }
    Ok(check.report)
}

fn superblock(file: &CacheFile, path: &Path) -> Result<(Superblock, Vec<String>), CacheError> {
    let mut damage = Vec::new();
    let mut found = None;
    let mut ours = false;
    for (copy, offset) in [0, BLOCK_BYTES].into_iter().enumerate() {
        let mut block = [0; BLOCK_LEN];
        if let Err(error) = file.read_at(&mut block, offset) {
            damage.push(format!("superblock {copy}: {error}"));
            continue;
        }
        ours |= Superblock::is_ours(&block);
        match Superblock::decode(&block) {
            Ok(superblock) => found = found.or(Some(superblock)),
            Err(
                error @ (FormatError::NewerVersion { .. } | FormatError::UnknownFeature { .. }),
            ) => {
                return Err(CacheError::NewerFormat {
                    path: path.to_path_buf(),
                    found: error.to_string(),
                });
            }
            Err(error) => damage.push(format!("superblock {copy}: {error}")),
        }
    }
    match found {
        Some(superblock) => Ok((superblock, damage)),
        None if ours => Err(CacheError::Damaged { path: path.to_path_buf() }),
        None => Err(CacheError::Foreign { path: path.to_path_buf() }),
    }
}

struct Check<'a> {
    file: &'a CacheFile,
    superblock: &'a Superblock,
    rules: &'a [Rule],
    report: FsckReport,
    chunk: Vec<u8>,
}

impl Check<'_> {
    fn object(&mut self, hash: u64, location: Location) -> io::Result<()> {
        let offset = location.unit() * UNIT_BYTES;
        let mut head = [0; BLOCK];
        let len = usize::try_from((self.superblock.layout.size - offset).min(BLOCK_BYTES))
            .unwrap_or(BLOCK);
        self.file.read_at(&mut head[..len], offset)?;
        let view = match ExtentHeader::parse(&head[..len]) {
            Ok(view) => view,
            Err(error) => {
                self.damaged(None, offset, error.to_string());
                return Ok(());
            }
        };
        let genuine = view.key_hash() == hash
            && hash_key(&self.superblock.secret, view.key()) == hash
            && Location::seq_low(view.seq()) == location.seq_bits();
        if !genuine {
            self.damaged(
                Some(view.key()),
                offset,
                "the header is not the one that the index means".to_owned(),
            );
            return Ok(());
        }
        if self.rules.iter().any(|rule| rule.covers(view.generation(), view.key(), view.tags())) {
            // Gone for readers; only not swept yet.
            return Ok(());
        }
        if self.body(&view, offset)? {
            self.report.objects += 1;
            self.report.bytes += view.body_len();
        } else {
            self.damaged(Some(view.key()), offset, "the body fails its checksum".to_owned());
        }
        Ok(())
    }

    fn body(&mut self, view: &ExtentView<'_>, offset: u64) -> io::Result<bool> {
        let body = offset + u64::from(view.body_offset());
        let mut sums = vec![0; CHUNK_BYTES / 4];
        let chunks = view.body_len().div_ceil(CHUNK_BYTES as u64);
        let per_read = (sums.len() / 4) as u64;
        for chunk in 0..chunks {
            let place = usize::try_from(chunk % per_read).unwrap_or(0) * 4;
            if place == 0 {
                let count = usize::try_from((chunks - chunk).min(per_read)).unwrap_or(0);
                self.file
                    .read_at(&mut sums[..4 * count], offset + view.trailer_offset() + 4 * chunk)?;
            }
            let at = chunk * CHUNK_BYTES as u64;
            let len = usize::try_from((view.body_len() - at).min(CHUNK_BYTES as u64))
                .unwrap_or(CHUNK_BYTES);
            self.file.read_at(&mut self.chunk[..len], body + at)?;
            if crc32c(&self.chunk[..len]).to_le_bytes() != sums[place..place + 4] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn damaged(&mut self, key: Option<&str>, offset: u64, what: String) {
        self.report.damaged.push(FsckDamage { key: key.map(str::to_owned), offset, what });
    }
}

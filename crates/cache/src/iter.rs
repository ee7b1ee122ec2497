//! Walking over the stored objects.
use std::sync::Arc;

use crate::core::Core;
use crate::error::CacheError;
use crate::format::location::Location;
use crate::meta::{ObjectMeta, Version};
use crate::read::Object;

/// Walks over the objects in index order; objects stored or removed meanwhile may or may not be seen.
#[derive(Debug)]
pub struct ObjectIter {
    core: Arc<Core>,
    /// The next slot of the index to look at.
    slot: u32,
}

impl ObjectIter {
    pub(crate) fn new(core: Arc<Core>, cursor: u64) -> Self {
        Self { core, slot: u32::try_from(cursor).unwrap_or(u32::MAX) }
    }

    /// The next object, or `None` at the end.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the same object is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<ObjectMeta, CacheError>> {
        let now_ms = self.core.clock.now_ms();
        while let Some((slot, _, location)) = self.occupied() {
            let found = match self.pin(location) {
                Some((version, _guard)) => match self.core.entries.find(version) {
                    Some(entry) => Ok(Some(entry)),
                    None => self.core.load(version).await,
                },
                None => Ok(None),
            };
            self.slot = slot + 1;
            match found {
                Ok(Some(entry))
                    if !entry.meta.is_expired(now_ms) && !self.core.rules.is_purged(&entry) =>
                {
                    return Some(Ok(entry.meta.clone()));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Where this walk stands, for [`crate::RawDiskCache::iter_from`].
    pub fn cursor(&self) -> u64 {
        u64::from(self.slot)
    }

    /// The next object, pinned, for the threads of the cache.
    pub(crate) fn next_pinned_blocking(&mut self) -> Option<Result<Object, CacheError>> {
        let (slot, hash, location) = self.occupied()?;
        self.slot = slot + 1;
        Some(Object::pin_blocking(&self.core, hash, location))
    }

    fn occupied(&self) -> Option<(u32, u64, Location)> {
        let slots = u32::try_from(self.core.index.slots()).unwrap_or(u32::MAX);
        (self.slot..slots).find_map(|slot| {
            self.core.index.at(slot).map(|(hash, location)| (slot, hash, location))
        })
    }

    fn pin(&self, location: Location) -> Option<(Version, crate::read::Unpin<'_>)> {
        let region = self.core.region_of(location)?;
        let (leader, seq) = self.core.pins.try_pin(region, location.seq_bits())?;
        Some((Version { unit: location.unit(), seq }, crate::read::Unpin::new(&self.core, leader)))
    }
}

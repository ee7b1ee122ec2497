//! The only way up: what happened to objects, told to whoever built the cache.
use std::fmt;

use crate::meta::ObjectMeta;
use crate::purge::Purge;

/// Why an object left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// Somebody asked for it.
    Removed,
    /// Its lifetime ended and a reader met it.
    Expired,
    /// Its space was wanted.
    Evicted,
    /// Its bytes no longer match their checksum.
    Corrupt,
}

/// Hears of every change to the set of objects.
///
/// Called from the cache's own threads, after the change is visible: an implementation must not block.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// An object was stored, or replaced one of the same key.
    fn stored(&self, key: &str, meta: &ObjectMeta);
    /// An object is gone.
    fn removed(&self, key: &str, why: Removal);
    /// What a purge covers is gone; its objects are not told one by one.
    fn purged(&self, what: &Purge);
}

/// Hears nothing.
#[derive(Debug)]
pub(crate) struct NoObserver;

impl Observer for NoObserver {
    fn stored(&self, _key: &str, _meta: &ObjectMeta) {}
    fn removed(&self, _key: &str, _why: Removal) {}
    fn purged(&self, _what: &Purge) {}
}

//! The cluster's objects in this node's cache.
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use straightway_buffer::Reason;
use straightway_cache::{CacheError, Object, ObjectMeta, ObjectWriter, RawDiskCache, StoreOptions};
use straightway_cluster::catalogue::Entry;
use straightway_cluster::{
    BoxFuture, ObjectId, ObjectInfo, ObjectReader, ObjectSink, ObjectStore, StoreError,
};

use crate::feed::now_ms;

/// Begins the names of the cluster's objects in the cache: no key that a client sends begins so.
const MARK: char = '\u{1}';

/// Under which name the cache keeps an object of the cluster.
pub(crate) fn object_key(object: ObjectId) -> String {
    format!("{MARK}{:016x}{:016x}", object.node, object.serial)
}

/// The object that is kept under a name, if it is the cluster's.
pub(crate) fn object_of_key(key: &str) -> Option<ObjectId> {
    let digits = key.strip_prefix(MARK)?;
    let (node, serial) = digits.split_at_checked(16)?;
    let parse = |text| u64::from_str_radix(text, 16).ok();
    Some(ObjectId { node: parse(node)?, serial: parse(serial)? })
}

/// Whether a name in the cache is that of a cluster's object.
pub(crate) fn is_object_key(key: &str) -> bool {
    key.starts_with(MARK)
}

/// An object's description as a client sees it.
pub(crate) fn meta_of(entry: &Entry) -> ObjectMeta {
    ObjectMeta {
        key: entry.key.to_string(),
        len: entry.len,
        content_type: (!entry.content_type.is_empty()).then(|| entry.content_type.to_string()),
        tags: entry.tags.iter().map(ToString::to_string).collect(),
        stored_ms: entry.last_modified_ms,
        expires_ms: (entry.expires_ms != 0).then_some(entry.expires_ms),
        last_modified_ms: entry.last_modified_ms,
        digest: Some(entry.digest),
    }
}

/// Keeps the cluster's objects in a cache.
#[derive(Debug)]
pub(crate) struct CacheStore(RawDiskCache);

impl CacheStore {
    /// A store over `cache`.
    pub(crate) fn new(cache: RawDiskCache) -> Self {
        Self(cache)
    }
}

fn failed(what: &'static str) -> impl FnOnce(CacheError) -> StoreError {
    move |error| match error {
        CacheError::NoSpace { len } | CacheError::TooLarge { len, .. } => {
            StoreError::Full { len: Some(len) }
        }
        other => StoreError::Failed { what, source: Box::new(other) },
    }
}

impl ObjectStore for CacheStore {
    fn open(
        &self,
        id: ObjectId,
    ) -> BoxFuture<'_, Result<Option<Box<dyn ObjectReader>>, StoreError>> {
        Box::pin(async move {
            let object = self.0.open(&object_key(id)).await.map_err(failed("opening an object"))?;
            Ok(object.map(|object| Box::new(Reader::new(object)) as Box<dyn ObjectReader>))
        })
    }

    fn create<'a>(
        &'a self,
        id: ObjectId,
        info: &'a ObjectInfo,
    ) -> BoxFuture<'a, Result<Box<dyn ObjectSink>, StoreError>> {
        Box::pin(async move {
            let options = options(info, now_ms());
            let writer = self
                .0
                .writer(&object_key(id), info.len, options)
                .await
                .map_err(failed("storing an object"))?;
            Ok(Box::new(Sink { writer, hasher: Sha256::new() }) as Box<dyn ObjectSink>)
        })
    }

    fn forget(&self, ids: Vec<ObjectId>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What a crash brings back is found by the sweep: a name is never used twice.
            let keys: Vec<String> = ids.into_iter().map(object_key).collect();
            if let Err(error) = self.0.discard(&keys).await {
                // Nobody can ask for them any more; their space is reused in time.
                tracing::warn!(%error, "objects of the cluster could not be removed");
            }
        })
    }
}

/// How the cache keeps an object of the cluster. Tags and key are the catalogue's business.
pub(crate) fn options(info: &ObjectInfo, now_ms: u64) -> StoreOptions {
    let ttl = (info.expires_ms != 0)
        .then(|| Duration::from_millis(info.expires_ms.saturating_sub(now_ms)));
    StoreOptions {
        content_type: (!info.content_type.is_empty()).then(|| info.content_type.clone()),
        ttl,
        last_modified_ms: Some(info.last_modified_ms),
        ..StoreOptions::default()
    }
}

/// An object on its way to other members.
#[derive(Debug)]
struct Reader {
    object: Object,
    info: ObjectInfo,
}

impl Reader {
    fn new(object: Object) -> Self {
        let meta = object.meta();
        let info = ObjectInfo {
            key: meta.key.clone(),
            len: Some(meta.len),
            digest: meta.digest,
            content_type: meta.content_type.clone().unwrap_or_default(),
            expires_ms: meta.expires_ms.unwrap_or(0),
            last_modified_ms: meta.last_modified_ms,
            ..ObjectInfo::default()
        };
        Self { object, info }
    }
}

impl ObjectReader for Reader {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let end = offset.saturating_add(max as u64).min(self.object.len());
            if offset >= end {
                return Ok(Bytes::new());
            }
            // Copied into a pooled buffer: encryption reads the bytes, and must not meet a file that was cut short.
            let read = self.object.read(offset..end, Reason::Encrypt).await;
            let bytes = read.map_err(failed("reading an object"))?;
            if end < self.object.len() {
                self.object.prefetch(end..end.saturating_add(1 << 20).min(self.object.len()));
            }
            Ok(bytes)
        })
    }
}

/// An object on its way in.
#[derive(Debug)]
struct Sink {
    writer: ObjectWriter,
    hasher: Sha256,
}

impl ObjectSink for Sink {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.hasher.update(&chunk);
            self.writer.write(&chunk).await.map_err(failed("storing an object"))
        })
    }

    fn finish(
        self: Box<Self>,
        digest: Option<[u8; 32]>,
    ) -> BoxFuture<'static, Result<[u8; 32], StoreError>> {
        Box::pin(async move {
            let Self { writer, hasher } = *self;
            let computed: [u8; 32] = hasher.finalize().into();
            if digest.is_some_and(|announced| announced != computed) {
                return Err(StoreError::Digest);
            }
            writer.finish(Some(computed)).await.map_err(failed("storing an object"))?;
            Ok(computed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_cache_are_objects_and_back() {
        let object = ObjectId { node: 7, serial: 1 << 63 };
        let key = object_key(object);
        assert!(is_object_key(&key));
        assert_eq!(object_of_key(&key), Some(object));
        for other in ["", "a", "\u{1}", "\u{1}0123", "\u{1}zz000000000000000000000000000000"] {
            assert_eq!(object_of_key(other), None, "{other:?}");
        }
    }
}

//! Where bytes to be sent come from.
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use straightway_wire::CHUNK_BYTES;

use crate::ids::ObjectId;
use crate::store::{BoxFuture, ObjectReader, ObjectStore, StoreError};

/// Bytes to be sent, in order.
pub trait ChunkSource: Send {
    /// The next bytes, of any length but 0; `None`: that was all.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;

    /// Whether [`ChunkSource::digest`] will know; otherwise it is computed while sending.
    fn knows_digest(&self) -> bool {
        false
    }

    /// SHA-256 of everything, asked for after the end. `None`: of this, nobody wants to know it.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }
}

/// An object that is stored.
#[derive(Clone)]
pub struct ReaderSource {
    reader: Arc<dyn ObjectReader>,
    offset: u64,
    end: u64,
    whole: bool,
}

impl fmt::Debug for ReaderSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderSource").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl ReaderSource {
    /// All of it.
    pub fn new(reader: Arc<dyn ObjectReader>) -> Self {
        Self::part(reader, 0, None)
    }

    /// From `offset` on, at most `len` bytes.
    pub fn part(reader: Arc<dyn ObjectReader>, offset: u64, len: Option<u64>) -> Self {
        let end = len.map_or(u64::MAX, |len| offset.saturating_add(len));
        Self { reader, offset, end, whole: offset == 0 && len.is_none() }
    }
}

impl ChunkSource for ReaderSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(CHUNK_BYTES);
            if left == 0 {
                return Ok(None);
            }
            let chunk = self.reader.read(self.offset, left.min(CHUNK_BYTES)).await?;
            self.offset = self.offset.saturating_add(chunk.len() as u64);
            Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
        })
    }

    fn knows_digest(&self) -> bool {
        !self.whole || self.reader.info().digest.is_some()
    }

    fn digest(&self) -> Option<[u8; 32]> {
        self.reader.info().digest.filter(|_| self.whole)
    }
}

/// An object that is stored, opened when it is to be sent.
#[derive(Debug)]
pub struct StoredSource {
    store: Arc<dyn ObjectStore>,
    object: ObjectId,
    digest: Option<[u8; 32]>,
    open: Option<ReaderSource>,
}

impl StoredSource {
    /// All of an object, whose digest is this if it is known.
    pub fn new(store: Arc<dyn ObjectStore>, object: ObjectId, digest: Option<[u8; 32]>) -> Self {
        Self { store, object, digest, open: None }
    }
}

impl ChunkSource for StoredSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    let found = self.store.open(self.object).await?;
                    none.insert(ReaderSource::new(Arc::from(found.ok_or_else(gone)?)))
                }
            };
            open.next().await
        })
    }

    fn knows_digest(&self) -> bool {
        self.digest.is_some()
    }

    fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }
}

fn gone() -> StoreError {
    StoreError::Failed {
        what: "finding an object that has been stored",
        source: "it has been evicted: the cache is too small for what is being stored".into(),
    }
}

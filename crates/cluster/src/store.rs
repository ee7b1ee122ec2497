//! What the cluster asks of whoever keeps the objects' bytes. It knows nothing of files.
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::ids::ObjectId;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is known of an object besides its bytes; the same on every node that holds them.
#[derive(
    Debug, Clone, PartialEq, Eq, Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct ObjectInfo {
    /// The key under which it is asked for.
    pub key: String,
    /// Body length in bytes, as far as it is known when storing begins.
    pub len: Option<u64>,
    /// SHA-256 of the body, as far as it is known when storing begins.
    pub digest: Option<[u8; 32]>,
    /// MIME type.
    pub content_type: String,
    /// Content coding, empty if none.
    pub content_encoding: String,
    /// Tags.
    pub tags: Vec<String>,
    /// When it stops being served, in milliseconds since the Unix epoch; 0: never.
    pub expires_ms: u64,
    /// When it was last changed, in milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
}

/// Why the keeper of bytes could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room; try again later or elsewhere.
    #[error("no room to store {len:?} bytes")]
    Full {
        /// Bytes wanted, if known.
        len: Option<u64>,
    },
    /// The bytes are not those that were announced.
    #[error("the bytes are not those that were announced")]
    Digest,
    /// Anything else.
    #[error("{what} failed")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Keeps the bytes of objects, one version under one [`ObjectId`]. What is stored is visible to nobody but the cluster.
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Opens what is stored whole under `id`; `None`: it is not here.
    fn open(
        &self,
        id: ObjectId,
    ) -> BoxFuture<'_, Result<Option<Box<dyn ObjectReader>>, StoreError>>;
    /// Begins to store. Nothing is there before [`ObjectSink::finish`]; dropping the sink forgets what was written.
    fn create<'a>(
        &'a self,
        id: ObjectId,
        info: &'a ObjectInfo,
    ) -> BoxFuture<'a, Result<Box<dyn ObjectSink>, StoreError>>;
    /// Forgets; what is not there is no error.
    fn forget(&self, ids: Vec<ObjectId>) -> BoxFuture<'_, ()>;
}

/// An object that is open for reading.
pub trait ObjectReader: fmt::Debug + Send + Sync {
    /// What is known of it; length and digest are set.
    fn info(&self) -> &ObjectInfo;
    /// At most `max` bytes from `offset` on, verified, by reference where the store can; empty only at the end.
    fn read(&self, offset: u64, max: usize) -> BoxFuture<'_, Result<Bytes, StoreError>>;
}

/// An object that is being stored.
pub trait ObjectSink: fmt::Debug + Send {
    /// Appends.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Makes it whole. Fails with [`StoreError::Digest`] where `digest` is given and is not that of the bytes; answers
    /// with the digest.
    fn finish(
        self: Box<Self>,
        digest: Option<[u8; 32]>,
    ) -> BoxFuture<'static, Result<[u8; 32], StoreError>>;
}

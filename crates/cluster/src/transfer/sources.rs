//! Where bytes to be sent come from.
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use straightway_wire::CHUNK_BYTES;
use tokio::sync::mpsc;

use crate::store::{BoxFuture, ObjectReader, StoreError};

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
    whole: bool,
}

impl fmt::Debug for ReaderSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderSource").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl ReaderSource {
    /// From `offset` on.
    pub fn new(reader: Arc<dyn ObjectReader>, offset: u64) -> Self {
        Self { reader, offset, whole: offset == 0 }
    }
}

impl ChunkSource for ReaderSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            let chunk = self.reader.read(self.offset, CHUNK_BYTES).await?;
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

/// Bytes that are sent as they come in: what is read from a client goes to other members at the same time. A sender that is dropped
/// before [`ChannelSource::END`] was sent has given up.
#[derive(Debug)]
pub struct ChannelSource {
    chunks: mpsc::Receiver<Result<Bytes, StoreError>>,
    ended: bool,
}

impl ChannelSource {
    /// What is sent last: no bytes.
    pub const END: Bytes = Bytes::new();

    /// From this channel.
    pub fn new(chunks: mpsc::Receiver<Result<Bytes, StoreError>>) -> Self {
        Self { chunks, ended: false }
    }
}

impl ChunkSource for ChannelSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        Box::pin(async {
            if self.ended {
                return Ok(None);
            }
            match self.chunks.recv().await {
                Some(Ok(chunk)) if chunk.is_empty() => {
                    self.ended = true;
                    Ok(None)
                }
                Some(Ok(chunk)) => Ok(Some(chunk)),
                Some(Err(error)) => Err(error),
                None => Err(StoreError::Failed {
                    what: "reading what is to be stored",
                    source: "it ended too early".into(),
                }),
            }
        })
    }
}

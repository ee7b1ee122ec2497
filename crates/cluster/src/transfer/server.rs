//! Transfers that peers begin.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iroh::endpoint::{RecvStream, SendStream};
use straightway_buffer::MemoryPool;
use straightway_wire::CHUNK_BYTES;

use super::parts::Part;
use super::sources::ReaderSource;
use super::stream::{Body, PROGRESS, Piece, Receiver, Sender};
use super::talk::{Answer, Opening, decode_opening, encode_answer, invalid, object};
use super::{ChunkSource, SnapshotMark};
use crate::error::ClusterError;
use crate::ids::RaftId;
use crate::net::BulkHandler;
use crate::store::{BoxFuture, ObjectInfo, ObjectReader, ObjectStore, StoreError};

/// A snapshot that is open for reading.
pub type OpenSnapshot = (SnapshotMark, Box<dyn ChunkSource>);

/// Gives snapshots of the state machine.
pub trait SnapshotStore: fmt::Debug + Send + Sync + 'static {
    /// The snapshot at `index`, 0 for the newest; `None`: there is none.
    fn open(&self, index: u64) -> BoxFuture<'_, Result<Option<OpenSnapshot>, StoreError>>;
}

/// What was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferStats {
    /// Objects that were stored.
    pub stored: u64,
    /// Objects that were sent, whole or the rest of them.
    pub sent: u64,
    /// Parts of objects that were sent, for readers.
    pub parts: u64,
    /// Snapshots that were sent.
    pub snapshots: u64,
    /// Bytes that came.
    pub bytes_in: u64,
    /// Bytes that were sent.
    pub bytes_out: u64,
    /// Transfers that came to nothing.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    stored: AtomicU64,
    sent: AtomicU64,
    parts: AtomicU64,
    snapshots: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    failed: AtomicU64,
}

/// Serves the transfers of others from this node's stores.
#[derive(Debug)]
pub struct TransferServer {
    store: Arc<dyn ObjectStore>,
    snapshots: Arc<dyn SnapshotStore>,
    pool: MemoryPool,
    counters: Counters,
}

impl TransferServer {
    /// From these stores.
    pub fn new(store: Arc<dyn ObjectStore>, snapshots: Arc<dyn SnapshotStore>) -> Self {
        let pool = MemoryPool::new(CHUNK_BYTES);
        Self { store, snapshots, pool, counters: Counters::default() }
    }

    /// What was served.
    pub fn stats(&self) -> TransferStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { stored, sent, parts, snapshots, bytes_in, bytes_out, failed } =
            &self.counters;
        TransferStats {
            stored: read(stored),
            sent: read(sent),
            parts: read(parts),
            snapshots: read(snapshots),
            bytes_in: read(bytes_in),
            bytes_out: read(bytes_out),
            failed: read(failed),
        }
    }

    async fn transfer(
        &self,
        mut sender: Sender,
        mut receiver: Receiver,
    ) -> Result<(), ClusterError> {
        let Part::Request(opening) = receiver.next(PROGRESS).await? else {
            return Err(invalid(&"it does not begin with what is wanted"));
        };
        match decode_opening(&opening)? {
            Opening::Push { id, info } => {
                let stored = self.take_object(id, info, Body::new(receiver)).await;
                let stored = stored.map(|digest| Answer::Stored { digest });
                self.conclude(&mut sender, stored, &self.counters.stored).await
            }
            Opening::Pull { id, offset, len } => {
                let reader: Arc<dyn ObjectReader> = match self.store.open(object(id)).await {
                    Ok(Some(reader)) => reader.into(),
                    Ok(None) => return say(&mut sender, &Answer::Missing).await,
                    Err(error) => return say(&mut sender, &error.into()).await,
                };
                let answer = Answer::Found { info: reader.info().clone() };
                let count = if len.is_some() { &self.counters.parts } else { &self.counters.sent };
                let mut source = ReaderSource::part(reader, offset, len);
                self.give(&mut sender, &answer, &mut source, count).await
            }
            Opening::PullSnapshot { index } => {
                let (mark, mut source) = match self.snapshots.open(index).await {
                    Ok(Some(found)) => found,
                    Ok(None) => return say(&mut sender, &Answer::Missing).await,
                    Err(error) => return say(&mut sender, &error.into()).await,
                };
                let answer = Answer::FoundSnapshot { mark };
                self.give(&mut sender, &answer, &mut *source, &self.counters.snapshots).await
            }
        }
    }

    /// Sends an answer and a body.
    async fn give(
        &self,
        sender: &mut Sender,
        answer: &Answer,
        source: &mut dyn ChunkSource,
        count: &AtomicU64,
    ) -> Result<(), ClusterError> {
        encode_answer(&mut sender.out, answer)?;
        sender.flush().await?;
        let trailer = sender.body(source).await?;
        sender.finish();
        self.counters.bytes_out.fetch_add(trailer.len, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn take_object(
        &self,
        id: [u8; 16],
        info: ObjectInfo,
        mut body: Body,
    ) -> Result<[u8; 32], ClusterError> {
        let mut sink = self.store.create(object(id), &info).await?;
        loop {
            match body.next().await? {
                Piece::Chunk(chunk) => {
                    self.counters.bytes_in.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    if info.len.is_some_and(|len| body.len() > len) {
                        return Err(StoreError::Digest.into());
                    }
                    sink.write(chunk).await?;
                }
                Piece::End(trailer) => {
                    if info.len.is_some_and(|len| body.len() != len) {
                        return Err(StoreError::Digest.into());
                    }
                    return Ok(sink.finish(trailer.digest.or(info.digest)).await?);
                }
            }
        }
    }

    /// Says what became of what was sent.
    async fn conclude(
        &self,
        sender: &mut Sender,
        outcome: Result<Answer, ClusterError>,
        count: &AtomicU64,
    ) -> Result<(), ClusterError> {
        match outcome {
            Ok(answer) => {
                count.fetch_add(1, Ordering::Relaxed);
                say(sender, &answer).await
            }
            Err(ClusterError::Store(error)) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                say(sender, &error.into()).await
            }
            Err(error) => {
                // Whoever sent that may not be there any more.
                let _ = say(sender, &Answer::failed(&error)).await;
                Err(error)
            }
        }
    }
}

async fn say(sender: &mut Sender, answer: &Answer) -> Result<(), ClusterError> {
    encode_answer(&mut sender.out, answer)?;
    sender.flush().await?;
    sender.finish();
    Ok(())
}

impl BulkHandler for TransferServer {
    fn serve(&self, peer: RaftId, send: SendStream, receive: RecvStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let receiver = Receiver::new(receive, self.pool.clone());
            if let Err(error) = self.transfer(Sender::new(send), receiver).await {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(peer, %error, "a transfer came to nothing");
            }
        })
    }
}

//! Storing objects: how a body of any length gets from the caller to its extent.
//!
//! The first bytes are gathered in memory. A body that ends there is a small object and goes to the packer; one that
//! does not gets an extent of its own and is written piece by piece, each piece a few aligned buffers, with a bounded
//! number of pieces on their way to the device. Header and checksums are written last, then the commit makes the
//! object visible: a writer that is dropped before leaves nothing behind.
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use straightway_buffer::{PooledBuffer, Reason};

use crate::commit::{Change, Current};
use crate::core::{BLOCK, BLOCK_BYTES, Core, Held, UNIT_BYTES};
use crate::error::CacheError;
use crate::format::crc32c;
use crate::format::extent::{
    self, CHUNK_BYTES, ExtentHeader, MAX_CONTENT_TYPE_BYTES, MAX_TAGS, MAX_TAGS_BYTES,
};
use crate::io::Completion;
use crate::meta::{Entry, ObjectMeta, Parts, Version};
use crate::purge::Upload;
use crate::segment::space::Kind;

/// What must hold for a store to take effect, decided at the moment it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Nothing: the new object replaces whatever is there.
    #[default]
    Any,
    /// No live object has this key.
    Absent,
    /// The key still holds this incarnation.
    Version(Version),
}

/// What is stored beside the bytes.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// MIME type, at most 256 bytes.
    pub content_type: Option<String>,
    /// Lifetime; the cache's own when `None`. Zero: expired at once.
    pub ttl: Option<Duration>,
    /// At most 16 tags of together at most 1024 bytes.
    pub tags: Vec<String>,
    /// Precondition.
    pub expect: Expect,
    /// When the content last changed; the time of storing when `None`.
    pub last_modified_ms: Option<u64>,
}

/// What a store did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Whether a live object of this key was replaced.
    pub replaced: bool,
    /// Body length in bytes.
    pub len: u64,
    /// The new incarnation.
    pub version: Version,
}

/// A body on its way into the cache. Dropping it abandons the body: nothing becomes visible.
#[derive(Debug)]
pub struct ObjectWriter {
    core: Arc<Core>,
    key: String,
    hash: u64,
    announced: Option<u64>,
    options: StoreOptions,
    upload: Upload,
    written: u64,
    /// The chunk being filled.
    chunk: Option<PooledBuffer>,
    large: Option<LargeBody>,
}

/// Chunks that are written to the device together.
const PIECE_CHUNKS: usize = 8;
/// Pieces of one body that may be on their way at once.
const MAX_PIECES: usize = 3;
/// First reservation for a body of unknown length; each next one is four times as large.
const FIRST_GUESS_BYTES: u64 = 4 << 20;

impl ObjectWriter {
    pub(crate) fn new(
        core: Arc<Core>,
        key: &str,
        announced: Option<u64>,
        options: StoreOptions,
    ) -> Result<Self, CacheError> {
        check_options(&options)?;
        if let Some(len) = announced {
            check_len(&core, len)?;
        }
        let hash = core.hash(key);
        let upload = core.rules.begin(hash);
        Ok(Self {
            upload,
            core,
            key: key.to_owned(),
            hash,
            announced,
            options,
            written: 0,
            chunk: None,
            large: None,
        })
    }

    /// Appends a chunk. Waits while too many earlier chunks are still on their way to the device.
    ///
    /// # Errors
    /// [`CacheError::TooLarge`] or [`CacheError::LengthMismatch`] as soon as the body runs over its limit or its
    /// announced length; [`CacheError::NoSpace`]; [`CacheError::Io`]. After an error, drop the writer.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped call, drop the writer.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), CacheError> {
        let total = self.written + chunk.len() as u64;
        match self.announced {
            Some(expected) if total > expected => return Err(self.mismatch(expected, total)),
            Some(_) => {}
            None => check_len(&self.core, total)?,
        }
        let mut rest = chunk;
        while !rest.is_empty() {
            let mut buffer = match self.chunk.take() {
                Some(buffer) => buffer,
                None => self.core.buffers.acquire(self.chunk_len(rest.len()))?,
            };
            let taken = buffer.fill_from(rest, Reason::Ingest);
            rest = &rest[taken..];
            self.written += taken as u64;
            if buffer.len() >= CHUNK_BYTES {
                self.put_chunk(buffer).await?;
            } else if buffer.remaining() == 0 {
                // A smaller tier is full: go on in a whole chunk.
                let mut larger = self.core.buffers.acquire(CHUNK_BYTES)?;
                larger.fill_from(&buffer, Reason::Ingest);
                self.chunk = Some(larger);
            } else {
                self.chunk = Some(buffer);
            }
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the object visible, with the body's SHA-256 when the caller has it. When this returns, the object
    /// survives the death of the process; one that replaced another is on the medium.
    ///
    /// # Errors
    /// [`CacheError::LengthMismatch`] when the body is shorter than announced, [`CacheError::PreconditionFailed`] when
    /// [`StoreOptions::expect`] does not hold; nothing is visible then.
    pub async fn finish(mut self, digest: Option<[u8; 32]>) -> Result<Stored, CacheError> {
        if let Some(expected) = self.announced
            && expected != self.written
        {
            return Err(self.mismatch(expected, self.written));
        }
        let meta = self.meta(digest);
        let (current, replaces) = self.judge().await?;
        let (committed, version) = match self.large.take() {
            None => {
                let body = self.chunk.take().map(PooledBuffer::freeze).unwrap_or_default();
                let (hash, upload) = (self.hash, self.upload);
                self.core.packer.store(meta, hash, body, current, upload).await?
            }
            Some(large) => {
                let last = self.chunk.take();
                let generation = self.upload.generation;
                let (entry, held) =
                    large.finish(&self.core, meta, self.hash, generation, last).await?;
                let version = entry.version;
                (
                    self.core
                        .committer
                        .commit(Change::Insert { entry, current, upload: self.upload }, Some(held))
                        .await?,
                    version,
                )
            }
        };
        if !committed.applied {
            return Err(CacheError::PreconditionFailed { key: self.key });
        }
        Ok(Stored {
            replaced: replaces && committed.previous.is_some(),
            len: self.written,
            version,
        })
    }

    fn chunk_len(&self, at_least: usize) -> usize {
        let announced = self.announced.map_or(CHUNK_BYTES as u64, |len| len - self.written);
        let expected = usize::try_from(announced).unwrap_or(CHUNK_BYTES);
        if self.large.is_some() {
            CHUNK_BYTES
        } else {
            expected.max(at_least.min(CHUNK_BYTES)).clamp(1, CHUNK_BYTES)
        }
    }

    async fn put_chunk(&mut self, chunk: PooledBuffer) -> Result<(), CacheError> {
        if self.large.is_none() {
            self.large = Some(LargeBody::start(&self.core, self.announced).await?);
        }
        match &mut self.large {
            Some(large) => large.put(&self.core, chunk).await,
            None => Ok(()),
        }
    }

    fn mismatch(&self, expected: u64, actual: u64) -> CacheError {
        CacheError::LengthMismatch { key: self.key.clone(), expected, actual }
    }

    fn meta(&self, digest: Option<[u8; 32]>) -> ObjectMeta {
        let now_ms = self.core.clock.now_ms();
        let lifetime = self.options.ttl.or((!self.core.ttl.is_zero()).then_some(self.core.ttl));
        let expires_ms = lifetime.map(|ttl| {
            now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)).max(1)
        });
        ObjectMeta {
            key: self.key.clone(),
            len: self.written,
            content_type: self.options.content_type.clone(),
            tags: self.options.tags.clone(),
            stored_ms: now_ms,
            expires_ms,
            last_modified_ms: self.options.last_modified_ms.unwrap_or(now_ms),
            digest,
        }
    }

    /// Turns the precondition into what the committer compares, and tells whether a live object will be replaced.
    async fn judge(&self) -> Result<(Current, bool), CacheError> {
        let seen = self.core.index.find(self.hash);
        let live = self.core.peek(&self.key).await?;
        let failed = || Err(CacheError::PreconditionFailed { key: self.key.clone() });
        match self.options.expect {
            Expect::Any => Ok((Current::Any, live.is_some())),
            Expect::Absent if live.is_some() => failed(),
            Expect::Absent => Ok((Current::Is(seen), false)),
            Expect::Version(version) => match live {
                Some(entry) if entry.version == version => {
                    Ok((Current::Is(Some(entry.location())), true))
                }
                _ => failed(),
            },
        }
    }
}

/// A body that has an extent of its own.
#[derive(Debug)]
struct LargeBody {
    held: Held,
    /// Where the body starts, from the start of the extent: one block of header.
    body_offset: u64,
    /// Bytes of body handed to the device.
    sent: u64,
    piece: Vec<PooledBuffer>,
    pieces: VecDeque<Completion<()>>,
    checksums: Vec<u32>,
    /// Whether the reservation is as long as the body will be.
    exact: bool,
}

impl LargeBody {
    async fn start(core: &Arc<Core>, announced: Option<u64>) -> Result<Self, CacheError> {
        let body_len = announced.unwrap_or(FIRST_GUESS_BYTES.min(core.max_object));
        let held = core
            .reserve(Kind::LargeProbation, extent::large_extent_len(body_len), core.align)
            .await?;
        let chunks = usize::try_from(body_len.div_ceil(CHUNK_BYTES as u64)).unwrap_or(0);
        Ok(Self {
            held,
            body_offset: BLOCK_BYTES,
            sent: 0,
            piece: Vec::with_capacity(PIECE_CHUNKS),
            pieces: VecDeque::new(),
            checksums: Vec::with_capacity(chunks),
            exact: announced.is_some(),
        })
    }

    async fn put(&mut self, core: &Arc<Core>, chunk: PooledBuffer) -> Result<(), CacheError> {
        self.checksums.push(crc32c(&chunk));
        self.piece.push(chunk);
        if self.piece.len() == PIECE_CHUNKS {
            self.send_piece(core).await?;
        }
        Ok(())
    }

    async fn send_piece(&mut self, core: &Arc<Core>) -> Result<(), CacheError> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_CHUNKS));
        let bytes: u64 = piece.iter().map(|chunk| chunk.len() as u64).sum();
        if !self.exact && extent::large_extent_len(self.sent + bytes) > self.held.reservation.len {
            self.relocate(core, self.sent + bytes).await?;
        }
        while self.pieces.len() >= MAX_PIECES {
            self.wait_one(core).await?;
        }
        let offset = self.held.reservation.offset + self.body_offset + self.sent;
        self.pieces.push_back(core.io.write(piece, offset, self.held.keep()));
        self.sent += bytes;
        Ok(())
    }

    async fn wait_one(&mut self, core: &Core) -> Result<(), CacheError> {
        if let Some(piece) = self.pieces.pop_front() {
            piece.await.map_err(|source| core.io_error("writing an object", source))?;
        }
        Ok(())
    }

    async fn wait_all(&mut self, core: &Core) -> Result<(), CacheError> {
        while !self.pieces.is_empty() {
            self.wait_one(core).await?;
        }
        Ok(())
    }

    /// The guess was too small: takes a run four times as long and copies what is there, on the device's side of the
    /// pool. The copying adds up to a third of the body at the most.
    async fn relocate(&mut self, core: &Arc<Core>, needed: u64) -> Result<(), CacheError> {
        self.wait_all(core).await?;
        let most = extent::large_extent_len(core.max_object);
        let wanted = extent::large_extent_len(needed)
            .max(self.held.reservation.len.saturating_mul(4))
            .min(most);
        let larger = core.reserve(Kind::LargeProbation, wanted, core.align).await?;
        let (from, to) = (
            self.held.reservation.offset + self.body_offset,
            larger.reservation.offset + self.body_offset,
        );
        let mut done = 0;
        while done < self.sent {
            let step = usize::try_from(self.sent - done).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let buffer = core.io.read(core.buffers.acquire(step)?, from + done, step).await;
            let buffer =
                buffer.map_err(|source| core.io_error("reading back an object", source))?;
            straightway_buffer::count_copied(step, Reason::Relocate);
            core.io
                .write(vec![buffer], to + done, larger.keep())
                .await
                .map_err(|source| core.io_error("writing an object", source))?;
            done += step as u64;
        }
        let old = std::mem::replace(&mut self.held, larger);
        old.shrink(0);
        Ok(())
    }

    /// Writes the last chunk, the checksums behind it, and the header.
    async fn finish(
        mut self,
        core: &Arc<Core>,
        meta: ObjectMeta,
        hash: u64,
        generation: u64,
        last: Option<PooledBuffer>,
    ) -> Result<(Arc<Entry>, Held), CacheError> {
        if let Some(last) = &last {
            self.checksums.push(crc32c(last));
        }
        let header = ExtentHeader::new(&meta, hash, generation);
        let shape = header.large_shape();
        if !self.piece.is_empty() {
            self.send_piece(core).await?;
        }
        if !self.exact && shape.extent_len > self.held.reservation.len {
            self.relocate(core, meta.len).await?;
        }
        let tail = extent::large_tail(last.as_deref().unwrap_or_default(), &self.checksums);
        drop(last);
        self.write_tail(core, &tail).await?;
        let mut block = core.buffers.acquire(BLOCK)?;
        block.as_mut_capacity().fill(0);
        header
            .encode_into(block.as_mut_capacity(), self.held.reservation.seq, &shape)
            .map_err(|source| core.io_error("encoding a header", io::Error::other(source)))?;
        block.set_len(BLOCK)?;
        let at = self.held.reservation.offset;
        self.pieces.push_back(core.io.write(vec![block], at, self.held.keep()));
        self.wait_all(core).await?;
        self.held.shrink(shape.extent_len);
        let reservation = self.held.reservation;
        let parts = Parts {
            body: reservation.offset + u64::from(shape.body_offset),
            trailer: reservation.offset + shape.trailer_offset,
            extent_len: shape.extent_len,
        };
        let version = Version { unit: reservation.offset / UNIT_BYTES, seq: reservation.seq };
        Ok((Arc::new(Entry::new(meta, hash, generation, version, parts)), self.held))
    }

    /// The end of the body and its checksums, padded to whole blocks.
    async fn write_tail(&mut self, core: &Arc<Core>, tail: &[u8]) -> Result<(), CacheError> {
        for part in tail.chunks(CHUNK_BYTES) {
            let padded = part.len().next_multiple_of(BLOCK);
            let mut buffer = core.buffers.acquire(padded)?;
            buffer.fill_from(part, Reason::Checksums);
            let filled = buffer.len();
            buffer.set_len(padded)?;
            buffer[filled..].fill(0);
            while self.pieces.len() >= MAX_PIECES {
                self.wait_one(core).await?;
            }
            let offset = self.held.reservation.offset + self.body_offset + self.sent;
            self.pieces.push_back(core.io.write(vec![buffer], offset, self.held.keep()));
            self.sent += part.len() as u64;
        }
        Ok(())
    }
}

fn check_len(core: &Core, len: u64) -> Result<(), CacheError> {
    if len > core.max_object {
        Err(CacheError::TooLarge { len, limit: core.max_object })
    } else {
        Ok(())
    }
}

fn check_options(options: &StoreOptions) -> Result<(), CacheError> {
    let check = |what, len, limit| {
        if len > limit { Err(CacheError::MetadataTooLong { what, len, limit }) } else { Ok(()) }
    };
    check(
        "content type",
        options.content_type.as_ref().map_or(0, String::len),
        MAX_CONTENT_TYPE_BYTES,
    )?;
    check("list of tags", options.tags.len(), MAX_TAGS)?;
    check("text of the tags", options.tags.iter().map(String::len).sum(), MAX_TAGS_BYTES)
}

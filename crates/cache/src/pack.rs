//! Small objects share blocks: one thread packs those that arrive together and writes them as one.
//!
//! The last block of a pack is written again when the next objects share it. That is safe for readers: the bytes of the
//! objects already in it are the same in every writing, and each writing is whole blocks by O_DIRECT.
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use straightway_buffer::PooledBuffer;
use tokio::sync::{Semaphore, oneshot};

use crate::commit::{Change, Committed, Current, Reply};
use crate::core::{BLOCK, BLOCK_BYTES, Core, Held, UNIT_BYTES};
use crate::error::CacheError;
use crate::format::extent::{self, ExtentHeader};
use crate::meta::{Entry, ObjectMeta, Parts, Version};
use crate::purge::Upload;
use crate::segment::space::Kind;

/// A small object on its way to the device.
#[derive(Debug)]
pub(crate) struct Needle {
    pub(crate) meta: ObjectMeta,
    pub(crate) hash: u64,
    pub(crate) body: Bytes,
    pub(crate) current: Current,
    pub(crate) upload: Upload,
    pub(crate) reply: oneshot::Sender<Result<(Committed, Version), CacheError>>,
}

/// Where needles are handed in.
#[derive(Debug)]
pub(crate) struct PackQueue {
    sender: Mutex<Option<Sender<Needle>>>,
    permits: Semaphore,
}

/// Needles that callers may have under way at once: at 64 KiB each they hold at most 16 MiB.
const MAX_NEEDLES: usize = 256;
/// Bytes that are packed before they are written, so that one slow batch does not hold up the next.
const PACK_BYTES: usize = 256 * 1024;

impl PackQueue {
    /// The handle, and the end that [`run`] drains.
    pub(crate) fn new() -> (Self, Receiver<Needle>) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_NEEDLES);
        (Self { sender: Mutex::new(Some(sender)), permits: Semaphore::new(MAX_NEEDLES) }, receiver)
    }

    /// Stores a small object; waits until it is committed.
    pub(crate) async fn store(
        &self,
        meta: ObjectMeta,
        hash: u64,
        body: Bytes,
        current: Current,
        upload: Upload,
    ) -> Result<(Committed, Version), CacheError> {
        let _permit = self.permits.acquire().await.map_err(|_| CacheError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let sender = self.sender.lock().clone().ok_or(CacheError::Closed)?;
        sender
            .send(Needle { meta, hash, body, current, upload, reply })
            .map_err(|_| CacheError::Closed)?;
        answer.await.map_err(|_| CacheError::Closed)?
    }

    /// Ends the packer's thread once everything handed in is done.
    pub(crate) fn stop(&self) {
        self.sender.lock().take();
    }
}

/// The packer's thread: returns when [`PackQueue::stop`] was called and the queue is empty.
pub(crate) fn run(core: &Arc<Core>, queue: &Receiver<Needle>) {
    let mut pack = match Pack::new(core) {
        Ok(pack) => pack,
        Err(error) => return tracing::error!(%error, "no buffer to pack small objects in"),
    };
    while let Ok(first) = queue.recv() {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while bytes < PACK_BYTES
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.body.len();
            batch.push(next);
        }
        store_batch(core, &mut pack, batch);
    }
}

struct Packed {
    held: Held,
    entry: Arc<Entry>,
    current: Current,
    upload: Upload,
    reply: oneshot::Sender<Result<(Committed, Version), CacheError>>,
}

fn store_batch(core: &Arc<Core>, pack: &mut Pack, batch: Vec<Needle>) {
    let mut packed = Vec::with_capacity(batch.len());
    for needle in batch {
        let header = ExtentHeader::new(&needle.meta, needle.hash, needle.upload.generation);
        let len = header.needle_shape().extent_len;
        let reserved = core.try_reserve(Kind::SmallProbation, len, UNIT_BYTES);
        let held = if let Some(reservation) = reserved {
            Ok(Held::new(core.clone(), reservation))
        } else {
            // What is packed goes out before waiting for space: the reclaimer may want what it pins.
            settle(core, pack, std::mem::take(&mut packed));
            core.reserve_blocking(Kind::SmallProbation, len, UNIT_BYTES)
        };
        match held.and_then(|held| place(core, pack, &needle, held)) {
            Ok((held, entry)) => {
                let Needle { current, upload, reply, .. } = needle;
                packed.push(Packed { held, entry, current, upload, reply });
            }
            Err(error) => drop(needle.reply.send(Err(error))),
        }
    }
    settle(core, pack, packed);
}

/// Writes what is packed, commits it, and answers.
fn settle(core: &Core, pack: &mut Pack, packed: Vec<Packed>) {
    if let Err(error) = pack.flush(core) {
        for one in packed {
            let source = io::Error::new(error.kind(), error.to_string());
            drop(one.reply.send(Err(core.io_error("writing small objects", source))));
        }
        return;
    }
    let mut waiting = Vec::with_capacity(packed.len());
    for Packed { held, entry, current, upload, reply } in packed {
        let version = entry.version;
        let (committed, answer): (Reply, _) = oneshot::channel();
        let change = Change::Insert { entry, current, upload };
        match core.committer.hand_in(change, Some(held), committed) {
            Ok(()) => waiting.push((answer, version, reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }
    for (answer, version, reply) in waiting {
        let outcome = answer.blocking_recv().unwrap_or(Err(CacheError::Closed));
        drop(reply.send(outcome.map(|committed| (committed, version))));
    }
}

/// Puts a small object into the pack.
fn place(
    core: &Core,
    pack: &mut Pack,
    needle: &Needle,
    held: Held,
) -> Result<(Held, Arc<Entry>), CacheError> {
    let header = ExtentHeader::new(&needle.meta, needle.hash, needle.upload.generation);
    let shape = header.needle_shape();
    let reservation = held.reservation;
    let parts = Parts {
        body: reservation.offset + u64::from(shape.body_offset),
        trailer: reservation.offset + shape.trailer_offset,
        extent_len: shape.extent_len,
    };
    let room = pack.room(core, reservation.offset, shape.extent_len);
    room.and_then(|room| {
        header.encode_into(room, reservation.seq, &shape).map_err(io::Error::other)?;
        extent::put_body(room, &shape, &needle.body);
        Ok(())
    })
    .map_err(|source| core.io_error("packing a small object", source))?;
    let version = Version { unit: reservation.offset / UNIT_BYTES, seq: reservation.seq };
    let generation = needle.upload.generation;
    let entry = Entry::new(needle.meta.clone(), needle.hash, generation, version, parts);
    Ok((held, Arc::new(entry)))
}

/// Adjacent extents in memory, written as whole blocks.
pub(crate) struct Pack {
    buffer: PooledBuffer,
    /// Absolute offset of the buffer's first byte; a multiple of the block.
    base: u64,
    /// Bytes in use.
    len: usize,
    /// Bytes below this are on the device and fill whole blocks.
    written: usize,
    /// Whether there is anything that is not on the device.
    dirty: bool,
}

impl Pack {
    pub(crate) fn new(core: &Core) -> io::Result<Self> {
        Ok(Self {
            buffer: core.aligned(PACK_BYTES + 2 * (64 * 1024 + BLOCK))?,
            base: 0,
            len: 0,
            written: 0,
            dirty: false,
        })
    }

    /// Zeroed room for an extent at `offset`; writes out what is in the way.
    pub(crate) fn room(&mut self, core: &Core, offset: u64, len: u64) -> io::Result<&mut [u8]> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let adjacent = self.len > 0 && offset == self.base + self.len as u64;
        if !adjacent || self.len + len > self.buffer.capacity() {
            self.flush(core)?;
            self.start_at(core, offset, adjacent)?;
        }
        let start = self.len;
        self.len += len;
        self.dirty = true;
        let room = &mut self.buffer.as_mut_capacity()[start..start + len];
        room.fill(0);
        Ok(room)
    }

    /// Writes the blocks that are not on the device yet, the last one padded with zeros.
    pub(crate) fn flush(&mut self, core: &Core) -> io::Result<()> {
        let end = self.len.next_multiple_of(BLOCK);
        if !self.dirty {
            return Ok(());
        }
        let buffer = self.buffer.as_mut_capacity();
        buffer[self.len..end].fill(0);
        core.device.write_at(&buffer[self.written..end], self.base + self.written as u64)?;
        self.written = self.len / BLOCK * BLOCK;
        self.dirty = false;
        Ok(())
    }

    /// Moves the buffer to another place, with the bytes that share the first block.
    fn start_at(&mut self, core: &Core, offset: u64, adjacent: bool) -> io::Result<()> {
        let base = offset / BLOCK_BYTES * BLOCK_BYTES;
        let shared = usize::try_from(offset - base).map_err(io::Error::other)?;
        let buffer = self.buffer.as_mut_capacity();
        if adjacent {
            buffer.copy_within(self.len - shared..self.len, 0);
        } else if shared > 0 {
            core.device.read_at(&mut buffer[..BLOCK], base)?;
        }
        self.base = base;
        self.len = shared;
        self.written = 0;
        Ok(())
    }
}

//! The two directions of a transfer's stream. Whatever makes no progress for too long is given up.
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream, VarInt};
use sha2::{Digest, Sha256};
use straightway_buffer::MemoryPool;
use straightway_wire::{CHUNK_BYTES, QUIC_CUT, Segments, WireError};

use super::ChunkSource;
use super::parts::{Part, Parts, encode_alive, encode_chunk, encode_end};
use super::talk::{Trailer, decode_trailer, encode_trailer, invalid};
use crate::error::ClusterError;
use crate::store::BoxFuture;

/// How long anything may take that should go on.
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);
/// How often a sender that has nothing to send yet says that it is there.
const ALIVE: Duration = Duration::from_secs(2);
/// A body shorter than this goes out in one write, with what opens it and what ends it.
const TOGETHER: usize = 16 << 10;
/// Pieces that are read at once.
const PIECES: usize = 64;
/// Why a stream is ended before its end.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// The receiving direction. Dropped before its end, it tells the sender to stop.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: RecvStream,
    parts: Parts,
    pieces: Vec<Bytes>,
    ready: std::ops::Range<usize>,
}

impl Receiver {
    pub(crate) fn new(stream: RecvStream, pool: MemoryPool) -> Self {
        let pieces = vec![Bytes::new(); PIECES];
        Self { stream, parts: Parts::new(pool), pieces, ready: 0..0 }
    }

    /// The next part, signs of life included; `None`: the sender has ended the stream.
    async fn any(&mut self) -> Result<Option<Part>, ClusterError> {
        loop {
            if let Some(part) = self.parts.next_part()? {
                return Ok(Some(part));
            }
            if let Some(at) = self.ready.next() {
                self.parts.feed(std::mem::take(&mut self.pieces[at]));
                continue;
            }
            match self
                .stream
                .read_many_chunks(&mut self.pieces)
                .await
                .map_err(|error| lost(&error))?
            {
                Some(read) => self.ready = 0..read,
                None if self.parts.is_idle() => return Ok(None),
                None => return Err(invalid(&"it was cut off")),
            }
        }
    }

    /// The next part that says something; `within`: how long nothing may come.
    pub(crate) async fn next(&mut self, within: Duration) -> Result<Part, ClusterError> {
        loop {
            let Ok(part) = tokio::time::timeout(within, self.any()).await else {
                return Err(ClusterError::Timeout {
                    what: "a transfer's next part",
                    waited: within,
                });
            };
            match part? {
                Some(Part::Alive) => {}
                Some(part) => return Ok(part),
                None => return Err(invalid(&"it was cut off")),
            }
        }
    }
}

/// Reads a body: chunks, then the end, then what was sent.
#[derive(Debug)]
pub(crate) struct Body {
    receiver: Receiver,
    len: u64,
    done: bool,
}

impl Body {
    pub(crate) fn new(receiver: Receiver) -> Self {
        Self { receiver, len: 0, done: false }
    }

    /// Bytes that have come.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The next chunk, or the trailer, once.
    pub(crate) async fn next(&mut self) -> Result<Piece, ClusterError> {
        if self.done {
            return Err(invalid(&"it has ended"));
        }
        match self.receiver.next(PROGRESS).await? {
            Part::Chunk(chunk) => {
                self.len = self.len.saturating_add(chunk.len() as u64);
                Ok(Piece::Chunk(chunk))
            }
            Part::End { aborted: true } => {
                Err(ClusterError::Refused { reason: "the sender has given up".to_owned() })
            }
            Part::End { aborted: false } => {
                let Part::Request(trailer) = self.receiver.next(PROGRESS).await? else {
                    return Err(invalid(&"something else where its trailer should be"));
                };
                let trailer = decode_trailer(&trailer)?;
                if trailer.len != self.len {
                    let (found, expected) = (self.len, trailer.len);
                    return Err(invalid(&format_args!(
                        "{found} bytes came where {expected} were sent"
                    )));
                }
                self.done = true;
                Ok(Piece::End(trailer))
            }
            Part::Request(_) | Part::Response(_) | Part::Alive => {
                Err(invalid(&"something else where its body should be"))
            }
        }
    }
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    Chunk(Bytes),
    End(Trailer),
}

/// The sending direction. Dropped before its end, it tells the receiver that no more will come.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: SendStream,
    pub(crate) out: Segments,
    seq: u32,
    finished: bool,
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            // It fails when the connection is gone, which says the same.
            let _ = self.stream.reset(ABANDONED);
        }
    }
}

impl Sender {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, out: Segments::new(QUIC_CUT), seq: 0, finished: false }
    }

    /// Writes what is in `out`.
    pub(crate) async fn flush(&mut self) -> Result<(), ClusterError> {
        let written = self.stream.write_all_chunks(self.out.finish());
        let Ok(written) = tokio::time::timeout(PROGRESS, written).await else {
            return Err(ClusterError::Timeout { what: "a transfer's receiver", waited: PROGRESS });
        };
        self.out.clear();
        written.map_err(|error| lost(&error))
    }

    /// No more will be sent.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        // It fails when the connection is gone, or the peer wants no more: both are seen elsewhere.
        let _ = self.stream.finish();
    }

    fn next_seq(&mut self) -> Result<u32, ClusterError> {
        self.seq = self.seq.checked_add(1).ok_or_else(|| invalid(&"it has too many chunks"))?;
        Ok(self.seq)
    }

    /// Waits as long as it takes, and tells the receiver meanwhile that there is more to come. What is written already leaves
    /// before any wait.
    async fn wait_for<T>(&mut self, mut future: BoxFuture<'_, T>) -> Result<T, ClusterError> {
        if let Poll::Ready(done) =
            poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
        {
            return Ok(done);
        }
        self.flush().await?;
        loop {
            if let Ok(done) = tokio::time::timeout(ALIVE, &mut future).await {
                return Ok(done);
            }
            encode_alive(&mut self.out)?;
            self.flush().await?;
        }
    }

    /// Sends what waits in `out`, all of a body, and what it was. Where the source fails, the receiver is told that it has ended too early.
    pub(crate) async fn body(
        &mut self,
        source: &mut dyn ChunkSource,
    ) -> Result<Trailer, ClusterError> {
        let mut hasher = (!source.knows_digest()).then(Sha256::new);
        let mut len = 0_u64;
        loop {
            let chunk = match self.wait_for(source.next()).await? {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    self.flush().await?;
                    let seq = self.next_seq()?;
                    encode_end(&mut self.out, seq, true)?;
                    self.flush().await?;
                    self.finish();
                    return Err(error.into());
                }
            };
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            len = len.saturating_add(chunk.len() as u64);
            let mut rest = chunk;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(CHUNK_BYTES));
                let seq = self.next_seq()?;
                encode_chunk(&mut self.out, seq, piece)?;
                if self.out.len_bytes() >= TOGETHER {
                    self.flush().await?;
                }
            }
        }
        let digest = match hasher {
            Some(hasher) => Some(hasher.finalize().into()),
            None => source.digest(),
        };
        let trailer = Trailer { len, digest };
        let seq = self.next_seq()?;
        encode_end(&mut self.out, seq, false)?;
        encode_trailer(&mut self.out, &trailer)?;
        self.flush().await?;
        Ok(trailer)
    }
}

fn lost(error: &dyn std::fmt::Display) -> ClusterError {
    // The caller knows which peer it is.
    ClusterError::Wire(WireError::Invalid {
        what: "a transfer's stream",
        reason: error.to_string(),
    })
}

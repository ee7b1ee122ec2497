//! Messages of more than 64 KiB travel as chunks, so that none holds up a connection for longer than one of them.
//!
//! ```text
//! StreamBegin{id, 0, type, total}  StreamChunk{id, 1} StreamChunk{id, 2} .. StreamEnd{id, n}
//! ```
//! Each is a frame of its own with a sum of its own; other frames, and chunks of other messages, may go between them.
use std::time::Duration;

use bytes::Bytes;

use crate::error::WireError;
use crate::frame::{
    Frame, begin_frame, encode_frame, encode_frame_borrowed, end_frame, payload_len, verify,
};
use crate::gather::Gather;
use crate::header::{MessageHeader, StreamPart, StreamRole};
use crate::kind::MessageType;
use crate::limits::{CHUNK_BYTES, Limits, should_stream};
use crate::message::Payload;
use crate::parser::{FrameParser, ParserStats};
use crate::segments::{Cursor, Segments};

/// Writes a message: whole if it is small, otherwise it answers with a writer that makes its chunks.
///
/// `stream` is the message's number should it be chunked: one that no other [`ChunkWriter`] of the connection has.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode_message(
    out: &mut Segments,
    header: &MessageHeader,
    payload: Payload<'_>,
    stream: u32,
) -> Result<Option<ChunkWriter>, WireError> {
    if should_stream(payload.len()) {
        return ChunkWriter::new(*header, [payload.into_bytes()], stream).map(Some);
    }
    match payload {
        Payload::Shared(payload) => encode_frame(out, header, payload)?,
        Payload::Borrowed(payload) => encode_frame_borrowed(out, header, payload)?,
    }
    Ok(None)
}

/// The headers of one long message's frames.
#[derive(Debug)]
pub(crate) struct Heads {
    header: MessageHeader,
    stream: u32,
    seq: u32,
}

impl Heads {
    pub(crate) fn new(header: MessageHeader, stream: u32) -> Result<Self, WireError> {
        if header.msg_type.is_part() {
            return Err(WireError::Stream { id: stream, reason: "would be chunked twice" });
        }
        Ok(Self { header, stream, seq: 0 })
    }

    fn begun(&self) -> bool {
        self.seq > 0
    }

    pub(crate) fn begin(&mut self, total: usize) -> Result<MessageHeader, WireError> {
        let role = StreamRole::Begin { msg_type: self.header.msg_type, total: payload_len(total)? };
        let header = MessageHeader { msg_type: MessageType::StreamBegin, ..self.header };
        Ok(self.part(header, role))
    }

    pub(crate) fn chunk(&mut self) -> MessageHeader {
        let payload_crc = self.header.payload_crc;
        let header = MessageHeader { payload_crc, ..MessageHeader::new(MessageType::StreamChunk) };
        self.part(header, StreamRole::Chunk)
    }

    pub(crate) fn end(&mut self, aborted: bool) -> MessageHeader {
        self.part(MessageHeader::new(MessageType::StreamEnd), StreamRole::End { aborted })
    }

    fn part(&mut self, mut header: MessageHeader, role: StreamRole) -> MessageHeader {
        header.stream = Some(StreamPart { id: self.stream, seq: self.seq, role });
        self.seq += 1;
        header
    }
}

/// Makes the frames of one long message, a chunk at a time, by reference.
#[derive(Debug)]
#[must_use = "the message is in it, and still to be written"]
pub struct ChunkWriter {
    heads: Heads,
    message: Segments,
    at: Cursor,
    left: usize,
    ended: bool,
}

impl ChunkWriter {
    /// For a message of these parts. Of the header, all but length and sum are kept.
    ///
    /// # Errors
    /// [`WireError::TooLarge`]; [`WireError::Stream`] for a part of a chunked message.
    pub fn new(
        header: MessageHeader,
        parts: impl IntoIterator<Item = Bytes>,
        stream: u32,
    ) -> Result<Self, WireError> {
        let mut message = Segments::default();
        parts.into_iter().for_each(|part| message.push(part));
        Self::of_segments(header, message, stream)
    }

    /// For a message that was put into a list, which is not finished.
    ///
    /// # Errors
    /// As [`ChunkWriter::new`].
    pub fn of_segments(
        header: MessageHeader,
        message: Segments,
        stream: u32,
    ) -> Result<Self, WireError> {
        let heads = Heads::new(header, stream)?;
        let left = message.len_bytes();
        payload_len(left)?;
        Ok(Self { heads, message, at: Cursor::default(), left, ended: false })
    }

    /// Payload bytes that are still to be written.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// Writes the next frame or frames, at most one chunk; `false`: the message is complete.
    ///
    /// # Errors
    /// None that its own frames could cause.
    pub fn next_chunk(&mut self, out: &mut Segments) -> Result<bool, WireError> {
        if self.ended {
            return Ok(false);
        }
        if !self.heads.begun() {
            let header = self.heads.begin(self.left)?;
            encode_frame(out, &header, Bytes::new())?;
        }
        if self.left > 0 {
            let frame = begin_frame(out, &self.heads.chunk());
            let len = self.left.min(CHUNK_BYTES);
            self.message.move_into(&mut self.at, out, len);
            self.left -= len;
            end_frame(out, frame)?;
        }
        if self.left == 0 {
            self.end(out, false)?;
        }
        Ok(!self.ended)
    }

    /// Tells the receiver that there will be no message.
    ///
    /// # Errors
    /// None that its own frame could cause.
    pub fn abort(mut self, out: &mut Segments) -> Result<(), WireError> {
        if self.heads.begun() && !self.ended { self.end(out, true) } else { Ok(()) }
    }

    fn end(&mut self, out: &mut Segments, aborted: bool) -> Result<(), WireError> {
        self.ended = true;
        encode_frame(out, &self.heads.end(aborted), Bytes::new())
    }
}

/// Puts chunked messages together, a bounded number at the same time.
#[derive(Debug)]
pub(crate) struct Assembler {
    limits: Limits,
    open: Vec<Open>,
    /// Bytes that the open ones will have.
    promised: usize,
}

#[derive(Debug)]
struct Open {
    id: u32,
    next: u32,
    header: MessageHeader,
    gather: Gather,
    total: usize,
    /// How long it has been waited for.
    waited: Duration,
}

impl Assembler {
    /// An empty one.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits: limits.clamped(), open: Vec::new(), promised: 0 }
    }

    /// Forgets what is under way.
    pub(crate) fn clear(&mut self) {
        self.open = Vec::new();
        self.promised = 0;
    }

    /// Messages that are under way.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// A beginning, or an end and with it the message.
    pub(crate) fn turn(
        &mut self,
        header: &MessageHeader,
        part: StreamPart,
    ) -> Result<Option<Frame>, WireError> {
        match part.role {
            StreamRole::Begin { msg_type, total } => {
                self.begin(MessageHeader { msg_type, ..*header }, part, total)?;
                Ok(None)
            }
            StreamRole::Chunk => Ok(None),
            StreamRole::End { aborted } => self.end(part, aborted),
        }
    }

    fn begin(
        &mut self,
        header: MessageHeader,
        part: StreamPart,
        total: u32,
    ) -> Result<(), WireError> {
        let wrong = |reason| Err(WireError::Stream { id: part.id, reason });
        if self.open.iter().any(|open| open.id == part.id) {
            return wrong("begins twice");
        }
        if part.seq != 0 {
            return wrong("begins in the middle");
        }
        if total > self.limits.max_message {
            let limit = self.limits.max_message.into();
            return Err(WireError::TooLarge {
                what: "a chunked message",
                len: total.into(),
                limit,
            });
        }
        let promised = self.promised.saturating_add(total as usize);
        if self.open.len() >= self.limits.max_streams || promised > self.limits.max_stream_bytes {
            return wrong("is one too many at the same time");
        }
        self.promised = promised;
        let header =
            MessageHeader { stream: None, payload_len: total, payload_crc: None, ..header };
        let total = total as usize;
        let (gather, waited) = (Gather::new(total), Duration::ZERO);
        self.open.push(Open { id: part.id, next: 1, header, gather, total, waited });
        Ok(())
    }

    /// Checks that a chunk of `len` bytes comes next, and answers with where it begins in its message.
    pub(crate) fn chunk(&mut self, part: StreamPart, len: usize) -> Result<usize, WireError> {
        let open = self.next(part)?;
        let reason = match len {
            0 => "has an empty chunk",
            len if len > CHUNK_BYTES => "has a chunk that is too long",
            len if len > open.gather.missing() => "is longer than it said",
            _ => return Ok(open.gather.len()),
        };
        Err(WireError::Stream { id: part.id, reason })
    }

    /// The memory that a message's next bytes go to.
    pub(crate) fn gather(&mut self, id: u32) -> Result<&mut Gather, WireError> {
        Ok(&mut self.find(id)?.gather)
    }

    /// Checks the chunk that began at `from`.
    pub(crate) fn verify(
        &mut self,
        header: &MessageHeader,
        id: u32,
        from: usize,
    ) -> Result<(), WireError> {
        verify(header, self.find(id)?.gather.since(from))
    }

    fn end(&mut self, part: StreamPart, aborted: bool) -> Result<Option<Frame>, WireError> {
        let open = self.next(part)?;
        if !aborted && open.gather.missing() > 0 {
            return Err(WireError::Stream { id: part.id, reason: "is shorter than it said" });
        }
        let Some(index) = self.open.iter().position(|open| open.id == part.id) else {
            return Ok(None);
        };
        let open = self.open.swap_remove(index);
        self.promised = self.promised.saturating_sub(open.total);
        if aborted {
            return Ok(None);
        }
        Ok(Some(Frame { header: open.header, payload: open.gather.finish() }))
    }

    fn next(&mut self, part: StreamPart) -> Result<&mut Open, WireError> {
        let open = self.find(part.id)?;
        if open.next != part.seq {
            return Err(WireError::Stream { id: part.id, reason: "has a gap" });
        }
        open.next = open.next.wrapping_add(1);
        Ok(open)
    }

    fn find(&mut self, id: u32) -> Result<&mut Open, WireError> {
        let open = self.open.iter_mut().find(|open| open.id == id);
        open.ok_or(WireError::Stream { id, reason: "has not begun" })
    }
}

/// Takes whole messages out of whatever arrives: a [`FrameParser`] whose chunks are copied straight into their messages.
#[derive(Debug)]
pub struct MessageParser {
    frames: FrameParser,
    assembler: Assembler,
}

impl MessageParser {
    /// A parser that refuses what is larger than `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { frames: FrameParser::new(limits), assembler: Assembler::new(limits) }
    }

    /// As [`FrameParser::feed`].
    pub fn feed(&mut self, bytes: Bytes) {
        self.frames.feed(bytes);
    }

    /// The next message, if all of it has arrived.
    ///
    /// # Errors
    /// Whatever can be wrong with a frame or with the order of chunks, and from then on [`WireError::Failed`].
    pub fn next_message(&mut self) -> Result<Option<Frame>, WireError> {
        // What was half-way is of no use after an error.
        let outcome = self.frames.advance(Some(&mut self.assembler));
        if outcome.is_err() {
            self.assembler.clear();
        }
        outcome
    }

    /// The memory where the next bytes of the stream belong, if it is known and worth a read of its own, and how many are
    /// to be read there. Afterwards [`MessageParser::next_message`] is to be called.
    pub(crate) fn place(&mut self) -> Option<(&mut Gather, usize)> {
        self.frames.place(&mut self.assembler)
    }

    /// How much longer what is half-way may be waited for, where a message may be as long as `allowed` says for its length.
    pub(crate) fn patience(&self, allowed: impl Fn(usize) -> Duration) -> Option<Duration> {
        let frame = self.frames.patience(&allowed);
        let open = self.assembler.open.iter();
        let messages = open.map(|open| allowed(open.total).saturating_sub(open.waited));
        messages.chain(frame).min()
    }

    /// Nothing came for so long, though something is half-way.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.frames.waited(time);
        for open in &mut self.assembler.open {
            open.waited = open.waited.saturating_add(time);
        }
    }

    /// Whether the last message's payload is a slice of what was fed, and keeps all of that in memory.
    pub fn was_sliced(&self) -> bool {
        self.frames.was_sliced()
    }

    /// Whether a chunked message is under way, or was the last one: most of what comes next will have a place.
    pub(crate) fn is_streaming(&self) -> bool {
        self.frames.was_streamed() || self.assembler.open() > 0
    }

    /// Whether nothing is half-way: no frame, and no chunked message.
    pub fn is_idle(&self) -> bool {
        self.frames.is_idle() && self.assembler.open() == 0
    }

    /// Bytes that had to be copied together.
    pub fn gathered_bytes(&self) -> u64 {
        self.frames.gathered_bytes()
    }

    /// What it has done.
    pub fn stats(&self) -> ParserStats {
        self.frames.stats()
    }
}

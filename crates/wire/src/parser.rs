//! Frames out of whatever has arrived.
use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};

use crate::error::WireError;
use crate::frame::{Frame, check_len, verify};
use crate::gather::Gather;
use crate::header::{MessageHeader, StreamRole};
use crate::limits::{Limits, MAX_HEADER_SIZE};
use crate::stream::Assembler;

/// A stretch of payload of at least so many bytes is read to where it belongs, and not copied there.
const DIRECT_BYTES: usize = 8 << 10;
/// A chunk that is read so is followed by at most this much, with the next header in it: that is read with it, and moved
/// out of the way.
const BEHIND_CHUNK: usize = 32;

/// What a parser has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParserStats {
    /// Frames that were complete.
    pub frames: u64,
    /// Payloads that are slices of what was fed.
    pub sliced: u64,
    /// Payloads that were copied together, and chunks.
    pub gathered: u64,
    /// Bytes copied for that.
    pub gathered_bytes: u64,
    /// Messages that came in chunks.
    pub streamed: u64,
}

/// Takes frames out of whatever arrives, in pieces of any length. A payload that lies within one piece is a slice of it;
/// another is copied together once, into memory that grows with what has arrived. Nothing is lost between two calls.
/// After an error it stays failed: where the next frame begins is not known any more.
///
/// It hands out the parts of chunked messages as they are; [`crate::MessageParser`] puts them together.
///
/// ```
/// use bytes::Bytes;
/// use straightway_wire::{Frame, FrameParser, Limits, MessageType, Segments, encode_frame};
///
/// let frame = Frame::new(MessageType::RaftMessage, None, Bytes::from_static(b"straight"));
/// let mut out = Segments::default();
/// encode_frame(&mut out, &frame.header, frame.payload.clone())?;
///
/// let mut parser = FrameParser::new(Limits::default());
/// parser.feed(out.finish()[0].clone());
/// let back = parser.next_frame()?.ok_or("a frame")?;
/// assert_eq!(back.payload, frame.payload);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FrameParser {
    limits: Limits,
    current: Bytes,
    queue: VecDeque<Bytes>,
    queued: usize,
    state: State,
    /// The beginning of a header that did not come in one piece.
    head: [u8; MAX_HEADER_SIZE],
    have: usize,
    stats: ParserStats,
    was_streamed: bool,
    was_sliced: bool,
    /// How long the frame at hand has been waited for.
    waited: Duration,
}

#[derive(Debug)]
enum State {
    Header,
    Payload {
        header: MessageHeader,
        gather: Gather,
    },
    /// A chunk that goes straight into its message; where it begins and ends there.
    Chunk {
        header: MessageHeader,
        from: usize,
        end: usize,
    },
    Failed(String),
}

impl FrameParser {
    /// A parser that refuses what is larger than `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: limits.clamped(),
            current: Bytes::new(),
            queue: VecDeque::new(),
            queued: 0,
            state: State::Header,
            head: [0; MAX_HEADER_SIZE],
            have: 0,
            stats: ParserStats::default(),
            was_streamed: false,
            was_sliced: false,
            waited: Duration::ZERO,
        }
    }

    /// Takes what has arrived. It is looked at by [`FrameParser::next_frame`], which is to be called until it has nothing:
    /// more than [`Limits::max_backlog`] waiting bytes are an error.
    pub fn feed(&mut self, bytes: Bytes) {
        if bytes.is_empty() || matches!(self.state, State::Failed(_)) {
            return;
        }
        self.queued += bytes.len();
        if self.current.is_empty() && self.queue.is_empty() {
            self.current = bytes;
        } else {
            self.queue.push_back(bytes);
        }
        let (len, limit) = (self.queued as u64, self.limits.max_backlog as u64);
        if len > limit {
            self.fail(&WireError::TooLarge { what: "what was fed and not taken", len, limit });
        }
    }

    /// The next frame, if all of it has arrived.
    ///
    /// # Errors
    /// Whatever can be wrong with a frame, and from then on [`WireError::Failed`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.advance(None)
    }

    /// Bytes that were fed and not taken yet.
    pub fn backlog(&self) -> usize {
        self.queued
    }

    /// Whether what was fed ends with a frame's last byte, and all was taken.
    pub fn is_idle(&self) -> bool {
        self.queued == 0 && self.have == 0 && matches!(self.state, State::Header)
    }

    /// Bytes that had to be copied together.
    pub fn gathered_bytes(&self) -> u64 {
        self.stats.gathered_bytes
    }

    /// What it has done.
    pub fn stats(&self) -> ParserStats {
        self.stats
    }

    /// See [`crate::MessageParser::place`].
    pub(crate) fn place<'a>(
        &'a mut self,
        assembler: &'a mut Assembler,
    ) -> Option<(&'a mut Gather, usize)> {
        if self.queued > 0 {
            return None;
        }
        match &mut self.state {
            State::Payload { gather, .. } => {
                let missing = gather.missing();
                (missing >= DIRECT_BYTES).then_some((gather, missing))
            }
            State::Chunk { header, end, .. } => {
                let gather = assembler.gather(header.stream?.id).ok()?;
                let missing = end.checked_sub(gather.len()).filter(|len| *len >= DIRECT_BYTES)?;
                let behind = (gather.missing() - missing).min(BEHIND_CHUNK);
                Some((gather, missing + behind))
            }
            _ => None,
        }
    }

    /// How much longer the frame at hand may be waited for, where it may be as long as `allowed` says for its length.
    pub(crate) fn patience(&self, allowed: &impl Fn(usize) -> Duration) -> Option<Duration> {
        let len = match &self.state {
            State::Payload { header, .. } | State::Chunk { header, .. } => header.payload_len,
            State::Header if self.have > 0 => 0,
            _ => return None,
        };
        Some(allowed(len as usize).saturating_sub(self.waited))
    }

    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// Whether the last frame's payload is a slice of what was fed, and keeps all of that in memory.
    pub fn was_sliced(&self) -> bool {
        self.was_sliced
    }

    /// Whether the last message came in chunks.
    pub(crate) fn was_streamed(&self) -> bool {
        self.was_streamed
    }

    /// As [`FrameParser::next_frame`]; with an assembler, parts of chunked messages go there.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        assembler: Option<&mut Assembler>,
    ) -> Result<Option<Frame>, WireError> {
        let outcome = self.step(assembler);
        if let Err(error) = &outcome {
            self.fail(error);
        }
        outcome
    }

    fn step(&mut self, mut assembler: Option<&mut Assembler>) -> Result<Option<Frame>, WireError> {
        loop {
            match &mut self.state {
                State::Failed(first) => return Err(WireError::Failed { first: first.clone() }),
                State::Header => {
                    let Some(header) = self.header()? else { return Ok(None) };
                    check_len(&header, &self.limits)?;
                    match (assembler.as_deref_mut(), header.stream) {
                        (Some(assembler), Some(part)) => {
                            if part.role == StreamRole::Chunk {
                                let from = assembler.chunk(part, header.payload_len as usize)?;
                                let end = from + header.payload_len as usize;
                                self.state = State::Chunk { header, from, end };
                            } else if let Some(message) = assembler.turn(&header, part)? {
                                self.stats.streamed += 1;
                                self.stats.frames += 1;
                                self.waited = Duration::ZERO;
                                self.was_streamed = true;
                                self.was_sliced = false;
                                return Ok(Some(message));
                            } else {
                                self.stats.frames += 1;
                                self.waited = Duration::ZERO;
                            }
                        }
                        _ if header.payload_len as usize <= self.current.len() => {
                            let payload = self.take(header.payload_len as usize);
                            verify(&header, &payload)?;
                            self.was_sliced = !payload.is_empty();
                            self.stats.sliced += u64::from(self.was_sliced);
                            return Ok(Some(self.complete(header, payload)));
                        }
                        _ => {
                            let gather = Gather::new(header.payload_len as usize);
                            self.state = State::Payload { header, gather };
                        }
                    }
                }
                State::Payload { header, gather } => {
                    while gather.missing() > 0 && !self.current.is_empty() {
                        let taken = gather.append(&self.current);
                        self.current.advance(taken);
                        self.queued -= taken;
                        refill(&mut self.current, &mut self.queue);
                    }
                    if gather.missing() > 0 {
                        return Ok(None);
                    }
                    verify(header, gather.since(0))?;
                    self.stats.gathered += 1;
                    self.stats.gathered_bytes += gather.copied();
                    self.was_sliced = false;
                    if let State::Payload { header, gather } =
                        std::mem::replace(&mut self.state, State::Header)
                    {
                        return Ok(Some(self.complete(header, gather.finish())));
                    }
                }
                State::Chunk { header, from, end } => {
                    let Some(assembler) = assembler.as_deref_mut() else { return Ok(None) };
                    let Some(part) = header.stream else { return Ok(None) };
                    let gather = assembler.gather(part.id)?;
                    if let Some(behind) = gather.split_off(*end) {
                        // Nothing waits while something is read to its place.
                        self.queued += behind.len();
                        self.current = behind;
                    }
                    let before = gather.copied();
                    while gather.len() < *end && !self.current.is_empty() {
                        let piece = &self.current[..self.current.len().min(*end - gather.len())];
                        let taken = gather.append(piece);
                        self.current.advance(taken);
                        self.queued -= taken;
                        refill(&mut self.current, &mut self.queue);
                    }
                    self.stats.gathered_bytes += gather.copied() - before;
                    if gather.len() < *end {
                        return Ok(None);
                    }
                    assembler.verify(header, part.id, *from)?;
                    self.stats.gathered += 1;
                    self.state = State::Header;
                    self.stats.frames += 1;
                    self.waited = Duration::ZERO;
                }
            }
        }
    }

    /// The next header, if it is there.
    #[inline]
    fn header(&mut self) -> Result<Option<MessageHeader>, WireError> {
        if self.have == 0 {
            // Nearly always a header lies within one piece.
            let whole = MessageHeader::peek_len(&self.current)?;
            if let Some(len) = whole.filter(|len| *len <= self.current.len()) {
                let header = MessageHeader::decode(&self.current)?;
                self.current.advance(len);
                self.queued -= len;
                refill(&mut self.current, &mut self.queue);
                return Ok(Some(header));
            }
        }
        let (bytes, have) = (&mut self.head, &mut self.have);
        loop {
            // The two bytes that tell the length first, then the rest: never a byte too many.
            let wanted = MessageHeader::peek_len(&bytes[..*have])?.unwrap_or(2);
            if *have >= 2 && *have == wanted {
                let header = MessageHeader::decode(&bytes[..wanted])?;
                *have = 0;
                return Ok(Some(header));
            }
            let taken = self.current.len().min(wanted - *have);
            if taken == 0 {
                return Ok(None);
            }
            bytes[*have..*have + taken].copy_from_slice(&self.current[..taken]);
            *have += taken;
            self.current.advance(taken);
            self.queued -= taken;
            refill(&mut self.current, &mut self.queue);
        }
    }

    #[inline]
    fn complete(&mut self, header: MessageHeader, payload: Bytes) -> Frame {
        self.stats.frames += 1;
        self.waited = Duration::ZERO;
        self.was_streamed = false;
        Frame { header, payload }
    }

    /// Splits off what the current piece is known to have.
    #[inline]
    fn take(&mut self, len: usize) -> Bytes {
        let taken = self.current.split_to(len);
        self.queued -= len;
        refill(&mut self.current, &mut self.queue);
        taken
    }

    fn fail(&mut self, error: &WireError) {
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(error.to_string());
        }
        self.current = Bytes::new();
        self.queue = VecDeque::new();
        self.queued = 0;
    }
}

/// The next piece, when the current one is used up.
#[inline]
fn refill(current: &mut Bytes, queue: &mut VecDeque<Bytes>) {
    if current.is_empty() {
        *current = queue.pop_front().unwrap_or_default();
    }
}

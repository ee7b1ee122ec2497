//! Frames out of whatever has arrived.
use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::error::WireError;
use crate::frame::{Frame, check_len, verify};
use crate::gather::Gather;
use crate::header::{MessageHeader, StreamRole};
use crate::limits::{Limits, MAX_HEADER_SIZE};
use crate::stream::Assembler;

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
    stats: ParserStats,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; MAX_HEADER_SIZE],
        have: usize,
    },
    Payload {
        header: MessageHeader,
        gather: Gather,
    },
    /// A chunk that goes straight into its message; `from`: where it begins there.
    Chunk {
        header: MessageHeader,
        from: usize,
        left: usize,
    },
    Failed(String),
}

impl State {
    const START: Self = Self::Header { bytes: [0; MAX_HEADER_SIZE], have: 0 };
}

impl FrameParser {
    /// A parser that refuses what is larger than `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            current: Bytes::new(),
            queue: VecDeque::new(),
            queued: 0,
            state: State::START,
            stats: ParserStats::default(),
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
        self.queued == 0 && matches!(self.state, State::Header { have: 0, .. })
    }

    /// Bytes that had to be copied together.
    pub fn gathered_bytes(&self) -> u64 {
        self.stats.gathered_bytes
    }

    /// What it has done.
    pub fn stats(&self) -> ParserStats {
        self.stats
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
                State::Header { .. } => {
                    let Some(header) = self.header()? else { return Ok(None) };
                    check_len(&header, &self.limits)?;
                    match (assembler.as_deref_mut(), header.stream) {
                        (Some(assembler), Some(part)) => {
                            if part.role == StreamRole::Chunk {
                                let from = assembler.chunk(part, header.payload_len as usize)?;
                                let left = header.payload_len as usize;
                                self.state = State::Chunk { header, from, left };
                            } else if let Some(message) = assembler.turn(&header, part)? {
                                self.stats.streamed += 1;
                                self.count_frame();
                                return Ok(Some(message));
                            } else {
                                self.count_frame();
                            }
                        }
                        _ if header.payload_len as usize <= self.current.len() => {
                            self.stats.sliced += 1;
                            let payload = self.take(header.payload_len as usize);
                            return self.complete(header, payload);
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
                    let header = *header;
                    self.stats.gathered += 1;
                    self.stats.gathered_bytes += gather.copied();
                    if let State::Payload { gather, .. } =
                        std::mem::replace(&mut self.state, State::START)
                    {
                        return self.complete(header, gather.finish());
                    }
                }
                State::Chunk { header, from, left } => {
                    let Some(assembler) = assembler.as_deref_mut() else { return Ok(None) };
                    let Some(part) = header.stream else { return Ok(None) };
                    while *left > 0 && !self.current.is_empty() {
                        let piece = &self.current[..self.current.len().min(*left)];
                        let taken = piece.len();
                        self.stats.gathered_bytes += assembler.append(part.id, piece)?;
                        *left -= taken;
                        self.current.advance(taken);
                        self.queued -= taken;
                        refill(&mut self.current, &mut self.queue);
                    }
                    if *left > 0 {
                        return Ok(None);
                    }
                    assembler.verify(header, part.id, *from)?;
                    self.stats.gathered += 1;
                    self.state = State::START;
                    self.count_frame();
                }
            }
        }
    }

    /// The next header, if it is there.
    #[inline]
    fn header(&mut self) -> Result<Option<MessageHeader>, WireError> {
        let State::Header { bytes, have } = &mut self.state else { return Ok(None) };
        if *have == 0 {
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
        loop {
            // The two bytes that tell the length first, then the rest: never a byte too many.
            let wanted = MessageHeader::peek_len(&bytes[..*have])?.unwrap_or(2);
            if *have >= 2 && *have == wanted {
                let header = MessageHeader::decode(&bytes[..wanted])?;
                self.state = State::START;
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
    fn complete(
        &mut self,
        header: MessageHeader,
        payload: Bytes,
    ) -> Result<Option<Frame>, WireError> {
        verify(&header, &payload)?;
        self.count_frame();
        Ok(Some(Frame { header, payload }))
    }

    fn count_frame(&mut self) {
        self.stats.frames += 1;
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

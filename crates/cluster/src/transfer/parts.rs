//! What goes over a transfer's stream, without I/O: frames out of pieces, gathered once.
//!
//! ```text
//! who opens the stream          the other side
//! Request  what is wanted   ->
//!   to send:  chunks, end, trailer ->        <- Response  stored, or why not (may come before the end)
//!   to fetch:                                <- Response  what is found, or why not; chunks, end, trailer
//! ```
//! A chunk is a `StreamChunk` frame of at most 64 KiB with a CRC-32C, numbered from 1 on; `StreamEnd` follows the last, and a
//! `Request` frame with length and digest follows that. `Heartbeat` frames say that more is to come when it takes long.
use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use straightway_buffer::{MemoryPool, Reason, ZeroCopyBuffer, count_copied};
use straightway_wire::{
    CHUNK_BYTES, MAX_HEADER_SIZE, MessageHeader, MessageType, Segments, StreamPart, StreamRole,
    WireError, crc32c, encode_frame,
};

use super::talk::{MAX_TALK, invalid};
use crate::error::ClusterError;

/// Writes one chunk, by reference.
pub(crate) fn encode_chunk(out: &mut Segments, seq: u32, chunk: Bytes) -> Result<(), WireError> {
    let stream = Some(StreamPart { id: 0, seq, role: StreamRole::Chunk });
    let header = MessageHeader { stream, ..MessageHeader::new(MessageType::StreamChunk) };
    encode_frame(out, &header, chunk)
}

/// Writes the end.
pub(crate) fn encode_end(out: &mut Segments, seq: u32, aborted: bool) -> Result<(), WireError> {
    let stream = Some(StreamPart { id: 0, seq, role: StreamRole::End { aborted } });
    let header = MessageHeader { stream, ..MessageHeader::new(MessageType::StreamEnd) };
    encode_frame(out, &header, Bytes::new())
}

/// Writes that there is more to come.
pub(crate) fn encode_alive(out: &mut Segments) -> Result<(), WireError> {
    encode_frame(out, &MessageHeader::new(MessageType::Heartbeat), Bytes::new())
}

/// A frame of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// What is wanted, or the trailer.
    Request(Bytes),
    /// An answer.
    Response(Bytes),
    /// A piece of the body.
    Chunk(Bytes),
    /// All chunks have come, or the sender has given up.
    End { aborted: bool },
    /// More is to come.
    Alive,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; MAX_HEADER_SIZE], have: usize },
    Payload { header: MessageHeader, gather: Gather },
}

/// A payload that is cut in pieces, copied together. A body's bytes and those that are said beside it are counted apart: every
/// chunk is longer than a packet and comes in pieces; what is said is short, and in pieces only where a packet happens to end.
#[derive(Debug)]
enum Gather {
    /// A chunk, in a buffer of the pool.
    Body(ZeroCopyBuffer),
    /// Anything else; `len`: how much it will be.
    Talk { bytes: Vec<u8>, len: usize },
}

impl Gather {
    /// Takes as much of `piece` as is missing, and answers with how much that was.
    fn write(&mut self, piece: &[u8]) -> usize {
        match self {
            Self::Body(buffer) => buffer.write(piece),
            Self::Talk { bytes, len } => {
                let taken = piece.len().min(*len - bytes.len());
                bytes.extend_from_slice(&piece[..taken]);
                count_copied(taken, Reason::Gather);
                taken
            }
        }
    }

    fn missing(&self) -> usize {
        match self {
            Self::Body(buffer) => buffer.remaining(),
            Self::Talk { bytes, len } => len - bytes.len(),
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Body(buffer) => buffer.freeze(),
            Self::Talk { bytes, .. } => bytes.into(),
        }
    }
}

impl State {
    const START: Self = Self::Header { bytes: [0; MAX_HEADER_SIZE], have: 0 };
}

/// Takes parts out of pieces of any length. What lies within one piece is a slice of it; the rest is gathered once, chunks in
/// buffers of a pool.
#[derive(Debug)]
pub(crate) struct Parts {
    pool: MemoryPool,
    current: Bytes,
    queue: VecDeque<Bytes>,
    state: State,
    /// Of the last chunk.
    seq: u32,
}

impl Parts {
    pub(crate) fn new(pool: MemoryPool) -> Self {
        Self { pool, current: Bytes::new(), queue: VecDeque::new(), state: State::START, seq: 0 }
    }

    /// Takes a piece. Parts are to be taken out before more is fed.
    pub(crate) fn feed(&mut self, piece: Bytes) {
        if self.current.is_empty() {
            self.current = piece;
        } else if !piece.is_empty() {
            self.queue.push_back(piece);
        }
    }

    /// Whether what was fed ended with a part's last byte.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_empty() && matches!(self.state, State::Header { have: 0, .. })
    }

    /// The next part, if all of it has arrived. After an error, nothing that follows makes sense.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>, ClusterError> {
        loop {
            match &mut self.state {
                State::Header { bytes, have } => {
                    let wanted = MessageHeader::peek_len(&bytes[..*have])?.unwrap_or(2);
                    if *have == wanted && *have > 2 {
                        let header = MessageHeader::decode(&bytes[..wanted])?;
                        self.state = State::START;
                        if let Some(part) = self.begin(header)? {
                            return Ok(Some(part));
                        }
                        continue;
                    }
                    let taken = self.current.len().min(wanted - *have);
                    if taken == 0 {
                        return Ok(None);
                    }
                    bytes[*have..*have + taken].copy_from_slice(&self.current[..taken]);
                    *have += taken;
                    self.advance(taken);
                }
                State::Payload { gather, .. } => {
                    let taken = gather.write(&self.current);
                    let missing = gather.missing();
                    self.advance(taken);
                    if missing == 0 {
                        let state = std::mem::replace(&mut self.state, State::START);
                        if let State::Payload { header, gather } = state {
                            return self.complete(&header, gather.finish()).map(Some);
                        }
                    }
                    if taken == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn advance(&mut self, taken: usize) {
        self.current.advance(taken);
        if self.current.is_empty() {
            self.current = self.queue.pop_front().unwrap_or_default();
        }
    }

    /// The part, if its payload is there in one piece.
    fn begin(&mut self, header: MessageHeader) -> Result<Option<Part>, ClusterError> {
        let len = header.payload_len as usize;
        let limit = match header.msg_type {
            MessageType::StreamChunk => CHUNK_BYTES,
            MessageType::Request | MessageType::Response => MAX_TALK,
            MessageType::StreamEnd | MessageType::Heartbeat => 0,
            other => return Err(invalid(&format_args!("a {other:?} has no place in a transfer"))),
        };
        if len > limit {
            let (len, limit) = (len as u64, limit as u64);
            return Err(WireError::TooLarge { what: "a part of a transfer", len, limit }.into());
        }
        if header.compressed.is_some() {
            return Err(invalid(&"parts of a transfer are not compressed"));
        }
        if len <= self.current.len() {
            let payload = self.current.slice(..len);
            self.advance(len);
            return self.complete(&header, payload).map(Some);
        }
        let gather = if header.msg_type == MessageType::StreamChunk {
            Gather::Body(self.pool.allocate(len).map_err(|error| invalid(&error))?)
        } else {
            Gather::Talk { bytes: Vec::new(), len }
        };
        self.state = State::Payload { header, gather };
        Ok(None)
    }

    fn complete(&mut self, header: &MessageHeader, payload: Bytes) -> Result<Part, ClusterError> {
        let expected = header.payload_crc.ok_or_else(|| invalid(&"a part without a checksum"))?;
        let found = crc32c(&payload);
        if expected != found {
            return Err(WireError::PayloadChecksum { expected, found }.into());
        }
        if let Some(part) = header.stream {
            self.seq = self.seq.wrapping_add(1);
            if part.seq != self.seq {
                return Err(invalid(&format_args!("chunk {} instead of {}", part.seq, self.seq)));
            }
        }
        Ok(match (header.msg_type, header.stream.map(|part| part.role)) {
            (MessageType::Request, _) => Part::Request(payload),
            (MessageType::Response, _) => Part::Response(payload),
            (_, Some(StreamRole::Chunk)) => Part::Chunk(payload),
            (_, Some(StreamRole::End { aborted })) => Part::End { aborted },
            _ => Part::Alive,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use straightway_buffer::copied;
    use straightway_wire::QUIC_CUT;

    use crate::transfer::talk::{Trailer, decode_trailer, encode_trailer};

    fn parser() -> Parts {
        Parts::new(MemoryPool::new(CHUNK_BYTES))
    }

    fn parsed(parts: &mut Parts) -> Vec<Part> {
        std::iter::from_fn(|| parts.next_part().expect("valid")).collect()
    }

    #[test]
    fn a_chunk_is_copied_once_and_one_that_lies_in_one_piece_never() {
        let body = Bytes::from(vec![3; CHUNK_BYTES]);
        let mut out = Segments::new(QUIC_CUT);
        encode_chunk(&mut out, 1, body.clone()).expect("encoded");
        let frame = out.finish();
        assert_eq!(frame[1].as_ptr(), body.as_ptr(), "by reference");
        let bytes = Bytes::from(frame.concat());
        let mut parts = parser();
        parts.feed(bytes.clone());
        let whole = parsed(&mut parts);
        let Part::Chunk(chunk) = &whole[0] else { panic!("{whole:?}") };
        assert_eq!(chunk.as_ptr(), bytes[bytes.len() - CHUNK_BYTES..].as_ptr());

        let before = copied().cursor;
        let mut parts = parser();
        for piece in 0..bytes.len().div_ceil(1400) {
            parts.feed(bytes.slice(piece * 1400..bytes.len().min((piece + 1) * 1400)));
        }
        assert_eq!(parsed(&mut parts), [Part::Chunk(body)]);
        // Other tests copy at the same time; none copies less.
        assert!(copied().cursor - before >= CHUNK_BYTES as u64);
    }

    #[test]
    fn what_is_said_beside_a_body_is_not_counted_as_one_wherever_it_is_cut() {
        let mut out = Segments::new(QUIC_CUT);
        let trailer = Trailer { len: 7, digest: Some([1; 32]) };
        encode_trailer(&mut out, &trailer).expect("encoded");
        let frame = Bytes::from(out.finish().concat());
        let header = MessageHeader::peek_len(&frame).expect("valid").expect("all of it");
        let before = copied();
        for cut in 1..frame.len() {
            let mut parts = parser();
            parts.feed(frame.slice(..cut));
            assert!(parts.next_part().expect("valid").is_none());
            parts.feed(frame.slice(cut..));
            let Some(Part::Request(said)) = parts.next_part().expect("valid") else { panic!() };
            assert_eq!(decode_trailer(&said).expect("valid"), trailer);
        }
        // Cut within the header, the payload lies in one piece.
        let payload = frame.len() - header;
        let expected = (payload * payload) as u64;
        if std::env::var_os("NEXTEST").is_some() {
            // Nothing else runs in this process.
            let now = copied();
            assert_eq!((now.gather - before.gather, now.cursor - before.cursor), (expected, 0));
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let frame = |header: MessageHeader, payload: &'static [u8]| {
            let mut out = Segments::new(QUIC_CUT);
            encode_frame(&mut out, &header, Bytes::from_static(payload)).expect("encoded");
            Bytes::from(out.finish().concat())
        };
        let stream = |seq, role| Some(StreamPart { id: 0, seq, role });
        let chunk = MessageHeader::new(MessageType::StreamChunk);
        let mut long = [0; MAX_HEADER_SIZE];
        let header = MessageHeader { stream: stream(1, StreamRole::Chunk), ..chunk };
        let len = MessageHeader { payload_len: u32::MAX, ..header }.encode(&mut long);
        let mut damaged = frame(header, b"bytes").to_vec();
        *damaged.last_mut().expect("some") ^= 1;
        for (what, bytes) in [
            ("a hello", frame(MessageHeader::new(MessageType::Hello), b"")),
            ("a length of 4 GiB", Bytes::copy_from_slice(&long[..len])),
            ("a gap", frame(MessageHeader { stream: stream(2, StreamRole::Chunk), ..chunk }, b"x")),
            ("no checksum", frame(header.without_sum(), b"x")),
            ("damage", damaged.into()),
            ("another protocol", Bytes::from_static(b"GET /")),
        ] {
            let mut parts = parser();
            parts.feed(bytes);
            assert!(parts.next_part().is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_same_parts(
            sizes in proptest::collection::vec(0..5000_usize, 0..6),
            cuts in proptest::collection::vec(1..3000_usize, 1..40),
        ) {
            let mut out = Segments::new(QUIC_CUT);
            let mut expected = Vec::new();
            for (seq, size) in (1_u32..).zip(&sizes) {
                let chunk = Bytes::from(vec![seq.to_le_bytes()[0]; *size]);
                encode_chunk(&mut out, seq, chunk.clone()).expect("encoded");
                encode_alive(&mut out).expect("encoded");
                expected.extend([Part::Chunk(chunk), Part::Alive]);
            }
            let last = u32::try_from(sizes.len()).expect("few") + 1;
            encode_end(&mut out, last, false).expect("encoded");
            expected.push(Part::End { aborted: false });
            let mut bytes = Bytes::from(out.finish().concat());
            let (mut parts, mut found) = (parser(), Vec::new());
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                parts.feed(bytes.split_to(bytes.len().min(*cut)));
                found.extend(parsed(&mut parts));
            }
            prop_assert_eq!(found, expected);
            prop_assert!(parts.is_idle());
        }
    }
}

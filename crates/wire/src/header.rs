//! What stands in front of every payload.
//!
//! ```text
//!  0  magic 0x53   1 header_len (16..=255)   2 type   3 flags: 1 id, 2 compressed, 4 chunked, 8 sum
//!  4  payload_len u32      8 crc32c(header, this field 0) u32      12 crc32c(payload) u32, or 0
//! 16  [id, 16 bytes]       then fields {tag u8, len u8, value}
//! ```
//! Integers are little-endian. A field with an unknown even tag is skipped, one with an odd tag refuses the frame.
use bytes::BytesMut;

use crate::crc::{Crc32c, crc32c_of_fixed};
use crate::error::WireError;
pub use crate::fields::{Compressed, Compression, StreamPart, StreamRole, TraceContext};
use crate::kind::MessageType;
use crate::limits::MAX_HEADER_SIZE;
use crate::segments::Segments;

/// First byte of every frame: `S`.
pub const MAGIC: u8 = 0x53;
/// The shortest header: no id, no fields.
pub const MIN_HEADER_SIZE: usize = 16;

/// Connects a [`MessageType::Response`] with its request.
pub type RequestId = [u8; 16];

const FLAG_ID: u8 = 1;
const FLAG_COMPRESSED: u8 = 2;
const FLAG_CHUNKED: u8 = 4;
const FLAG_SUM: u8 = 8;
const FLAGS: u8 = FLAG_ID | FLAG_COMPRESSED | FLAG_CHUNKED | FLAG_SUM;

const TAG_COMPRESSED: u8 = 1;
const TAG_TRACE: u8 = 2;
const TAG_STREAM: u8 = 3;
const TAG_DEADLINE: u8 = 4;
const TAG_BEGIN: u8 = 5;
const TAG_END: u8 = 7;

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// What the payload is.
    pub msg_type: MessageType,
    /// Connects request and response.
    pub request_id: Option<RequestId>,
    /// Bytes that follow the header.
    pub payload_len: u32,
    /// CRC-32C of the payload, if it carries one.
    pub payload_crc: Option<u32>,
    /// How the payload was compressed, if it was.
    pub compressed: Option<Compressed>,
    /// Which part of a chunked message this is, if it is one.
    pub stream: Option<StreamPart>,
    /// The caller's trace.
    pub trace: Option<TraceContext>,
    /// How long the caller still waits for an answer, in milliseconds.
    pub deadline_ms: Option<u32>,
}

impl MessageHeader {
    /// The header of an empty message that carries a checksum. Encoding a frame fills in length and sum.
    pub const fn new(msg_type: MessageType) -> Self {
        Self {
            msg_type,
            request_id: None,
            payload_len: 0,
            payload_crc: Some(0),
            compressed: None,
            stream: None,
            trace: None,
            deadline_ms: None,
        }
    }

    /// With an id.
    #[must_use]
    pub const fn with_request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// With the time that the caller still waits.
    #[must_use]
    pub const fn with_deadline_ms(mut self, ms: u32) -> Self {
        self.deadline_ms = Some(ms);
        self
    }

    /// With the caller's trace.
    #[must_use]
    pub const fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Without a checksum over the payload; the header has its own always.
    #[must_use]
    pub const fn without_sum(mut self) -> Self {
        self.payload_crc = None;
        self
    }

    /// Writes the header, and answers with its length.
    pub fn encode(&self, into: &mut [u8; MAX_HEADER_SIZE]) -> usize {
        let len = self.write(into);
        seal(&mut into[..len]);
        len
    }

    /// Appends the header, its own sum still 0.
    pub(crate) fn put(&self, out: &mut Segments) {
        let (trace, deadline) = (self.trace, self.deadline_ms);
        if let (None, None, None, None) = (trace, deadline, self.compressed, self.stream) {
            let Some(id) = &self.request_id else {
                return out.put_slice(&self.fixed(MIN_HEADER_SIZE, 0));
            };
            out.put_slice(&self.fixed(MIN_HEADER_SIZE + id.len(), FLAG_ID));
            return out.put_slice(id);
        }
        let mut bytes = [0; MAX_HEADER_SIZE];
        let len = self.write(&mut bytes);
        out.put_slice(&bytes[..len]);
    }

    /// What every header begins with.
    fn fixed(&self, len: usize, flags: u8) -> [u8; MIN_HEADER_SIZE] {
        let (flags, sum) = self.payload_crc.map_or((flags, 0), |sum| (flags | FLAG_SUM, sum));
        let mut fixed = [0; MIN_HEADER_SIZE];
        fixed[..4].copy_from_slice(&[MAGIC, narrow(len), self.msg_type as u8, flags]);
        fixed[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        fixed[12..].copy_from_slice(&sum.to_le_bytes());
        fixed
    }

    fn write(&self, into: &mut [u8; MAX_HEADER_SIZE]) -> usize {
        let mut writer = Writer { bytes: into, at: MIN_HEADER_SIZE };
        let mut flags = 0;
        if let Some(id) = &self.request_id {
            flags |= FLAG_ID;
            writer.put(id);
        }
        if let Some(Compressed { codec, uncompressed_len }) = self.compressed {
            flags |= FLAG_COMPRESSED;
            writer.field(TAG_COMPRESSED, &[&[codec as u8], &uncompressed_len.to_le_bytes()]);
        }
        if let Some(StreamPart { id, seq, role }) = self.stream {
            flags |= FLAG_CHUNKED;
            writer.field(TAG_STREAM, &[&id.to_le_bytes(), &seq.to_le_bytes()]);
            match role {
                StreamRole::Begin { msg_type, total } => {
                    writer.field(TAG_BEGIN, &[&[msg_type as u8], &total.to_le_bytes()]);
                }
                StreamRole::Chunk => {}
                StreamRole::End { aborted } => writer.field(TAG_END, &[&[u8::from(aborted)]]),
            }
        }
        if let Some(trace) = &self.trace {
            writer.field(TAG_TRACE, &[&trace.trace_id, &trace.span_id, &[trace.flags]]);
        }
        if let Some(ms) = self.deadline_ms {
            writer.field(TAG_DEADLINE, &[&ms.to_le_bytes()]);
        }
        let len = writer.at;
        into[..MIN_HEADER_SIZE].copy_from_slice(&self.fixed(len, flags));
        len
    }

    /// What the first bytes of a header say of its length, as soon as there are enough of them.
    ///
    /// # Errors
    /// [`WireError::BadMagic`], [`WireError::HeaderLength`].
    pub fn peek_len(start: &[u8]) -> Result<Option<usize>, WireError> {
        let Some(magic) = start.first() else { return Ok(None) };
        if *magic != MAGIC {
            return Err(WireError::BadMagic { found: *magic });
        }
        let Some(len) = start.get(1).map(|len| usize::from(*len)) else { return Ok(None) };
        if len < MIN_HEADER_SIZE {
            return Err(WireError::HeaderLength { found: len });
        }
        Ok(Some(len))
    }

    /// Reads a whole header: exactly as many bytes as [`MessageHeader::peek_len`] says.
    ///
    /// # Errors
    /// [`WireError::Truncated`] and whatever else can be wrong with a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let cut = |needed| WireError::Truncated { what: "a header", needed, found: bytes.len() };
        let len = Self::peek_len(bytes)?.ok_or_else(|| cut(MIN_HEADER_SIZE))?;
        let bytes = bytes.get(..len).ok_or_else(|| cut(len))?;
        let (fixed, rest) =
            bytes.split_first_chunk::<MIN_HEADER_SIZE>().ok_or_else(|| cut(MIN_HEADER_SIZE))?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let (expected, found) = (u32_at(8), header_sum(bytes));
        if expected != found {
            return Err(WireError::HeaderChecksum { expected, found });
        }
        let (msg_type, flags) = (MessageType::try_from(fixed[2])?, fixed[3]);
        if flags & !FLAGS != 0 {
            return Err(WireError::UnknownFlags { bits: flags & !FLAGS });
        }
        let mut header = Self { payload_len: u32_at(4), ..Self::new(msg_type) };
        header.payload_crc = (flags & FLAG_SUM != 0).then(|| u32_at(12));
        let mut fields = rest;
        if flags & FLAG_ID != 0 {
            let (id, rest) =
                rest.split_first_chunk::<16>().ok_or_else(|| cut(MIN_HEADER_SIZE + 16))?;
            header.request_id = Some(*id);
            fields = rest;
        }
        header.fields(fields, flags)?;
        Ok(header)
    }

    fn fields(&mut self, mut fields: &[u8], flags: u8) -> Result<(), WireError> {
        let whole = flags & (FLAG_COMPRESSED | FLAG_CHUNKED) == 0 && !self.msg_type.is_part();
        if whole && fields.is_empty() {
            return Ok(());
        }
        let mut parts = Parts::default();
        while let [tag, len, rest @ ..] = fields {
            let (value, rest) = rest
                .split_at_checked(usize::from(*len))
                .ok_or(WireError::Tlv { tag: *tag, reason: "ends beyond the header" })?;
            self.field(&mut parts, *tag, value)?;
            fields = rest;
        }
        if let [tag] = fields {
            return Err(WireError::Tlv { tag: *tag, reason: "has no length" });
        }
        self.stream = parts.stream(self.msg_type)?;
        if self.compressed.is_some() != (flags & FLAG_COMPRESSED != 0) {
            return Err(WireError::Tlv { tag: TAG_COMPRESSED, reason: "contradicts the flags" });
        }
        if self.stream.is_some() != (flags & FLAG_CHUNKED != 0) {
            return Err(WireError::Tlv { tag: TAG_STREAM, reason: "contradicts the flags" });
        }
        Ok(())
    }

    fn field(&mut self, parts: &mut Parts, tag: u8, value: &[u8]) -> Result<(), WireError> {
        match tag {
            TAG_COMPRESSED => {
                let [codec, len @ ..] = exactly::<5>(tag, value)?;
                let codec = match codec {
                    1 => Compression::Zstd,
                    2 => Compression::Lz4,
                    _ => {
                        return Err(WireError::Tlv { tag, reason: "names an unknown compression" });
                    }
                };
                let compressed = Compressed { codec, uncompressed_len: u32::from_le_bytes(len) };
                once(tag, &mut self.compressed, compressed)
            }
            TAG_TRACE => {
                let [bytes @ .., flags] = exactly::<25>(tag, value)?;
                let mut trace = TraceContext { trace_id: [0; 16], span_id: [0; 8], flags };
                trace.trace_id.copy_from_slice(&bytes[..16]);
                trace.span_id.copy_from_slice(&bytes[16..]);
                once(tag, &mut self.trace, trace)
            }
            TAG_STREAM => {
                let [a, b, c, d, seq @ ..] = exactly::<8>(tag, value)?;
                let place = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(seq));
                once(tag, &mut parts.place, place)
            }
            TAG_DEADLINE => {
                once(tag, &mut self.deadline_ms, u32::from_le_bytes(exactly(tag, value)?))
            }
            TAG_BEGIN => {
                let [kind, total @ ..] = exactly::<5>(tag, value)?;
                let msg_type = MessageType::try_from(kind)?;
                if msg_type.is_part() {
                    return Err(WireError::Tlv {
                        tag,
                        reason: "chunks a part of a chunked message",
                    });
                }
                let begin = StreamRole::Begin { msg_type, total: u32::from_le_bytes(total) };
                once(tag, &mut parts.role, begin)
            }
            TAG_END => match exactly(tag, value)? {
                [status @ 0..=1] => {
                    once(tag, &mut parts.role, StreamRole::End { aborted: status == 1 })
                }
                _ => Err(WireError::Tlv { tag, reason: "has an unknown status" }),
            },
            odd if odd % 2 == 1 => Err(WireError::UnknownTlv { tag: odd }),
            _ => Ok(()),
        }
    }
}

/// Appends the header's bytes as they are: length and sum of the payload have to be right already.
pub fn serialize_header_zero_copy(
    header: &MessageHeader,
    buf: &mut BytesMut,
) -> Result<(), WireError> {
    let mut bytes = [0; MAX_HEADER_SIZE];
    let len = header.encode(&mut bytes);
    buf.extend_from_slice(bytes.get(..len).ok_or(WireError::HeaderLength { found: len })?);
    Ok(())
}

fn exactly<const N: usize>(tag: u8, value: &[u8]) -> Result<[u8; N], WireError> {
    value.try_into().map_err(|_| WireError::Tlv { tag, reason: "has another length" })
}

fn once<T>(tag: u8, place: &mut Option<T>, value: T) -> Result<(), WireError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(WireError::Tlv { tag, reason: "comes twice" }),
    }
}

/// Fills the payload's length and sum into a written header, and the header's own sum.
pub(crate) fn fill(header: &mut [u8], payload_len: u32, payload_crc: u32) {
    if let Some(fixed) = header.first_chunk_mut::<MIN_HEADER_SIZE>() {
        fixed[4..8].copy_from_slice(&payload_len.to_le_bytes());
        fixed[12..].copy_from_slice(&payload_crc.to_le_bytes());
        seal(header);
    }
}

/// Fills the sum of a written header into it.
pub(crate) fn seal(header: &mut [u8]) {
    let sum = header_sum(header);
    if let Some(place) = header.get_mut(8..12) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-32C of a header of at least 16 bytes as if its own field were 0.
#[inline]
fn header_sum(header: &[u8]) -> u32 {
    if let [a, b, c, d, e, f, g, h, _, _, _, _, i, j, k, l] = *header {
        return crc32c_of_fixed([a, b, c, d, e, f, g, h], [i, j, k, l]);
    }
    let mut sum = Crc32c::default();
    sum.update(header.get(..8).unwrap_or_default());
    sum.update(&[0; 4]);
    sum.update(header.get(12..).unwrap_or_default());
    sum.sum()
}

#[derive(Default)]
struct Parts {
    place: Option<(u32, u32)>,
    role: Option<StreamRole>,
}

impl Parts {
    fn stream(self, msg_type: MessageType) -> Result<Option<StreamPart>, WireError> {
        let role = match (msg_type, self.role) {
            (MessageType::StreamBegin, Some(role @ StreamRole::Begin { .. }))
            | (MessageType::StreamEnd, Some(role @ StreamRole::End { .. })) => Some(role),
            (MessageType::StreamChunk, None) => Some(StreamRole::Chunk),
            (_, None) if !msg_type.is_part() => None,
            _ => return Err(WireError::Tlv { tag: TAG_BEGIN, reason: "contradicts the type" }),
        };
        match (self.place, role) {
            (Some((id, seq)), Some(role)) => Ok(Some(StreamPart { id, seq, role })),
            (None, None) => Ok(None),
            _ => Err(WireError::Tlv { tag: TAG_STREAM, reason: "contradicts the type" }),
        }
    }
}

/// A length as one byte: all fields together are far from 255, see the tests.
fn narrow(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

struct Writer<'a> {
    bytes: &'a mut [u8; MAX_HEADER_SIZE],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, value: &[u8]) {
        let end = self.at + value.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(value);
            self.at = end;
        }
    }

    fn field(&mut self, tag: u8, value: &[&[u8]]) {
        let len: usize = value.iter().map(|part| part.len()).sum();
        self.put(&[tag, narrow(len)]);
        for part in value {
            self.put(part);
        }
    }
}

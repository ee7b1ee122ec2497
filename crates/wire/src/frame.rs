//! Frames: a header and its payload, written into [`Segments`].
use bytes::Bytes;

use crate::crc::crc32c;
use crate::error::WireError;
use crate::header::{MessageHeader, RequestId, StreamRole, fill, seal};
use crate::kind::MessageType;
use crate::limits::{CHUNK_BYTES, Limits, MAX_MAX_MESSAGE};
use crate::segments::{Mark, Segments};

/// A message as it is on the wire: the form of the real path, cheap to clone and to take apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What stands in front.
    pub header: MessageHeader,
    /// The bytes behind it.
    pub payload: Bytes,
}

impl Frame {
    /// A frame around a payload. Its length is filled in, its sum when it is encoded.
    pub fn new(msg_type: MessageType, request_id: Option<RequestId>, payload: Bytes) -> Self {
        let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = MessageHeader { request_id, payload_len, ..MessageHeader::new(msg_type) };
        Self { header, payload }
    }
}

/// A frame that was begun.
#[derive(Debug)]
#[must_use = "a frame that was begun must be ended"]
pub struct FrameMark {
    start: Mark,
    payload: Mark,
    summed: bool,
}

/// Writes a header; whatever is put into `out` until [`end_frame`] is its payload.
pub fn begin_frame(out: &mut Segments, header: &MessageHeader) -> FrameMark {
    let start = out.mark();
    header.put(out);
    FrameMark { start, payload: out.mark(), summed: header.payload_crc.is_some() }
}

/// Fills in length and sums.
///
/// # Errors
/// [`WireError::TooLarge`]: the frame is taken back. [`WireError::Invalid`]: `out` is not the list that it was begun in, as
/// it was then.
#[expect(clippy::needless_pass_by_value, reason = "a frame ends once")]
pub fn end_frame(out: &mut Segments, mark: FrameMark) -> Result<(), WireError> {
    let FrameMark { start, payload, summed } = mark;
    let len = payload_len(out.len_since(payload)).inspect_err(|_| out.truncate(start))?;
    let sum = if summed { out.crc_since(payload) } else { 0 };
    let Some(header) = out.heads_between(start, payload) else {
        let reason = "its list was finished or cleared before it was ended".to_owned();
        return Err(WireError::Invalid { what: "a frame", reason });
    };
    fill(header, len, sum);
    Ok(())
}

/// Writes a whole frame; the payload by reference if it is long enough. Length and sum are filled in.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode_frame(
    out: &mut Segments,
    header: &MessageHeader,
    payload: Bytes,
) -> Result<(), WireError> {
    put_header(out, header, &payload)?;
    out.push(payload);
    Ok(())
}

/// As [`encode_frame`], with a payload that has to be copied.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode_frame_borrowed(
    out: &mut Segments,
    header: &MessageHeader,
    payload: &[u8],
) -> Result<(), WireError> {
    put_header(out, header, payload)?;
    out.push_copy(payload);
    Ok(())
}

fn put_header(out: &mut Segments, header: &MessageHeader, payload: &[u8]) -> Result<(), WireError> {
    let mut header = *header;
    header.payload_len = payload_len(payload.len())?;
    header.payload_crc = header.payload_crc.map(|_| crc32c(payload));
    let start = out.mark();
    header.put(out);
    if let Some(header) = out.heads_between(start, out.mark()) {
        seal(header);
    }
    Ok(())
}

/// A length as headers have it.
pub(crate) fn payload_len(len: usize) -> Result<u32, WireError> {
    let narrow = u32::try_from(len).ok().filter(|len| *len <= MAX_MAX_MESSAGE);
    narrow.ok_or(WireError::TooLarge {
        what: "a payload",
        len: len as u64,
        limit: u64::from(MAX_MAX_MESSAGE),
    })
}

/// Whether `payload` is what `header` announced.
pub(crate) fn verify(header: &MessageHeader, payload: &[u8]) -> Result<(), WireError> {
    let Some(expected) = header.payload_crc else { return Ok(()) };
    let found = crc32c(payload);
    if expected == found { Ok(()) } else { Err(WireError::PayloadChecksum { expected, found }) }
}

/// Refuses a payload before it is waited for.
pub(crate) fn check_len(header: &MessageHeader, limits: &Limits) -> Result<(), WireError> {
    let (what, limit) = match header.stream.map(|part| part.role) {
        None => ("a message", limits.max_message as usize),
        Some(StreamRole::Chunk) => ("a chunk", CHUNK_BYTES),
        Some(StreamRole::Begin { .. } | StreamRole::End { .. }) => {
            ("the end of a chunked message", 0)
        }
    };
    let (len, limit) = (u64::from(header.payload_len), limit as u64);
    if len > limit { Err(WireError::TooLarge { what, len, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_whose_list_was_emptied_meanwhile_harms_no_other() {
        for finished in [false, true] {
            let header = MessageHeader::new(MessageType::RaftMessage);
            let mut out = Segments::default();
            let lost = begin_frame(&mut out, &header);
            out.put_slice(b"lost");
            if finished {
                assert_eq!(out.finish().len(), 1);
            }
            out.clear();
            encode_frame(&mut out, &header, Bytes::from_static(b"whole")).expect("fits");
            let before = out.io_slices().flat_map(|part| part.to_vec()).collect::<Vec<_>>();
            assert!(matches!(end_frame(&mut out, lost), Err(WireError::Invalid { .. })));
            assert_eq!(out.finish().concat(), before);
        }
    }
}

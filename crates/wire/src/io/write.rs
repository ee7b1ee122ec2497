//! Messages into a stream.
use std::io::{self, IoSlice};
use std::time::Duration;

use straightway_buffer::packet::{PacketBuffer, take_buffer};
use straightway_buffer::{Reason, count_copied};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{IoConfig, within};
use crate::crc::crc32c;
use crate::error::WireError;
use crate::frame::payload_len;
use crate::header::{MessageHeader, RequestId};
use crate::kind::MessageType;
use crate::limits::{CHUNK_BYTES, MAX_HEADER_SIZE, should_stream};
use crate::message::ZeroCopyMessage;
use crate::segments::Segments;
use crate::stream::Heads;

/// Where a stream takes one slice at a time, shorter ones are copied together up to this.
const JOIN: usize = 16 << 10;
const STEP: &str = "writing a message";

/// Writes a message: one write if it is small, otherwise chunk by chunk; its payload as it is, not copied.
///
/// # Errors
/// [`WireError::TooLarge`], [`WireError::Timeout`], [`WireError::Io`].
pub async fn write_message_zero_copy<W: AsyncWrite + Unpin>(
    stream: &mut W,
    message: &ZeroCopyMessage<'_>,
) -> Result<(), WireError> {
    write_payload(stream, message.header(), &message.payload, IoConfig::default().timeout).await
}

/// As [`write_message_zero_copy`], with any header and time limit.
///
/// # Errors
/// [`WireError::TooLarge`], [`WireError::Timeout`], [`WireError::Io`].
pub async fn write_payload<W: AsyncWrite + Unpin>(
    stream: &mut W,
    header: MessageHeader,
    payload: &[u8],
    timeout: Duration,
) -> Result<(), WireError> {
    if !should_stream(payload.len()) {
        let mut head = Head::default();
        head.add(header, payload)?;
        return write_all(stream, [head.bytes(), payload].map(IoSlice::new), timeout).await;
    }
    let mut heads = Heads::new(header, 0)?;
    let mut head = Head::default();
    head.add(heads.begin(payload.len())?, &[])?;
    let chunks = payload.len().div_ceil(CHUNK_BYTES);
    for (index, chunk) in payload.chunks(CHUNK_BYTES).enumerate() {
        head.add(heads.chunk(), chunk)?;
        let mut tail = Head::default();
        if index + 1 == chunks {
            tail.add(heads.end(false), &[])?;
        }
        let parts = [head.bytes(), chunk, tail.bytes()].map(IoSlice::new);
        write_all(stream, parts, timeout).await?;
        head = Head::default();
    }
    Ok(())
}

/// Writes what was gathered in `out`, and empties it.
///
/// # Errors
/// [`WireError::Timeout`], [`WireError::Io`]; it is emptied all the same.
pub async fn write_segments<W: AsyncWrite + Unpin>(
    stream: &mut W,
    out: &mut Segments,
    timeout: Duration,
) -> Result<(), WireError> {
    let written = write_parts(stream, out, timeout).await;
    out.clear();
    written
}

async fn write_parts<W: AsyncWrite + Unpin>(
    stream: &mut W,
    out: &Segments,
    timeout: Duration,
) -> Result<(), WireError> {
    if let Some(mut left) = out.only_part() {
        if left.is_empty() {
            return Ok(());
        }
        while !left.is_empty() {
            let written = within(Some(timeout), STEP, stream.write(left)).await?;
            left = left.get(written..).filter(|_| written > 0).ok_or_else(nothing_taken)?;
        }
        return within(Some(timeout), STEP, stream.flush()).await;
    }
    let mut slices = Vec::with_capacity(out.most_slices());
    slices.extend(out.io_slices());
    write_all(stream, slices, timeout).await
}

/// The form before there were chunks by reference: the payload is borrowed, the rest is [`write_message_zero_copy`].
///
/// # Errors
/// As [`write_message_zero_copy`].
pub async fn write_message<W: AsyncWrite + Unpin>(
    stream: &mut W,
    msg_type: MessageType,
    request_id: Option<RequestId>,
    payload: &[u8],
) -> Result<(), WireError> {
    let message = ZeroCopyMessage::new_borrowed(msg_type, request_id, payload);
    write_message_zero_copy(stream, &message).await
}

/// Headers that stand one behind the other: at most a beginning and a chunk.
struct Head {
    bytes: [u8; 2 * MAX_HEADER_SIZE],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; 2 * MAX_HEADER_SIZE], len: 0 }
    }
}

impl Head {
    fn add(&mut self, mut header: MessageHeader, payload: &[u8]) -> Result<(), WireError> {
        header.payload_len = payload_len(payload.len())?;
        header.payload_crc = header.payload_crc.map(|_| crc32c(payload));
        if let Some(place) = self.bytes[self.len..].first_chunk_mut() {
            self.len += header.encode(place);
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes parts in as few calls as the stream takes them in. Each has the whole time: what goes on is not too slow.
async fn write_all<'a, W: AsyncWrite + Unpin>(
    stream: &mut W,
    mut slices: impl AsMut<[IoSlice<'a>]>,
    timeout: Duration,
) -> Result<(), WireError> {
    let mut left = slices.as_mut();
    // Takes away what is empty at the beginning.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let written = match &*left {
            [one] => within(Some(timeout), STEP, stream.write(one)).await?,
            many if stream.is_write_vectored() => {
                within(Some(timeout), STEP, stream.write_vectored(many)).await?
            }
            [first, ..] if first.len() >= JOIN => {
                within(Some(timeout), STEP, stream.write(first)).await?
            }
            many => {
                let whole = joined(many);
                let mut rest = &whole[..];
                while !rest.is_empty() {
                    match within(Some(timeout), STEP, stream.write(rest)).await? {
                        0 => break,
                        written => rest = &rest[written..],
                    }
                }
                whole.len() - rest.len()
            }
        };
        if written == 0 {
            return Err(nothing_taken());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    within(Some(timeout), STEP, stream.flush()).await
}

fn nothing_taken() -> WireError {
    WireError::io(STEP)(io::ErrorKind::WriteZero.into())
}

/// As many of these as fit together, the first at least.
fn joined(parts: &[IoSlice<'_>]) -> PacketBuffer {
    let mut whole = take_buffer(JOIN);
    for part in parts {
        if whole.len() + part.len() > JOIN {
            break;
        }
        whole.extend_from_slice(part);
    }
    count_copied(whole.len(), Reason::Gather);
    whole
}

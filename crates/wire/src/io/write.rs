//! Messages into a stream.
use std::io::{self, IoSlice};
use std::time::Duration;

use straightway_buffer::packet::take_buffer;
use straightway_buffer::{Reason, count_copied};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{IoConfig, within};
use crate::crc::crc32c;
use crate::error::WireError;
use crate::frame::payload_len;
use crate::header::{MessageHeader, RequestId};
use crate::kind::MessageType;
use crate::limits::{CHUNK_BYTES, LARGE_MESSAGE_THRESHOLD, MAX_HEADER_SIZE};
use crate::message::ZeroCopyMessage;
use crate::segments::{CUT, Segments};
use crate::stream::Heads;

/// Slices that are handed to the system at once.
const SLICES: usize = 64;

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
    if payload.len() <= LARGE_MESSAGE_THRESHOLD {
        let mut head = Head::default();
        head.add(header, payload)?;
        return write_all(stream, &[head.bytes(), payload], timeout).await;
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
        write_all(stream, &[head.bytes(), chunk, tail.bytes()], timeout).await?;
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
    let mut outcome = Ok(());
    for parts in out.finish().chunks(SLICES) {
        let mut slices = [&[][..]; SLICES];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = part;
        }
        outcome = write_all(stream, &slices[..parts.len()], timeout).await;
        if outcome.is_err() {
            break;
        }
    }
    out.clear();
    outcome
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
        let mut bytes = [0; MAX_HEADER_SIZE];
        let len = header.encode(&mut bytes);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes parts in one call, if the stream takes them so.
async fn write_all<W: AsyncWrite + Unpin>(
    stream: &mut W,
    parts: &[&[u8]],
    timeout: Duration,
) -> Result<(), WireError> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let write = async {
        if !stream.is_write_vectored() && len <= MAX_HEADER_SIZE + CUT {
            let mut whole = take_buffer(len);
            for part in parts {
                whole.extend_from_slice(part);
            }
            count_copied(len, Reason::Gather);
            stream.write_all(&whole).await?;
            return stream.flush().await;
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut left = &mut slices[..parts.len().min(SLICES)];
        // Takes away what is empty at the beginning.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match stream.write_vectored(left).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        stream.flush().await
    };
    within(Some(timeout), "writing a message", write).await
}

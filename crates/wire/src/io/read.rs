//! One message out of a stream, and not a byte more.
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{IoConfig, within, within_counted};
use crate::error::WireError;
use crate::frame::{check_len, verify};
use crate::gather::Gather;
use crate::header::{MIN_HEADER_SIZE, MessageHeader, StreamPart, StreamRole};
use crate::limits::{CHUNK_BYTES, MAX_HEADER_SIZE};
use crate::stream::Assembler;

/// Reads one message, whole or in chunks, and not a byte beyond it. Memory grows with what arrives.
///
/// For streams that carry one message after the other; where others may come between the chunks of a long one,
/// [`super::MessageReader`] is the one to use.
///
/// # Errors
/// Whatever can be wrong with a frame, [`WireError::Timeout`], [`WireError::Closed`], [`WireError::Io`].
pub async fn read_message_zero_copy<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<(MessageHeader, Bytes), WireError> {
    read_message_with(stream, &IoConfig::default()).await
}

/// As [`read_message_zero_copy`], with other limits.
///
/// # Errors
/// As [`read_message_zero_copy`].
pub async fn read_message_with<R: AsyncRead + Unpin>(
    stream: &mut R,
    config: &IoConfig,
) -> Result<(MessageHeader, Bytes), WireError> {
    let header = read_header(stream, config, config.idle).await?;
    let Some(first) = header.stream else {
        let mut gather = Gather::new(header.payload_len as usize);
        let len = header.payload_len as usize;
        let mut left = config.patience(len);
        read_payload(stream, config, &mut gather, len, &mut left).await?;
        let payload = gather.finish();
        verify(&header, &payload)?;
        return Ok((header, payload));
    };
    let mut assembler = Assembler::new(config.limits);
    let (mut header, mut part) = (header, first);
    let total = if let StreamRole::Begin { total, .. } = part.role { total as usize } else { 0 };
    let mut left = config.patience(total);
    loop {
        if part.role == StreamRole::Chunk {
            let len = header.payload_len as usize;
            let from = assembler.chunk(part, len)?;
            let place = assembler.gather(part.id)?;
            read_payload(stream, config, place, len, &mut left).await?;
            assembler.verify(&header, part.id, from)?;
        } else if let Some(message) = assembler.turn(&header, part)? {
            return Ok((message.header, message.payload));
        }
        if assembler.open() == 0 {
            return Err(WireError::Stream { id: part.id, reason: "was given up by its sender" });
        }
        header = read_header(stream, config, Some(config.timeout)).await?;
        let next: Option<StreamPart> = header.stream.filter(|next| next.id == first.id);
        let reason = "has another message between its chunks; read it with a MessageReader";
        part = next.ok_or(WireError::Stream { id: first.id, reason })?;
    }
}

/// The form that owns its payload: as [`read_message_zero_copy`], as a `Vec` without another copy.
///
/// # Errors
/// As [`read_message_zero_copy`].
pub async fn read_message<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<(MessageHeader, Vec<u8>), WireError> {
    let (header, payload) = read_message_zero_copy(stream).await?;
    Ok((header, Vec::from(payload)))
}

async fn read_header<R: AsyncRead + Unpin>(
    stream: &mut R,
    config: &IoConfig,
    wait: Option<Duration>,
) -> Result<MessageHeader, WireError> {
    const STEP: &str = "reading a header";
    let mut bytes = [0; MAX_HEADER_SIZE];
    within(wait, STEP, stream.read_exact(&mut bytes[..MIN_HEADER_SIZE])).await?;
    let len = MessageHeader::peek_len(&bytes)?.unwrap_or(MIN_HEADER_SIZE);
    within(Some(config.timeout), STEP, stream.read_exact(&mut bytes[MIN_HEADER_SIZE..len])).await?;
    let header = MessageHeader::decode(&bytes[..len])?;
    check_len(&header, &config.limits)?;
    Ok(header)
}

/// `left`: how long the message may still be waited for.
async fn read_payload<R: AsyncRead + Unpin>(
    stream: &mut R,
    config: &IoConfig,
    gather: &mut Gather,
    len: usize,
    left: &mut Duration,
) -> Result<(), WireError> {
    const STEP: &str = "reading a payload";
    let end = gather.len() + len;
    while gather.len() < end {
        let mut room = gather.spare((end - gather.len()).min(CHUNK_BYTES));
        let (wait, mut waiting) = (config.timeout.min(*left), None);
        let read = stream.read_buf(&mut room);
        if within_counted(Some(wait), STEP, read, &mut waiting).await? == 0 {
            return Err(WireError::Closed { step: STEP });
        }
        *left = left.saturating_sub(waiting.map_or(Duration::ZERO, |since| since.elapsed()));
    }
    Ok(())
}

//! Message after message out of a stream.
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{IoConfig, within};
use crate::error::WireError;
use crate::frame::Frame;
use crate::limits::CHUNK_BYTES;
use crate::stream::MessageParser;

/// What is read at once where a long payload may follow: it is copied, what comes after it is read to its place.
const FEW_BYTES: usize = 4 << 10;

/// Reads message after message. Short ones are slices of what was read.
#[derive(Debug)]
pub struct MessageReader<R> {
    stream: R,
    config: IoConfig,
    parser: MessageParser,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// A reader of this stream.
    pub fn new(stream: R, config: IoConfig) -> Self {
        let parser = MessageParser::new(config.limits);
        Self { stream, config, parser, buffer: BytesMut::new() }
    }

    /// The next message; `None`: the stream has ended after the last one. May be cancelled.
    ///
    /// # Errors
    /// As [`super::read_message_zero_copy`]; after one, nothing more is read.
    pub async fn next(&mut self) -> Result<Option<Frame>, WireError> {
        const STEP: &str = "reading messages";
        loop {
            match self.parser.next_message() {
                Ok(None) => {}
                outcome => return outcome,
            }
            let idle = self.parser.is_idle();
            let wait = if idle { self.config.idle } else { Some(self.config.timeout) };
            if let Some((place, most)) = self.parser.place() {
                let mut room = place.spare(most);
                if within(wait, STEP, self.stream.read_buf(&mut room)).await? == 0 {
                    return Err(WireError::Closed { step: STEP });
                }
                continue;
            }
            if self.buffer.capacity() < CHUNK_BYTES / 8 {
                self.buffer.reserve(CHUNK_BYTES);
            }
            let most = if self.parser.is_streaming() { FEW_BYTES } else { CHUNK_BYTES };
            let mut room = (&mut self.buffer).limit(most);
            match within(wait, STEP, self.stream.read_buf(&mut room)).await? {
                0 if idle => return Ok(None),
                0 => return Err(WireError::Closed { step: STEP }),
                _ => self.parser.feed(self.buffer.split().freeze()),
            }
        }
    }

    /// Its parser, for what it has counted.
    pub fn parser(&self) -> &MessageParser {
        &self.parser
    }
}

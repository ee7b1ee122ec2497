//! Message after message out of a stream.
use std::future::Future;
use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{IoConfig, within_counted};
use crate::error::WireError;
use crate::frame::Frame;
use crate::limits::CHUNK_BYTES;
use crate::stream::MessageParser;

/// What is read at once where a long payload may follow: it is copied, what comes after it is read to its place.
const FEW_BYTES: usize = 4 << 10;
const STEP: &str = "reading messages";

/// Where a [`MessageReader`] has its bytes from.
pub trait Source {
    /// Waits for more, and gives it to the parser; `false`: the stream has ended. May be cancelled: what was read is in the
    /// parser, or has not been read.
    fn read(&mut self, into: &mut MessageParser) -> impl Future<Output = io::Result<bool>>;
}

/// Any stream of bytes as a source.
#[derive(Debug)]
pub struct StreamSource<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Source for StreamSource<R> {
    async fn read(&mut self, into: &mut MessageParser) -> io::Result<bool> {
        if let Some((place, most)) = into.place() {
            return Ok(self.stream.read_buf(&mut place.spare(most)).await? > 0);
        }
        if self.buffer.capacity() < CHUNK_BYTES / 8 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        let most = if into.is_streaming() { FEW_BYTES } else { CHUNK_BYTES };
        let read = self.stream.read_buf(&mut (&mut self.buffer).limit(most)).await?;
        into.feed(self.buffer.split().freeze());
        Ok(read > 0)
    }
}

/// Reads message after message. Short ones are slices of what was read, long ones are read to where they stay.
#[derive(Debug)]
pub struct MessageReader<S> {
    source: S,
    config: IoConfig,
    parser: MessageParser,
}

impl<R: AsyncRead + Unpin> MessageReader<StreamSource<R>> {
    /// A reader of this stream.
    pub fn new(stream: R, config: IoConfig) -> Self {
        Self::of(StreamSource { stream, buffer: BytesMut::new() }, config)
    }
}

impl<S: Source> MessageReader<S> {
    /// A reader of what comes from `source`.
    pub fn of(source: S, config: IoConfig) -> Self {
        Self { source, config, parser: MessageParser::new(config.limits) }
    }

    /// The next message; `None`: the stream has ended after the last one. May be cancelled.
    ///
    /// Beside the limit of each step, a message has as much time from its beginning to its end as
    /// [`IoConfig::patience`] says, the time apart in which nobody waited for it here.
    ///
    /// # Errors
    /// As [`super::read_message_zero_copy`]. After one that says what is wrong with a frame, there are no more messages.
    pub async fn next(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            match self.parser.next_message() {
                Ok(None) => {}
                outcome => return outcome,
            }
            let Self { source, config, parser } = self;
            let idle = parser.is_idle();
            let left = if idle { None } else { parser.patience(|len| config.patience(len)) };
            let step = if idle { config.idle } else { Some(config.timeout) };
            let wait = left.map_or(step, |left| Some(left.min(config.timeout)));
            let mut waiting = None;
            let read = within_counted(wait, STEP, source.read(parser), &mut waiting).await?;
            if let Some(since) = waiting {
                parser.waited(since.elapsed());
            }
            match read {
                true => {}
                false if idle => return Ok(None),
                false => return Err(WireError::Closed { step: STEP }),
            }
        }
    }

    /// Its parser, for what it has counted.
    pub fn parser(&self) -> &MessageParser {
        &self.parser
    }
}

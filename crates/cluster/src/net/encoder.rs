//! Messages to frames, as the lanes send them.
use raft::prelude::Message;
use straightway_wire::raft::{encode_raft_message, encoded_len};
use straightway_wire::raft_utils::{create_heartbeat_message, create_raft_rpc_request};
use straightway_wire::{
    Agreed, COMPRESS_FROM, ChunkWriter, Compressor, MIN_HEADER_SIZE, MessageHeader, MessageType,
    Payload, QUIC_CUT, RequestId, RpcReply, Segments, WireError, encode_frame_borrowed,
    encode_message, encode_request, encode_response,
};

use super::queue::Outgoing;
use super::rpc::SERVICE;

/// What was encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// The payload's length.
    pub(crate) len: usize,
    /// Whether it goes in chunks: [`Encoder::next_chunk`] makes them.
    pub(crate) streamed: bool,
}

/// Makes frames, in memory that is used again.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) segments: Segments,
    /// A message that is sent in chunks, as far as it is not in `segments`.
    long: Option<ChunkWriter>,
    /// Tells chunked messages apart.
    stream: u32,
    /// What both sides can do, and what compresses accordingly.
    features: u64,
    compressor: Option<Compressor>,
    /// Longest message that the peer takes.
    most: usize,
}

impl Encoder {
    /// For a peer that has not spoken yet and may be believed to take messages of `most` bytes.
    pub(crate) fn new(most: u32) -> Self {
        let segments = Segments::new(QUIC_CUT);
        let (features, compressor, most) = (0, None, most as usize);
        Self { segments, long: None, stream: 0, features, compressor, most }
    }

    /// From now on, messages are as both sides can have them, and compressed if that is wanted here.
    pub(crate) fn agree(&mut self, agreed: Agreed, compress: bool) {
        self.most = agreed.max_message as usize;
        let features = if compress { agreed.features } else { 0 };
        if self.features == features {
            return;
        }
        self.features = features;
        self.compressor = Compressor::agreed(features).unwrap_or_else(|error| {
            tracing::warn!(%error, "messages go uncompressed");
            None
        });
    }

    /// Appends a message, or leaves everything as it was. Of one in chunks nothing is there yet, and all of them are to be
    /// made before another one that could be as long.
    pub(crate) fn encode(&mut self, item: Outgoing) -> Result<Encoded, WireError> {
        let (start, before) = (self.segments.mark(), self.long.is_some());
        let encoded = match item {
            Outgoing::Raft(message) => self.raft(&message),
            Outgoing::Request { id, method, payload, deadline_ms } => {
                let header = MessageHeader::new(MessageType::Request)
                    .with_request_id(id)
                    .with_deadline_ms(deadline_ms);
                let len = payload.len();
                encode_request(&mut self.segments, &header, SERVICE, &method, payload)
                    .map(|()| 2 + SERVICE.len() + method.len() + len)
            }
            Outgoing::Response { id, reply } => {
                let len = match &reply {
                    RpcReply::Ok(payload) => payload.len(),
                    RpcReply::Err(text) => text.len(),
                };
                encode_response(&mut self.segments, id, reply).map(|()| 4 + len)
            }
            Outgoing::Frames(frames) | Outgoing::Echo(frames) => {
                let len = frames.len();
                self.segments.push(frames);
                Ok(len)
            }
        };
        if encoded.is_err() {
            self.segments.truncate(start);
        }
        encoded.map(|len| Encoded { len, streamed: !before && self.long.is_some() })
    }

    /// Appends a sign of life that asks for an echo.
    pub(crate) fn ping(&mut self, id: RequestId) -> Result<(), WireError> {
        let mut ping = create_heartbeat_message();
        ping.request_id = Some(id);
        encode_frame_borrowed(&mut self.segments, &ping.header().without_sum(), &ping.payload)
    }

    /// Appends the next chunk of a long message; `false`: there is none left behind it.
    pub(crate) fn next_chunk(&mut self) -> Result<bool, WireError> {
        let Some(long) = &mut self.long else { return Ok(false) };
        let more = long.next_chunk(&mut self.segments);
        if !matches!(more, Ok(true)) {
            self.long = None;
        }
        more
    }

    fn raft(&mut self, message: &Message) -> Result<usize, WireError> {
        // Without a sum: QUIC has authenticated every byte.
        let header = MessageHeader::new(MessageType::RaftMessage).without_sum();
        self.stream = self.stream.wrapping_add(1);
        if self.compressor.is_some() {
            let len = encoded_len(message);
            if (COMPRESS_FROM..=self.most).contains(&len) {
                return self.compressed(message, header);
            }
        }
        let before = self.segments.mark();
        // What is longer than the peer takes is refused: it would close the connection, and lose what else is on it.
        let (out, most) = (&mut self.segments, self.most);
        if let Some(long) = encode_raft_message(out, &header, message, most, self.stream)? {
            return Ok(self.begin(long));
        }
        Ok(self.segments.len_since(before).saturating_sub(MIN_HEADER_SIZE))
    }

    /// A message in one piece, because that is what can be compressed; as it is where it would not become smaller.
    fn compressed(
        &mut self,
        message: &Message,
        mut header: MessageHeader,
    ) -> Result<usize, WireError> {
        let plain = create_raft_rpc_request(message, None)?.into_shared().payload;
        let smaller = self.compressor.as_mut().and_then(|it| it.compress(&mut header, &plain));
        let payload = Payload::Shared(smaller.unwrap_or(plain));
        let len = payload.len();
        let long = encode_message(&mut self.segments, &header, payload, self.stream)?;
        Ok(long.map_or(len, |long| self.begin(long)))
    }

    fn begin(&mut self, long: ChunkWriter) -> usize {
        let len = long.remaining();
        self.long = Some(long);
        len
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::prelude::{Entry, MessageType as RaftType};
    use straightway_wire::{Hello, Limits, MessageParser};

    use super::*;

    fn append(len: usize) -> Outgoing {
        let mut message = Message { term: 1, from: 1, to: 2, ..Message::default() };
        message.set_msg_type(RaftType::MsgAppend);
        let data = Bytes::from(vec![7; len]);
        message.set_entries(vec![Entry { index: 1, term: 1, data, ..Entry::default() }].into());
        Outgoing::Raft(Box::new(message))
    }

    fn types(parser: &mut MessageParser) -> Vec<MessageType> {
        let next = || parser.next_message().expect("sound").map(|frame| frame.header.msg_type);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn others_go_between_the_chunks_of_a_long_message() {
        let mut encoder = Encoder::new(1 << 20);
        let mut parser = MessageParser::new(Limits::default());
        let encoded = encoder.encode(append(200_000)).expect("encoded");
        assert!(encoded.streamed && encoded.len > 200_000);
        let (mut order, mut chunks) = (Vec::new(), 0);
        while encoder.next_chunk().expect("written") {
            assert!(encoder.segments.len_bytes() < (64 << 10) + 100);
            encoder.ping([1; 16]).expect("written");
            parser.feed(encoder.segments.finish().concat().into());
            encoder.segments.clear();
            order.extend(types(&mut parser));
            chunks += 1;
        }
        parser.feed(encoder.segments.finish().concat().into());
        order.extend(types(&mut parser));
        assert_eq!(chunks, 3);
        let alive = MessageType::Heartbeat;
        assert_eq!(order, [alive, alive, alive, MessageType::RaftMessage]);
    }

    #[test]
    fn what_the_peer_does_not_take_is_refused_here() {
        let mut encoder = Encoder::new(1 << 20);
        let hello = |max_message| Hello { max_message, features: 3, ..Hello::default() };
        encoder.agree(hello(1 << 20).agree(&hello(70_000)), false);
        for len in [69_900, 80_000] {
            let encoded = encoder.encode(append(len));
            let too_large = matches!(encoded, Err(WireError::TooLarge { limit: 70_000, .. }));
            assert_eq!(too_large, len > 70_000, "{encoded:?}");
            while encoder.next_chunk().expect("written") {}
        }
        // Compressed it is short, and to be opened it is too long.
        encoder.agree(hello(1 << 20).agree(&hello(70_000)), true);
        assert!(matches!(encoder.encode(append(80_000)), Err(WireError::TooLarge { .. })));
        let encoded = encoder.encode(append(60_000)).expect("compressed");
        assert!(encoded.len < 1000 && !encoded.streamed, "{encoded:?}");
    }
}

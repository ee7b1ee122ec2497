//! Messages to frames, as the lanes send them.
use raft::prelude::Message;
use straightway_wire::raft::{
    encoded_len, serialize_raft_message_fast, serialize_raft_message_vectored,
};
use straightway_wire::{
    COMPRESS_FROM, ChunkWriter, Compressor, LARGE_MESSAGE_THRESHOLD, MessageHeader, MessageType,
    Payload, QUIC_CUT, RpcReply, Segments, WireError, begin_frame, encode_message, encode_request,
    encode_response, end_frame,
};

use super::queue::Outgoing;
use super::rpc::SERVICE;

/// Makes frames, in memory that is used again.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) segments: Segments,
    /// A message that is sent in chunks, as a whole.
    long: Segments,
    /// Tells chunked messages apart.
    stream: u32,
    /// What both sides can do, and what compresses accordingly.
    agreed: u64,
    compressor: Option<Compressor>,
    /// Longest message that the peer takes.
    most: usize,
}

impl Encoder {
    pub(crate) fn new(most: u32) -> Self {
        let segments = || Segments::new(QUIC_CUT);
        let (agreed, compressor) = (0, None);
        let most = most as usize;
        Self { segments: segments(), long: segments(), stream: 0, agreed, compressor, most }
    }

    /// From now on, Raft messages are compressed as both sides can.
    pub(crate) fn compress(&mut self, agreed: u64) {
        if self.agreed == agreed {
            return;
        }
        self.agreed = agreed;
        self.compressor = Compressor::agreed(agreed).unwrap_or_else(|error| {
            tracing::warn!(%error, "messages go uncompressed");
            None
        });
    }

    /// Appends a message, and answers with its payload's length; or leaves everything as it was.
    pub(crate) fn encode(&mut self, item: Outgoing) -> Result<usize, WireError> {
        let start = self.segments.mark();
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
            Outgoing::Frames(frames) => {
                let len = frames.len();
                self.segments.push(frames);
                Ok(len)
            }
        };
        if encoded.is_err() {
            self.segments.truncate(start);
        }
        encoded
    }

    fn raft(&mut self, message: &Message) -> Result<usize, WireError> {
        // Without a sum: QUIC has authenticated every byte.
        let header = MessageHeader::new(MessageType::RaftMessage).without_sum();
        let len = encoded_len(message);
        // The peer would close the connection, and lose what else is on it.
        if len > self.most {
            let (len, limit) = (len as u64, self.most as u64);
            return Err(WireError::TooLarge { what: "a Raft message", len, limit });
        }
        if len >= COMPRESS_FROM && self.compressor.is_some() {
            return self.compressed(message, header);
        }
        if len <= LARGE_MESSAGE_THRESHOLD {
            let frame = begin_frame(&mut self.segments, &header);
            serialize_raft_message_vectored(message, &mut self.segments)?;
            end_frame(&mut self.segments, frame)?;
            return Ok(len);
        }
        self.long.clear();
        serialize_raft_message_vectored(message, &mut self.long)?;
        let parts = self.long.finish().iter_mut().map(std::mem::take).collect::<Vec<_>>();
        self.stream = self.stream.wrapping_add(1);
        let mut writer = ChunkWriter::new(header, parts, self.stream)?;
        while writer.next_chunk(&mut self.segments)? {}
        Ok(len)
    }

    /// A message in one piece, because that is what can be compressed; as it is where it would not become smaller.
    fn compressed(
        &mut self,
        message: &Message,
        mut header: MessageHeader,
    ) -> Result<usize, WireError> {
        let plain = serialize_raft_message_fast(message)?;
        let smaller = self.compressor.as_mut().and_then(|it| it.compress(&mut header, &plain));
        let payload = Payload::Shared(smaller.unwrap_or(plain));
        let len = payload.len();
        self.stream = self.stream.wrapping_add(1);
        if let Some(mut writer) = encode_message(&mut self.segments, &header, payload, self.stream)?
        {
            while writer.next_chunk(&mut self.segments)? {}
        }
        Ok(len)
    }
}

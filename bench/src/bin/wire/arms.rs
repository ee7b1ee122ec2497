//! Ours, and tokio-util's framed streams, over any pipe.
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use raft::prelude::Message;
use straightway_wire::io::{MessageReader, write_segments};
use straightway_wire::raft::{deserialize_raft_message_fast, encode_raft_message};
use straightway_wire::{IoConfig, MessageHeader, MessageType, Segments};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{
    Decoder, Encoder, FramedRead, FramedWrite, LengthDelimitedCodec,
};

use crate::pipe::BATCH_BYTES;
use crate::rivals::{owned, shared};

const LIMIT: usize = 16 << 20;

pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Pipe for T {}

/// As the lanes of the cluster do it: frame after frame into segments, written when there are enough, or none waits.
pub async fn ours(write: impl Pipe, read: impl Pipe, message: &Message, n: u32, one_by_one: bool, sums: bool) {
    let header = MessageHeader::new(MessageType::RaftMessage);
    let header = if sums { header } else { header.without_sum() };
    let sender = async {
        let (mut write, mut out) = (write, Segments::default());
        for stream in 0..n {
            let long = encode_raft_message(&mut out, &header, message, LIMIT, stream);
            if let Some(mut chunks) = long.expect("encoded") {
                while chunks.next_chunk(&mut out).expect("framed") {}
            }
            if one_by_one || out.len_bytes() >= BATCH_BYTES {
                write_segments(&mut write, &mut out, Duration::from_secs(30)).await.expect("written");
            }
        }
        write_segments(&mut write, &mut out, Duration::from_secs(30)).await.expect("written");
        write
    };
    let receiver = async {
        let mut reader = MessageReader::new(read, IoConfig { idle: None, ..IoConfig::default() });
        for _ in 0..n {
            let frame = reader.next().await.expect("sound").expect("another");
            let back = deserialize_raft_message_fast(frame.payload).expect("sound");
            assert_eq!(back.entries.len(), message.entries.len());
        }
    };
    tokio::join!(sender, receiver);
}

/// LengthDelimitedCodec around what prost has encoded.
pub async fn delimited<M: prost::Message + Default>(write: impl Pipe, read: impl Pipe, message: &M, n: u32, one_by_one: bool, decode: fn(BytesMut) -> M) {
    let codec = || LengthDelimitedCodec::builder().max_frame_length(LIMIT).new_codec();
    let sender = async {
        let mut framed = FramedWrite::new(write, codec());
        framed.set_backpressure_boundary(BATCH_BYTES);
        for _ in 0..n {
            framed.feed(Bytes::from(message.encode_to_vec())).await.expect("written");
            if one_by_one {
                SinkExt::<Bytes>::flush(&mut framed).await.expect("written");
            }
        }
        SinkExt::<Bytes>::flush(&mut framed).await.expect("written");
        framed
    };
    let receiver = async {
        let mut framed = FramedRead::with_capacity(read, codec(), 64 << 10);
        for _ in 0..n {
            let frame = framed.next().await.expect("another").expect("sound");
            std::hint::black_box(decode(frame));
        }
    };
    tokio::join!(sender, receiver);
}

pub fn decode_owned(frame: BytesMut) -> owned::Message {
    owned::Message::decode(&frame[..]).expect("sound")
}

pub fn decode_shared(frame: BytesMut) -> shared::Message {
    shared::Message::decode(frame.freeze()).expect("sound")
}

/// What one would write when LengthDelimitedCodec is not fast enough: prost straight into the buffer, behind a length.
struct Direct;

impl Encoder<&shared::Message> for Direct {
    type Error = std::io::Error;

    fn encode(&mut self, message: &shared::Message, into: &mut BytesMut) -> std::io::Result<()> {
        let len = message.encoded_len();
        into.reserve(4 + len);
        into.put_u32(len as u32);
        message.encode_raw(into);
        Ok(())
    }
}

impl Decoder for Direct {
    type Item = shared::Message;
    type Error = std::io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> std::io::Result<Option<shared::Message>> {
        let Some(head) = from.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        assert!(len <= LIMIT);
        if from.len() < 4 + len {
            from.reserve(4 + len - from.len());
            return Ok(None);
        }
        let frame = from.split_to(4 + len).freeze().slice(4..);
        Ok(Some(shared::Message::decode(frame).expect("sound")))
    }
}

pub async fn direct(write: impl Pipe, read: impl Pipe, message: &shared::Message, n: u32, one_by_one: bool) {
    let sender = async {
        let mut framed = FramedWrite::new(write, Direct);
        framed.set_backpressure_boundary(BATCH_BYTES);
        for _ in 0..n {
            framed.feed(message).await.expect("written");
            if one_by_one {
                SinkExt::<&shared::Message>::flush(&mut framed).await.expect("written");
            }
        }
        SinkExt::<&shared::Message>::flush(&mut framed).await.expect("written");
        framed
    };
    let receiver = async {
        let mut framed = FramedRead::with_capacity(read, Direct, 64 << 10);
        for _ in 0..n {
            std::hint::black_box(framed.next().await.expect("another").expect("sound"));
        }
    };
    tokio::join!(sender, receiver);
}

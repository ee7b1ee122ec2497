//! What a message costs in allocations: nothing to write once warm, at most one to read, and none on a header's word.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod counting;
mod samples;

use bytes::{Bytes, BytesMut};
use counting::cost;
use samples::{chunks, encoded, joined, noise};
use straightway_wire::{
    ChunkWriter, Frame, FrameParser, Hello, Limits, MessageHeader, MessageParser, MessageType,
    RpcReply, RpcRequestView, Segments, encode_frame, encode_hello, encode_request,
    encode_response, serialize_header_zero_copy, serialize_payload_zero_copy,
};

/// As what a connection hands out: the first clone of bytes that are nobody else's makes their counter.
fn shared(bytes: Bytes) -> Bytes {
    drop(bytes.clone());
    bytes
}

fn heartbeat() -> (MessageHeader, Bytes) {
    let header = MessageHeader::new(MessageType::RaftMessage).with_request_id([1; 16]);
    (header, Bytes::from_static(b"a heartbeat of raft"))
}

#[test]
fn writing_into_segments_that_are_warm_allocates_nothing() {
    let (header, small) = heartbeat();
    let large = noise(5000);
    let hello = Hello::default();
    let mut out = Segments::default();
    let mut round = || {
        out.clear();
        encode_frame(&mut out, &header, small.clone()).expect("fits");
        encode_frame(&mut out, &header, large.clone()).expect("fits");
        encode_hello(&mut out, &hello).expect("fits");
        encode_request(&mut out, &header, "catalogue", "propose", large.clone()).expect("fits");
        encode_response(&mut out, [2; 16], RpcReply::Ok(small.clone())).expect("fits");
        assert_eq!(out.finish().len(), 5);
    };
    round();
    round();
    assert_eq!(cost(|| (0..1000).for_each(|_| round())), (0, 0));
}

#[test]
fn chunks_of_a_long_message_allocate_nothing() {
    let large = noise(1 << 20);
    let header = MessageHeader::new(MessageType::RaftMessage);
    let mut out = Segments::default();
    let mut send = |writer: &mut ChunkWriter| {
        while {
            out.clear();
            let more = writer.next_chunk(&mut out).expect("written");
            out.finish();
            more
        } {}
    };
    let writer = || ChunkWriter::new(header, [large.clone()], 1).expect("fits");
    let (mut first, mut second) = (writer(), writer());
    send(&mut first);
    assert_eq!(cost(|| send(&mut second)), (0, 0));
}

#[test]
fn values_and_headers_go_into_a_buffer_that_is_there() {
    let mut buffer = BytesMut::with_capacity(4096);
    let (header, _) = heartbeat();
    let counted = cost(|| {
        serialize_header_zero_copy(&header, &mut buffer).expect("written");
        serialize_payload_zero_copy(&("straight", [7_u64; 20], Some(1.5)), &mut buffer)
            .expect("written");
    });
    assert_eq!(counted, (0, 0));
}

#[test]
fn reading_what_arrives_whole_allocates_nothing_and_in_pieces_once() {
    let (header, payload) = heartbeat();
    let bytes = shared(encoded(&Frame { header, payload }).0);
    let mut parser = FrameParser::new(Limits::default());
    let counted = cost(|| {
        for _ in 0..1000 {
            parser.feed(bytes.clone());
            assert!(parser.next_frame().expect("sound").is_some());
        }
    });
    assert_eq!(counted, (0, 0));
    for cut in 1..bytes.len() {
        let (allocations, size) = cost(|| {
            parser.feed(bytes.slice(..cut));
            assert!(parser.next_frame().expect("sound").is_none());
            parser.feed(bytes.slice(cut..));
            assert!(parser.next_frame().expect("sound").is_some());
        });
        assert!(allocations <= 1 && size <= 19, "cut at {cut}: {allocations}, {size} bytes");
    }
}

#[test]
fn a_call_is_looked_at_where_it_lies() {
    let mut out = Segments::default();
    let header = MessageHeader::new(MessageType::Request).with_request_id([1; 16]);
    encode_request(&mut out, &header, "catalogue", "propose", noise(900)).expect("fits");
    let bytes = shared(joined(&mut out));
    let mut parser = MessageParser::new(Limits::default());
    let counted = cost(|| {
        parser.feed(bytes.clone());
        let message = parser.next_message().expect("sound").expect("whole");
        let call = RpcRequestView::decode(message.payload).expect("sound");
        assert_eq!((call.service(), call.method()), ("catalogue", "propose"));
        assert!(bytes.as_ptr_range().contains(&call.payload().as_ptr()));
    });
    assert_eq!(counted, (0, 0));
}

/// A peer that announces much and sends little.
#[test]
fn nothing_is_allocated_on_a_headers_word() {
    let announced =
        MessageHeader { payload_len: 16 << 20, ..MessageHeader::new(MessageType::RaftMessage) };
    let mut bytes = BytesMut::new();
    serialize_header_zero_copy(&announced, &mut bytes).expect("written");
    let bytes = shared(bytes.freeze());
    let mut parser = FrameParser::new(Limits::default());
    let counted = cost(|| {
        parser.feed(bytes.clone());
        assert!(parser.next_frame().expect("sound").is_none());
    });
    assert_eq!(counted, (0, 0));
    let few = Bytes::from_static(&[7; 100]);
    let (allocations, size) = cost(|| {
        parser.feed(few.clone());
        assert!(parser.next_frame().expect("sound").is_none());
    });
    assert!(allocations <= 1 && size <= 64 << 10, "{size}");

    // The same of chunked messages, as many as may be open.
    let mut out = Segments::default();
    let large = noise(8 << 20);
    let mut writers: Vec<_> =
        (0..4).map(|id| ChunkWriter::new(announced, [large.clone()], id).expect("fits")).collect();
    for writer in &mut writers {
        writer.next_chunk(&mut out).expect("written");
    }
    let bytes = shared(joined(&mut out));
    let mut parser = MessageParser::new(Limits::default());
    let (_, size) = cost(|| {
        parser.feed(bytes.clone());
        assert!(parser.next_message().expect("sound").is_none());
    });
    assert!(size <= 4 * (64 << 10) + 2000, "{size}");
}

/// Copied together once, into memory that is made a few times, whatever the pieces are.
#[test]
fn a_megabyte_in_packets_is_gathered_into_three_allocations() {
    let header = MessageHeader::new(MessageType::RaftMessage);
    let writer = ChunkWriter::new(header, [noise(1 << 20)], 1).expect("fits");
    let wire = chunks(writer).concat();
    let packets: Vec<_> =
        wire.chunks(1424).map(|packet| shared(Bytes::copy_from_slice(packet))).collect();
    let mut parser = MessageParser::new(Limits::default());
    let mut message = None;
    let (allocations, _) = cost(|| {
        for packet in &packets {
            parser.feed(packet.clone());
            message = parser.next_message().expect("sound");
        }
    });
    assert_eq!(message.expect("whole").payload, noise(1 << 20));
    // The list of open messages is the fourth.
    assert!(allocations <= 4, "{allocations}");
    let gathered = parser.gathered_bytes();
    assert!(gathered < (1 << 20) * 4 / 3 + 1000, "{gathered}");
}

//! Frames to test with.
#![allow(dead_code, unreachable_pub, reason = "a module of each test binary")]
use bytes::Bytes;
use proptest::prelude::*;
use straightway_wire::{
    ChunkWriter, Compressed, Compression, Frame, MessageHeader, MessageParser, MessageType,
    Segments, TraceContext, WireError, encode_frame,
};

/// Any header of a frame that is no part of a chunked message.
pub fn any_header() -> impl Strategy<Value = MessageHeader> {
    let kinds: Vec<_> = MessageType::ALL.into_iter().filter(|kind| !kind.is_part()).collect();
    let codec = prop_oneof![Just(Compression::Zstd), Just(Compression::Lz4)];
    let compressed = (codec, any::<u32>())
        .prop_map(|(codec, uncompressed_len)| Compressed { codec, uncompressed_len });
    let trace = (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>())
        .prop_map(|(trace_id, span_id, flags)| TraceContext { trace_id, span_id, flags });
    (
        prop::sample::select(kinds),
        any::<Option<[u8; 16]>>(),
        any::<bool>(),
        prop::option::of(compressed),
        prop::option::of(trace),
        any::<Option<u32>>(),
    )
        .prop_map(|(msg_type, request_id, sum, compressed, trace, deadline_ms)| {
            MessageHeader {
                request_id,
                payload_crc: sum.then_some(0),
                compressed,
                trace,
                deadline_ms,
                ..MessageHeader::new(msg_type)
            }
        })
}

/// Any frame with a payload of up to `most` bytes.
pub fn any_frame(most: usize) -> impl Strategy<Value = Frame> {
    (any_header(), prop::collection::vec(any::<u8>(), 0..=most))
        .prop_map(|(header, payload)| Frame { header, payload: payload.into() })
}

/// A frame's bytes, and the frame as it will be read.
pub fn encoded(frame: &Frame) -> (Bytes, Frame) {
    let bytes = written(|out| encode_frame(out, &frame.header, frame.payload.clone()));
    let mut expected = frame.clone();
    expected.header.payload_len = u32::try_from(frame.payload.len()).expect("small");
    expected.header.payload_crc =
        frame.header.payload_crc.map(|_| straightway_wire::crc32c(&frame.payload));
    (bytes, expected)
}

/// What is written, as bytes.
pub fn written(write: impl FnOnce(&mut Segments) -> Result<(), WireError>) -> Bytes {
    let mut out = Segments::default();
    write(&mut out).expect("small enough");
    joined(&mut out)
}

/// A message in chunks, step by step.
pub fn chunks(mut writer: ChunkWriter) -> Vec<Bytes> {
    let (mut out, mut chunks, mut more) = (Segments::default(), Vec::new(), true);
    while more {
        more = writer.next_chunk(&mut out).expect("written");
        chunks.push(joined(&mut out));
    }
    chunks
}

/// All messages that are there.
pub fn messages(parser: &mut MessageParser) -> Vec<Frame> {
    std::iter::from_fn(|| parser.next_message().expect("sound")).collect()
}

/// All bytes of a list, which is emptied.
pub fn joined(out: &mut Segments) -> Bytes {
    let bytes = out.finish().concat().into();
    out.clear();
    bytes
}

/// Bytes that look like nothing in particular.
pub fn noise(len: usize) -> Bytes {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

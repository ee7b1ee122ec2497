//! Frames come back however they are cut, and payloads are where they arrived.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use bytes::Bytes;
use proptest::prelude::*;
use samples::{any_frame, encoded, joined, noise};
use straightway_wire::{
    CHUNK_BYTES, ChunkWriter, Frame, FrameParser, LARGE_MESSAGE_THRESHOLD, Limits, MessageHeader,
    MessageParser, MessageType, Payload, Segments, WireError, begin_frame, encode_message,
    end_frame, serialize_header_zero_copy,
};

fn all(parser: &mut FrameParser) -> Vec<Frame> {
    std::iter::from_fn(|| parser.next_frame().expect("sound")).collect()
}

proptest! {
    #[test]
    fn frames_come_back_cut_at_every_offset(frames in prop::collection::vec(any_frame(40), 1..3)) {
        let (bytes, expected): (Vec<_>, Vec<_>) = frames.iter().map(encoded).unzip();
        let bytes = Bytes::from(bytes.concat());
        for cut in 0..=bytes.len() {
            let mut parser = FrameParser::new(Limits::default());
            parser.feed(bytes.slice(..cut));
            let mut back = all(&mut parser);
            parser.feed(bytes.slice(cut..));
            back.extend(all(&mut parser));
            prop_assert_eq!(&back, &expected);
            prop_assert!(parser.is_idle());
        }
    }

    #[test]
    fn frames_come_back_in_pieces_of_any_length(
        frames in prop::collection::vec(any_frame(3000), 1..5),
        pieces in prop::collection::vec(1..1500_usize, 1..50),
        greedy: bool,
    ) {
        let (bytes, expected): (Vec<_>, Vec<_>) = frames.iter().map(encoded).unzip();
        let mut rest = Bytes::from(bytes.concat());
        let mut parser = FrameParser::new(Limits::default());
        let mut back = Vec::new();
        for len in pieces.iter().cycle() {
            parser.feed(rest.split_to((*len).min(rest.len())));
            // Whether it is asked after every piece or at the end makes no difference.
            if greedy { back.extend(all(&mut parser)); }
            if rest.is_empty() { break; }
        }
        back.extend(all(&mut parser));
        prop_assert_eq!(back, expected);
        prop_assert!(parser.is_idle());
    }

    #[test]
    fn headers_come_back(header in samples::any_header()) {
        let mut bytes = bytes::BytesMut::new();
        serialize_header_zero_copy(&header, &mut bytes).expect("short");
        prop_assert_eq!(MessageHeader::decode(&bytes).expect("sound"), header);
        prop_assert!(bytes.len() < 120, "far from what one byte can say: {}", bytes.len());
    }

    #[test]
    fn a_flipped_bit_is_seen(frame in any_frame(40), at: prop::sample::Index, bit in 0..8_u32) {
        let (bytes, expected) = encoded(&frame);
        let mut damaged = bytes.to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 1_u8 << bit;
        let mut parser = FrameParser::new(Limits::default());
        parser.feed(damaged.into());
        match parser.next_frame() {
            Err(_) => {}
            // Either more is waited for, or the flip is in a payload that carries no sum.
            Ok(None) => prop_assert!(at < 2, "{at}"),
            Ok(Some(back)) => {
                prop_assert_eq!(back.header, expected.header);
                prop_assert!(back.header.payload_crc.is_none());
            }
        }
    }
}

#[test]
fn a_payload_within_one_piece_is_a_slice_of_it() {
    let frame = Frame::new(MessageType::RaftMessage, Some([3; 16]), noise(1000));
    let (bytes, _) = encoded(&frame);
    let mut parser = FrameParser::new(Limits::default());
    parser.feed(bytes.clone());
    let back = parser.next_frame().expect("sound").expect("whole");
    assert_eq!(back.payload.as_ptr(), bytes[32..].as_ptr());
    assert_eq!(parser.stats().sliced, 1);
    // The header alone may come in pieces: the payload is still where it arrived.
    parser.feed(bytes.slice(..20));
    assert!(parser.next_frame().expect("sound").is_none());
    parser.feed(bytes.slice(20..));
    let back = parser.next_frame().expect("sound").expect("whole");
    assert_eq!(back.payload.as_ptr(), bytes[32..].as_ptr());
    assert_eq!(parser.gathered_bytes(), 0);
    // In two pieces it is copied together, once.
    parser.feed(bytes.slice(..500));
    parser.feed(bytes.slice(500..));
    assert_eq!(all(&mut parser)[0].payload, frame.payload);
    assert_eq!(parser.gathered_bytes(), 1000);
}

#[test]
fn a_payload_is_written_where_it_is() {
    let payload = noise(5000);
    let mut out = Segments::default();
    let header = MessageHeader::new(MessageType::RaftMessage);
    let mark = begin_frame(&mut out, &header);
    out.put_slice(b"small part, ");
    out.push(payload.clone());
    end_frame(&mut out, mark).expect("small enough");
    let parts = out.finish();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[1].as_ptr(), payload.as_ptr());
    let bytes = parts.concat();
    let mut parser = FrameParser::new(Limits::default());
    parser.feed(bytes.into());
    let back = parser.next_frame().expect("sound").expect("whole");
    assert_eq!(back.payload, [&b"small part, "[..], &payload].concat());
}

#[test]
fn a_frame_is_ended_where_it_was_begun() {
    let mut out = Segments::default();
    let mark = begin_frame(&mut out, &MessageHeader::new(MessageType::RaftMessage));
    out.clear();
    assert!(matches!(end_frame(&mut out, mark), Err(WireError::Invalid { .. })));
}

fn message(len: usize) -> (MessageHeader, Bytes) {
    let header = MessageHeader::new(MessageType::RaftMessage).with_request_id([5; 16]);
    (header.with_deadline_ms(700), noise(len))
}

/// The frames of a message, chunk by chunk.
fn chunked(len: usize, stream: u32) -> Vec<Bytes> {
    let (header, payload) = message(len);
    let mut out = Segments::default();
    let writer = encode_message(&mut out, &header, Payload::Shared(payload), stream);
    samples::chunks(writer.expect("small enough").expect("large"))
}

#[test]
fn exactly_64_kib_are_one_frame_and_one_byte_more_is_chunked() {
    let (header, payload) = message(LARGE_MESSAGE_THRESHOLD + 1);
    let mut out = Segments::default();
    let small = Payload::Shared(payload.slice(1..));
    assert!(encode_message(&mut out, &header, small, 1).expect("fits").is_none());
    out.clear();
    let large = encode_message(&mut out, &header, Payload::Shared(payload), 1).expect("fits");
    assert_eq!(large.expect("large").remaining(), LARGE_MESSAGE_THRESHOLD + 1);
    assert!(out.is_empty());
}

#[test]
fn long_messages_arrive_with_short_ones_between_their_chunks_and_are_copied_once() {
    let (short, expected) = encoded(&Frame::new(MessageType::Heartbeat, None, Bytes::new()));
    let len = 3 * CHUNK_BYTES + 17;
    let steps = chunked(len, 9);
    assert_eq!(steps.len(), 4);
    assert!(
        steps.iter().all(|step| step.len() < CHUNK_BYTES + 400),
        "no more than a chunk at once"
    );
    let wire = steps.join(&short[..]);
    for piece in [1424, 70_000, 1 << 20] {
        let mut parser = MessageParser::new(Limits::default());
        let mut back = Vec::new();
        for piece in wire.chunks(piece) {
            parser.feed(Bytes::copy_from_slice(piece));
            back.extend(samples::messages(&mut parser));
        }
        let last = back.pop().expect("the long one");
        assert_eq!(back, vec![expected.clone(); 3]);
        let (header, payload) = message(len);
        assert_eq!(last.payload, payload);
        assert_eq!(last.header.request_id, header.request_id);
        assert_eq!(last.header.deadline_ms, Some(700));
        assert_eq!(last.header.msg_type, MessageType::RaftMessage);
        assert!(parser.is_idle());
        // One move to a larger buffer after the first 64 KiB.
        assert!(parser.gathered_bytes() <= (len + CHUNK_BYTES) as u64, "{piece}");
    }
}

#[test]
fn messages_in_chunks_may_be_interleaved_and_given_up() {
    let mut out = Segments::default();
    let mut writers: Vec<_> = (0..3)
        .map(|id| {
            let (header, payload) = message(100_000 + id);
            let id = u32::try_from(id).expect("small");
            ChunkWriter::new(header, [payload.slice(..10), payload.slice(10..)], id).expect("fits")
        })
        .collect();
    for writer in &mut writers {
        assert!(writer.next_chunk(&mut out).expect("written"));
    }
    writers.remove(1).abort(&mut out).expect("written");
    for writer in &mut writers {
        assert!(!writer.next_chunk(&mut out).expect("written"));
        assert!(!writer.next_chunk(&mut out).expect("nothing more"));
    }
    let mut parser = MessageParser::new(Limits::default());
    parser.feed(joined(&mut out));
    let messages = samples::messages(&mut parser);
    let lens: Vec<_> = messages.iter().map(|message| message.payload.len()).collect();
    assert_eq!(lens, [100_000, 100_002]);
    assert!(parser.is_idle());
}

#[test]
fn a_parser_that_failed_stays_failed() {
    let mut parser = FrameParser::new(Limits::default());
    parser.feed(Bytes::from_static(b"GET / HTTP/1.1"));
    assert!(matches!(parser.next_frame(), Err(WireError::BadMagic { found: b'G' })));
    let (sound, _) = encoded(&Frame::new(MessageType::Heartbeat, None, Bytes::new()));
    parser.feed(sound);
    let Err(WireError::Failed { first }) = parser.next_frame() else { panic!("it went on") };
    assert!(first.contains("0x47"), "{first}");
    assert_eq!(parser.backlog(), 0);
}

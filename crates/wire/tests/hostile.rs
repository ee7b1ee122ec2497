//! Bytes that nobody meant, and lies: each is refused for what it is, and none does harm.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod samples;

use bytes::Bytes;
use proptest::prelude::*;
use samples::{encoded, noise};
use straightway_wire::{
    CHUNK_BYTES, ChunkWriter, Frame, FrameParser, Hello, Limits, MessageHeader, MessageParser,
    MessageType, Notice, RpcRequest, RpcRequestView, RpcResponse, RpcResponseView, Segments,
    StreamPart, StreamRole, WireError, crc32c, encode_frame,
};

/// A header of these bytes with the right sum.
fn summed(mut header: Vec<u8>) -> Bytes {
    header[8..12].fill(0);
    let sum = crc32c(&header);
    header[8..12].copy_from_slice(&sum.to_le_bytes());
    header.into()
}

/// A header without id, with these flags and these bytes behind the fixed part.
fn header(kind: u8, flags: u8, fields: &[u8]) -> Bytes {
    let len = u8::try_from(16 + fields.len()).expect("short");
    let mut bytes = vec![0x53, len, kind, flags];
    bytes.resize(16, 0);
    bytes.extend_from_slice(fields);
    summed(bytes)
}

fn refused(bytes: Bytes) -> WireError {
    let mut parser = FrameParser::new(Limits::for_messages(1 << 20));
    parser.feed(bytes);
    parser.next_frame().expect_err("must be refused")
}

#[test]
fn every_lie_of_a_header_has_its_error() {
    use WireError as E;
    assert!(matches!(refused(Bytes::from_static(b"\x52")), E::BadMagic { found: 0x52 }));
    for len in [0, 1, 15] {
        let bytes = Bytes::copy_from_slice(&[0x53, len]);
        assert!(matches!(refused(bytes), E::HeaderLength { found } if found == usize::from(len)));
    }
    let sound = header(2, 0, &[]);
    let mut damaged = sound.to_vec();
    damaged[4] ^= 1;
    assert!(matches!(refused(damaged.into()), E::HeaderChecksum { .. }));
    assert!(matches!(refused(header(10, 0, &[])), E::UnknownType { found: 10 }));
    assert!(matches!(refused(header(2, 0x30, &[])), E::UnknownFlags { bits: 0x30 }));
    assert!(matches!(refused(header(2, 1, &[0; 15])), E::Truncated { needed: 32, .. }));
    assert!(matches!(refused(header(2, 0, &[9, 0])), E::UnknownTlv { tag: 9 }));
    assert!(matches!(refused(header(2, 0, &[8, 5, 0])), E::Tlv { tag: 8, .. }), "beyond");
    assert!(matches!(refused(header(2, 0, &[8])), E::Tlv { tag: 8, .. }), "without a length");
    assert!(matches!(refused(header(2, 0, &[4, 3, 0, 0, 0])), E::Tlv { tag: 4, .. }), "length");
    let deadline = [4, 4, 1, 0, 0, 0];
    assert!(matches!(refused(header(2, 0, &[deadline, deadline].concat())), E::Tlv { tag: 4, .. }));
    assert!(matches!(refused(header(2, 2, &[])), E::Tlv { tag: 1, .. }), "flag without field");
    assert!(matches!(refused(header(2, 0, &[1, 5, 1, 0, 0, 0, 0])), E::Tlv { tag: 1, .. }));
    assert!(matches!(refused(header(2, 2, &[1, 5, 3, 0, 0, 0, 0])), E::Tlv { tag: 1, .. }));
    // Parts of chunked messages that contradict their types.
    let place = [3, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let begin = [5, 5, 2, 0, 0, 0, 0];
    let end = [7, 1, 0];
    for (kind, flags, fields) in [
        (6, 4, place.to_vec()),
        (6, 4, begin.to_vec()),
        (6, 0, [&place[..], &begin].concat()),
        (6, 4, [&place[..], &end].concat()),
        (6, 4, [&place[..], &begin, &end].concat()),
        (6, 4, [&place[..], &[5, 5, 7, 0, 0, 0, 0]].concat()),
        (7, 4, vec![]),
        (7, 4, [&place[..], &begin].concat()),
        (8, 4, [&place[..], &[7, 1, 2]].concat()),
        (8, 4, place.to_vec()),
        (2, 4, place.to_vec()),
        (2, 4, [&place[..], &begin].concat()),
    ] {
        let error = refused(header(kind, flags, &fields));
        assert!(matches!(error, E::Tlv { .. }), "{kind} {fields:?}: {error}");
    }
}

#[test]
fn an_unknown_field_with_an_even_tag_is_skipped() {
    let mut parser = FrameParser::new(Limits::default());
    parser.feed(header(3, 8, &[100, 3, 1, 2, 3, 4, 4, 9, 0, 0, 0, 254, 0]));
    let frame = parser.next_frame().expect("sound").expect("whole");
    assert_eq!(frame.header.deadline_ms, Some(9));
    // The longest header that can be: 255 bytes.
    let mut fields = vec![100, 237];
    fields.resize(239, 7);
    parser.feed(header(3, 0, &fields));
    assert!(parser.next_frame().expect("sound").is_some());
}

#[test]
fn payloads_over_the_limit_are_refused_before_they_come() {
    let frame = Frame::new(MessageType::RaftMessage, None, noise((1 << 20) + 1));
    let (bytes, _) = encoded(&frame);
    let error = refused(bytes.slice(..16));
    assert!(matches!(error, WireError::TooLarge { limit: 0x10_0000, .. }), "{error}");
    let mut damaged = encoded(&Frame::new(MessageType::Request, None, noise(100))).0.to_vec();
    damaged[50] ^= 1;
    assert!(matches!(refused(damaged.into()), WireError::PayloadChecksum { .. }));
    let limits = Limits::for_messages(u32::MAX);
    assert_eq!(limits.max_message, 100 << 20, "whatever is asked for");
    assert!(ChunkWriter::new(frame.header, vec![noise(1 << 20); 101], 1).is_err());
}

fn part(kind: MessageType, id: u32, seq: u32, role: StreamRole, payload: Bytes) -> Bytes {
    let stream = Some(StreamPart { id, seq, role });
    let header = MessageHeader { stream, ..MessageHeader::new(kind) };
    samples::written(|out| encode_frame(out, &header, payload))
}

fn begin(id: u32, total: u32) -> Bytes {
    let role = StreamRole::Begin { msg_type: MessageType::RaftMessage, total };
    part(MessageType::StreamBegin, id, 0, role, Bytes::new())
}

fn chunk(id: u32, seq: u32, len: usize) -> Bytes {
    part(MessageType::StreamChunk, id, seq, StreamRole::Chunk, noise(len))
}

fn end(id: u32, seq: u32) -> Bytes {
    part(MessageType::StreamEnd, id, seq, StreamRole::End { aborted: false }, Bytes::new())
}

#[test]
fn chunks_that_do_not_fit_together_are_refused() {
    let limits = Limits { max_streams: 2, max_stream_bytes: 300_000, ..Limits::default() };
    let stray_begin = part(
        MessageType::StreamBegin,
        1,
        1,
        StreamRole::Begin { msg_type: MessageType::RaftMessage, total: 1 },
        Bytes::new(),
    );
    let with_payload = part(
        MessageType::StreamEnd,
        1,
        1,
        StreamRole::End { aborted: true },
        Bytes::from_static(b"x"),
    );
    for (what, frames) in [
        ("not begun", vec![chunk(1, 1, 10)]),
        ("not begun", vec![end(1, 1)]),
        ("begins in the middle", vec![stray_begin]),
        ("twice", vec![begin(1, 10), begin(1, 10)]),
        ("gap", vec![begin(1, 10), chunk(1, 2, 10)]),
        ("again", vec![begin(1, 10), chunk(1, 1, 5), chunk(1, 1, 5)]),
        ("longer", vec![begin(1, 10), chunk(1, 1, 11)]),
        ("shorter", vec![begin(1, 10), chunk(1, 1, 9), end(1, 2)]),
        ("empty chunk", vec![begin(1, 10), chunk(1, 1, 0)]),
        ("long chunk", vec![begin(1, 200_000), chunk(1, 1, CHUNK_BYTES + 1)]),
        ("too many", vec![begin(1, 1), begin(2, 1), begin(3, 1)]),
        ("too many bytes", vec![begin(1, 200_000), begin(2, 100_001)]),
        ("larger than messages", vec![begin(1, (16 << 20) + 1)]),
        ("payload at the end", vec![begin(1, 0), with_payload]),
        ("used up", vec![begin(1, 0), end(1, 1), end(1, 2)]),
    ] {
        let mut parser = MessageParser::new(limits);
        let mut outcome = Ok(None);
        for frame in &frames {
            parser.feed(frame.clone());
            while let Ok(Some(_)) = {
                outcome = parser.next_message();
                &outcome
            } {}
        }
        let error = outcome.expect_err(what);
        assert!(
            matches!(error, WireError::Stream { .. } | WireError::TooLarge { .. }),
            "{what}: {error}"
        );
        assert!(matches!(parser.next_message(), Err(WireError::Failed { .. })), "{what}");
    }
    // What has ended makes room for others, and its number is free again.
    let mut parser = MessageParser::new(limits);
    for _ in 0..10 {
        for frame in [begin(1, 300_000 - 65_000), chunk(1, 1, 10)] {
            parser.feed(frame);
        }
        parser.feed(part(
            MessageType::StreamEnd,
            1,
            2,
            StreamRole::End { aborted: true },
            Bytes::new(),
        ));
        assert!(parser.next_message().expect("sound").is_none());
        assert!(parser.is_idle());
    }
}

#[test]
fn what_is_fed_and_not_taken_is_bounded() {
    let limits = Limits { max_backlog: 1000, ..Limits::default() };
    let mut parser = FrameParser::new(limits);
    for _ in 0..1000 {
        parser.feed(Bytes::from_static(&[0x53; 100]));
    }
    assert!(matches!(parser.next_frame(), Err(WireError::Failed { .. })));
    assert_eq!(parser.backlog(), 0);
}

fn drain(parser: &mut MessageParser) -> Vec<Frame> {
    std::iter::from_fn(|| parser.next_message().ok().flatten()).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        genuine in prop::option::of(samples::any_frame(60)),
        piece in 1..50_usize,
    ) {
        let mut wire = genuine.map(|frame| encoded(&frame).0.to_vec()).unwrap_or_default();
        wire.extend_from_slice(&bytes);
        let mut whole = MessageParser::new(Limits::for_messages(200));
        whole.feed(wire.clone().into());
        let expected = drain(&mut whole);
        let mut parser = MessageParser::new(Limits::for_messages(200));
        let mut back = Vec::new();
        for piece in wire.chunks(piece) {
            parser.feed(Bytes::copy_from_slice(piece));
            back.extend(drain(&mut parser));
        }
        prop_assert_eq!(back, expected);
        prop_assert_eq!(parser.next_message().is_err(), whole.next_message().is_err());
    }

    #[test]
    fn any_payload_is_a_call_or_refused(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        if let Ok(view) = RpcRequestView::decode(bytes.clone()) {
            let mut out = Segments::default();
            let owned = RpcRequest::decode(&bytes).expect("sound");
            owned.encode(&mut out).expect("short names");
            prop_assert_eq!(samples::joined(&mut out), bytes.clone());
            prop_assert_eq!(view.payload().len(), owned.payload.len());
        }
        if let Ok(view) = RpcResponseView::decode(bytes.clone()) {
            let owned = RpcResponse::decode(&bytes).expect("sound");
            prop_assert_eq!(view.error(), owned.error.as_deref());
            prop_assert_eq!(view.success(), owned.success);
        }
        if let Ok(hello) = Hello::decode(&bytes) {
            prop_assert_eq!(Hello::decode(&hello.encode()).expect("sound"), hello);
        }
        drop(Notice::decode(&bytes));
    }

    #[test]
    fn calls_come_back(
        service in "\\PC{0,20}", method in "\\PC{0,20}", payload: Vec<u8>,
        success: bool, result: Option<Vec<u8>>, error in prop::option::of("\\PC{0,300}"),
    ) {
        let mut out = Segments::default();
        let request = RpcRequest { service, method, payload };
        request.encode(&mut out).expect("short names");
        prop_assert_eq!(RpcRequest::decode(&samples::joined(&mut out)).expect("sound"), request);
        let mut response = RpcResponse { success, payload: result, error };
        response.encode(&mut out);
        let back = RpcResponse::decode(&samples::joined(&mut out)).expect("sound");
        if let (Some(sent), Some(came)) = (&mut response.error, &back.error) {
            // Long texts are cut off, within a character never.
            prop_assert!(sent.starts_with(came) && (sent == came || came.len() > 1020));
            sent.clone_from(came);
        }
        prop_assert_eq!(back, response);
    }

    #[test]
    fn hellos_come_back_and_agree(
        minor: u16, features: u64, cluster: [u8; 16], raft_id: u64, storage: [u8; 16], boot: u64,
        max_message in 65_536..=u32::MAX, later in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let hello = Hello { minor, features, cluster, raft_id, storage, boot, max_message };
        let bytes = [&hello.encode()[..], &later].concat();
        prop_assert_eq!(Hello::decode(&bytes).expect("sound"), hello);
        let ours = Hello { features: 3, ..Hello::default() };
        let agreed = ours.agree(&hello);
        prop_assert_eq!(agreed, hello.agree(&ours));
        prop_assert_eq!(agreed.features, features & 3);
        prop_assert!(agreed.max_message <= 16 << 20);
    }
}

//! Any bytes as frames of the cluster, whole and in pieces: the same messages, or the same refusal.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use straightway_wire::{
    Decompressor, Frame, FrameParser, Hello, Limits, MAX_HEADER_SIZE, MessageHeader, MessageParser,
    Notice, RpcRequestView, RpcResponseView, Segments, crc32c, encode_frame,
};

fn limits() -> Limits {
    Limits { max_streams: 2, max_stream_bytes: 4096, ..Limits::for_messages(2048) }
}

/// What there is, and whether it ended with a refusal.
fn drain(parser: &mut MessageParser, into: &mut Vec<Frame>) -> bool {
    loop {
        match parser.next_message() {
            Ok(Some(message)) => into.push(message),
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Puts the right sums into what looks like headers, or a fuzzer would not come past them.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(&[0x53, len]) = bytes.get(at..at + 2) {
        let end = at + usize::from(len);
        if len < 16 || end > bytes.len() {
            return;
        }
        // Sums of payloads are left out, their lengths kept short.
        bytes[at + 3] &= !8;
        bytes[at + 5..at + 8].fill(0);
        bytes[at + 8..at + 16].fill(0);
        let sum = crc32c(&bytes[at..end]);
        bytes[at + 8..at + 12].copy_from_slice(&sum.to_le_bytes());
        at = end + usize::from(bytes[at + 4]);
    }
}

fn look(message: &Frame) {
    let Frame { header, payload } = message;
    assert_eq!(header.payload_len as usize, payload.len());
    if let Ok(call) = RpcRequestView::decode(payload.clone()) {
        assert_eq!(2 + call.service().len() + call.method().len() + call.payload().len(), payload.len());
    }
    if let Ok(answer) = RpcResponseView::decode(payload.clone()) {
        assert!(answer.payload().map_or(0, |result| result.len()) + 4 <= payload.len());
        assert!(answer.error().map_or(0, str::len) + 4 <= payload.len());
    }
    if let Ok(hello) = Hello::decode(payload) {
        assert_eq!(Hello::decode(&hello.encode()).expect("sound"), hello);
    }
    drop(Notice::decode(payload));
    if let Ok(plain) = Decompressor::new(u64::MAX).open(message.clone(), &limits()) {
        assert!(plain.payload.len() <= 2048);
    }
    // What was read can be written, and reads the same.
    let mut out = Segments::default();
    encode_frame(&mut out, header, payload.clone()).expect("it was within limits");
    let mut parser = FrameParser::new(limits());
    parser.feed(out.finish().concat().into());
    let back = parser.next_frame().expect("sound").expect("whole");
    let expected = MessageHeader { payload_crc: back.header.payload_crc, ..*header };
    assert_eq!((back.header, &back.payload), (expected, payload));
}

fuzz_target!(|bytes: &[u8]| {
    let [piece, rest @ ..] = bytes else { return };
    let mut wire = rest.to_vec();
    mend(&mut wire);
    let (mut whole, mut expected) = (MessageParser::new(limits()), Vec::new());
    whole.feed(wire.clone().into());
    let refused = drain(&mut whole, &mut expected);
    assert!(whole.gathered_bytes() as usize <= 8 * wire.len() + MAX_HEADER_SIZE);
    expected.iter().for_each(look);

    let (mut parser, mut back) = (MessageParser::new(limits()), Vec::new());
    let mut again = false;
    for piece in wire.chunks(usize::from(*piece).max(1)) {
        parser.feed(Bytes::copy_from_slice(piece));
        again |= drain(&mut parser, &mut back);
    }
    assert_eq!((back, again), (expected, refused));
});

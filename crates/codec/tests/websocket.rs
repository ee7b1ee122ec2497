//! Frames, case by case after RFC 6455 (the order of the Autobahn suite: framing, pings, reserved bits, opcodes,
//! fragments, UTF-8, limits, close), each in one piece and cut at every byte.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use proptest::prelude::*;
use straightway_buffer::{BufferPool, PoolConfig};
use straightway_codec::ws::{
    CloseCode, FrameReader, Incoming, Limits, Opcode, Role, close_payload, deflate, frame_head,
    mask,
};

const LIMITS: Limits = Limits { max_message: 70_000, max_fragments: 16 };
const KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// What came out, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Out {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    End(CloseCode),
}

fn owned(incoming: &Incoming<'_>) -> Out {
    match incoming {
        Incoming::Text(text) => Out::Text((*text).to_owned()),
        Incoming::Binary(bytes) => Out::Binary(bytes.to_vec()),
        Incoming::Ping(bytes) => Out::Ping(bytes.to_vec()),
        Incoming::Pong(bytes) => Out::Pong(bytes.to_vec()),
        Incoming::Close(why) => Out::Close(why.map(|(code, _)| code)),
    }
}

/// Reads pieces until the end or a violation.
fn read(role: Role, deflated: bool, pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Out> {
    let mut reader = FrameReader::new(role, LIMITS, deflated);
    let mut out = Vec::new();
    for mut piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            match reader.read(&mut piece[at..]) {
                Ok((taken, incoming)) => {
                    out.extend(incoming.as_ref().map(owned));
                    assert!(taken > 0 || incoming.is_some(), "progress");
                    at += taken;
                }
                Err(violation) => {
                    out.push(Out::End(violation.code));
                    return out;
                }
            }
        }
    }
    out
}

/// The same in one piece, byte by byte, and in two pieces cut anywhere.
fn both(bytes: &[u8], deflated: bool) -> Vec<Out> {
    let whole = read(Role::Server, deflated, [bytes.to_vec()]);
    assert_eq!(
        read(Role::Server, deflated, bytes.iter().map(|byte| vec![*byte])),
        whole,
        "byte by byte"
    );
    for cut in 1..bytes.len().min(40) {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(
            read(Role::Server, deflated, [front.to_vec(), back.to_vec()]),
            whole,
            "cut at {cut}"
        );
    }
    whole
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let (head, used) = frame_head(Opcode::Binary, payload.len());
    let mut bytes = head[head.len() - used..].to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&KEY);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask(&mut bytes[start..], KEY, 0);
    bytes
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

fn text(text: &str) -> Out {
    Out::Text(text.to_owned())
}

#[test]
fn framing_at_every_length_class() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = vec![b'*'; len];
        let expected = String::from_utf8(payload.clone()).expect("ASCII");
        assert_eq!(both(&frame(TEXT, &payload), false), [text(&expected)], "{len}");
        assert_eq!(both(&frame(BINARY, &payload), false), [Out::Binary(payload)], "{len}");
    }
}

#[test]
fn a_message_that_arrives_whole_is_handed_on_from_where_it_lies() {
    let mut bytes = frame(BINARY, &[7; 1000]);
    let range = bytes.as_ptr_range();
    let mut reader = FrameReader::new(Role::Server, LIMITS, false);
    let (taken, incoming) = reader.read(&mut bytes).expect("sound");
    let Some(Incoming::Binary(payload)) = incoming else { panic!("{incoming:?}") };
    assert!(range.contains(&payload.as_ptr()) && payload == [7; 1000]);
    assert_eq!(taken, 1008);
    assert!(!reader.is_under_way());
}

#[test]
fn pings_and_pongs_come_at_once_even_inside_messages() {
    let all = vec![0xfe; 125];
    assert_eq!(both(&frame(PING, b""), false), [Out::Ping(vec![])]);
    assert_eq!(both(&frame(PING, &all), false), [Out::Ping(all.clone())]);
    assert_eq!(both(&frame(PING, &[0; 126]), false), [Out::End(CloseCode::Protocol)]);
    assert_eq!(both(&frame(PONG, b"unsolicited"), false), [Out::Pong(b"unsolicited".to_vec())]);
    let bytes = [
        frame(0x01, b"frag"),
        frame(PING, b"p1"),
        frame(0x00, b"men"),
        frame(PING, b"p2"),
        frame(0x80, b"t"),
    ]
    .concat();
    let expected = [Out::Ping(b"p1".to_vec()), Out::Ping(b"p2".to_vec()), text("fragment")];
    assert_eq!(both(&bytes, false), expected);
}

#[test]
fn reserved_bits_and_opcodes_end_the_connection() {
    for first in [0xc1, 0xa1, 0x91, 0xf1, 0xc9, 0x83, 0x84, 0x87, 0x8b, 0x8f, 0xb2] {
        let bytes = [frame(TEXT, b"before"), frame(first, b"x")].concat();
        assert_eq!(
            both(&bytes, false),
            [text("before"), Out::End(CloseCode::Protocol)],
            "{first:#x}"
        );
    }
    // Pieces of control frames, and lengths that are not in their shortest form.
    assert_eq!(both(&frame(0x09, b"x"), false), [Out::End(CloseCode::Protocol)]);
    let long = [&[BINARY, 0xfe, 0, 5][..], &KEY, &[0; 5]].concat();
    assert_eq!(both(&long, false), [Out::End(CloseCode::Protocol)]);
    let longer = [&[BINARY, 0xff, 0, 0, 0, 0, 0, 0, 1, 0][..], &KEY].concat();
    assert_eq!(both(&longer, false), [Out::End(CloseCode::Protocol)]);
    let negative = [&[BINARY, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0][..], &KEY].concat();
    assert_eq!(both(&negative, false), [Out::End(CloseCode::Protocol)]);
}

#[test]
fn masks_are_required_of_clients_and_forbidden_to_servers() {
    assert_eq!(both(&[TEXT, 2, b'h', b'i'], false), [Out::End(CloseCode::Protocol)]);
    assert_eq!(read(Role::Client, false, [vec![TEXT, 2, b'h', b'i']]), [text("hi")]);
    assert_eq!(read(Role::Client, false, [frame(TEXT, b"hi")]), [Out::End(CloseCode::Protocol)]);
}

#[test]
fn fragments_make_one_message_and_must_be_in_order() {
    let three = [frame(0x01, b"a"), frame(0x00, b""), frame(0x80, b"b")].concat();
    assert_eq!(both(&three, false), [text("ab")]);
    for wrong in [
        frame(0x80, b"of nothing"),
        frame(0x00, b"of nothing"),
        [frame(0x01, b"a"), frame(TEXT, b"b")].concat(),
        [frame(0x01, b"a"), frame(0x02, b"b")].concat(),
    ] {
        assert_eq!(both(&wrong, false), [Out::End(CloseCode::Protocol)]);
    }
    let twice = [three.clone(), frame(0x80, b"x")].concat();
    assert_eq!(both(&twice, false), [text("ab"), Out::End(CloseCode::Protocol)]);
    let endless = (0..20).flat_map(|n| frame(u8::from(n == 0), b"x")).collect::<Vec<_>>();
    assert_eq!(both(&endless, false), [Out::End(CloseCode::Policy)], "without end");
}

#[test]
fn text_is_utf8_as_soon_as_it_can_be_known() {
    let greek = "Hello-µ@ßöäüàá-UTF-8!!";
    assert_eq!(both(&frame(TEXT, greek.as_bytes()), false), [text(greek)]);
    for cut in 0..greek.len() {
        let (front, back) = greek.as_bytes().split_at(cut);
        let bytes = [frame(0x01, front), frame(0x80, back)].concat();
        assert_eq!(both(&bytes, false), [text(greek)], "{cut}");
    }
    for bad in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited"[..],
        b"\xf8\x88\x80\x80\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        assert_eq!(
            both(&frame(TEXT, bad), false),
            [Out::End(CloseCode::InvalidPayload)],
            "{bad:x?}"
        );
        assert_eq!(both(&frame(BINARY, bad), false), [Out::Binary(bad.to_vec())]);
    }
    // In the first frame already, though the message goes on.
    let early = [frame(0x01, b"ok \xc0\xaf"), frame(0x00, b"never read")].concat();
    let (front, _) = early.split_at(frame(0x01, b"ok \xc0\xaf").len());
    assert_eq!(both(front, false), [Out::End(CloseCode::InvalidPayload)]);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_head() {
    let head = [&[BINARY, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x71][..], &KEY].concat();
    assert_eq!(
        both(&head, false),
        [Out::End(CloseCode::TooBig)],
        "70,001 bytes announced, none sent"
    );
    let pieces = [frame(0x02, &vec![1; 60_000]), frame(0x80, &vec![2; 10_001])].concat();
    assert_eq!(read(Role::Server, false, [pieces]), [Out::End(CloseCode::TooBig)]);
    let just = [frame(0x02, &vec![1; 60_000]), frame(0x80, &vec![2; 10_000])].concat();
    assert!(
        matches!(&read(Role::Server, false, [just])[..], [Out::Binary(all)] if all.len() == 70_000)
    );
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    assert_eq!(both(&frame(CLOSE, b""), false), [Out::Close(None)]);
    assert_eq!(both(&frame(CLOSE, &[3]), false), [Out::End(CloseCode::Protocol)]);
    for good in [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        assert_eq!(both(&frame(CLOSE, &good.to_be_bytes()), false), [Out::Close(Some(good))]);
    }
    for bad in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_eq!(
            both(&frame(CLOSE, &bad.to_be_bytes()), false),
            [Out::End(CloseCode::Protocol)],
            "{bad}"
        );
    }
    let reason = close_payload(CloseCode::Normal, &"ö".repeat(100));
    assert!(reason.len() <= 125);
    assert_eq!(both(&frame(CLOSE, &reason), false), [Out::Close(Some(1000))]);
    let bad_reason = [&1000_u16.to_be_bytes()[..], b"\xc0\xaf"].concat();
    assert_eq!(both(&frame(CLOSE, &bad_reason), false), [Out::End(CloseCode::InvalidPayload)]);
}

#[test]
fn compressed_messages_come_out_whole() {
    let plain = "compress me, ".repeat(200);
    let pool = BufferPool::new(PoolConfig::tiered()).expect("a pool");
    let mut packed = pool.acquire(plain.len() + 16).expect("a buffer");
    assert!(deflate(plain.as_bytes(), &mut packed));
    let rsv1 = 0x40;
    assert_eq!(both(&frame(TEXT | rsv1, &packed), true), [text(&plain)]);
    let (front, back) = packed.split_at(packed.len() / 2);
    let pieces = [frame(0x01 | rsv1, front), frame(PING, b"p"), frame(0x80, back)].concat();
    assert_eq!(both(&pieces, true), [Out::Ping(b"p".to_vec()), text(&plain)]);
    assert_eq!(both(&frame(TEXT, b"plain"), true), [text("plain")], "each message says for itself");
    let inside = [frame(0x01, b"a"), frame(0x80 | rsv1, b"b")].concat();
    assert_eq!(both(&inside, true), [Out::End(CloseCode::Protocol)]);
    assert_eq!(
        both(&frame(TEXT | rsv1, &packed), false),
        [Out::End(CloseCode::Protocol)],
        "not agreed on"
    );
    let mut bomb = pool.acquire(100_000).expect("a buffer");
    assert!(deflate(&vec![b'x'; 90_000], &mut bomb));
    assert_eq!(both(&frame(TEXT | rsv1, &bomb), true), [Out::End(CloseCode::TooBig)]);
}

/// The bytes in pieces of these lengths, and what is left.
fn in_pieces(mut rest: &[u8], cuts: Vec<usize>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (front, back) = rest.split_at(cut.min(rest.len()));
        pieces.push(front.to_vec());
        rest = back;
    }
    pieces.push(rest.to_vec());
    pieces
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(1..40usize, 0..20), deflated: bool) {
        let whole = read(Role::Server, deflated, [bytes.clone()]);
        prop_assert_eq!(read(Role::Server, deflated, in_pieces(&bytes, cuts)), whole);
    }

    /// Sound frames in any order, and one bit that is not: what comes out does not depend on where it was cut.
    #[test]
    fn frames_in_any_pieces_give_the_same(frames in proptest::collection::vec((prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, TEXT, BINARY, CLOSE, PING, PONG, 0xc1, 0x42]), "[a-zµ]{0,130}"), 1..8), flip: Option<prop::sample::Index>, cuts in proptest::collection::vec(1..200usize, 0..20), deflated: bool) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload.as_bytes())).collect();
        if let Some(flip) = flip {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let whole = read(Role::Server, deflated, [bytes.clone()]);
        prop_assert_eq!(read(Role::Server, deflated, bytes.iter().map(|byte| vec![*byte])), whole.clone());
        prop_assert_eq!(read(Role::Server, deflated, in_pieces(&bytes, cuts)), whole);
    }

    #[test]
    fn messages_survive_any_fragmentation(message in "\\PC{0,300}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let bytes = message.as_bytes();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        let mut wire = Vec::new();
        for (n, end) in ends.iter().enumerate() {
            let first = u8::from(n == 0) | if n + 1 == ends.len() { 0x80 } else { 0 };
            wire.extend(frame(first, &bytes[start..*end]));
            start = *end;
        }
        prop_assert_eq!(read(Role::Server, false, [wire]), [text(&message)]);
    }
}

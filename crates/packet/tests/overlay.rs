//! Overlay messages: the bytes of the table, in place and back, nested and flat alike, and the faults that such code is
//! known for.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use bytes::BytesMut;
use proptest::prelude::*;
use straightway_packet::overlay::{
    Control, Data, Heartbeat, HeartbeatReply, Message, PacketType, ReplyType, ToDownstream,
    ToUpstream,
};
use straightway_packet::{MacAddr, PacketError};

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    (any::<u128>(), any::<u32>(), any::<u32>(), mac())
        .prop_map(|(duration_ms, id, hops, source)| Heartbeat { duration_ms, id, hops, source })
}

fn control() -> impl Strategy<Value = Control> {
    prop_oneof![
        heartbeat().prop_map(Control::Heartbeat),
        (heartbeat(), mac()).prop_map(|(heartbeat, sender)| {
            Control::HeartbeatReply(HeartbeatReply { heartbeat, sender })
        })
    ]
}

fn with_message(
    from: MacAddr,
    to: MacAddr,
    control: Option<Control>,
    payload: &[u8],
    down: Option<MacAddr>,
    check: impl FnOnce(&Message<'_>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let data = down.map_or(Data::ToUpstream(ToUpstream { origin: from, payload }), |destination| {
        Data::ToDownstream(ToDownstream { origin: from, destination, payload })
    });
    check(&Message::new(from, to, control.map_or(PacketType::Data(data), PacketType::Control)))
}

proptest! {
    #[test]
    fn every_form_of_a_message_has_the_same_bytes_and_reads_back(
        from in mac(), to in mac(), control in proptest::option::of(control()),
        payload in proptest::collection::vec(any::<u8>(), 0..200), down in proptest::option::of(mac()),
    ) {
        with_message(from, to, control, &payload, down, |message| {
            let flat: Vec<u8> = message.into();
            prop_assert_eq!(flat.len(), message.wire_size());
            prop_assert_eq!(flat.capacity(), flat.len());
            let nested: Vec<Vec<u8>> = message.into();
            prop_assert_eq!(&nested.concat(), &flat);
            let mut buffer = BytesMut::from(&b"before"[..]);
            message.serialize_into(&mut buffer);
            prop_assert_eq!(&buffer[6..], &flat[..]);
            let mut room = [0xee; 300];
            prop_assert_eq!(message.write_to(&mut room).ok(), Some(flat.len()));
            prop_assert_eq!(&room[..flat.len()], &flat[..]);
            prop_assert!(room[flat.len()..].iter().all(|byte| *byte == 0xee));
            let short = flat.len() - 1;
            let refused = matches!(message.write_to(&mut room[..short]), Err(PacketError::TooLong { max, .. }) if max == short);
            prop_assert!(refused);
            prop_assert_eq!(&Message::parse(&flat).expect("reads back"), message);
            Ok(())
        })?;
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0..3u8, subtype in 0..3u8, marked: bool) {
        if marked && bytes.len() > 15 {
            bytes[12..16].copy_from_slice(&[0x30, 0x30, kind, subtype]);
        }
        if let Ok(message) = Message::parse(&bytes) {
            let again: Vec<u8> = (&message).into();
            prop_assert_eq!(&bytes[..again.len()], &again[..]);
        }
    }
}

fn sample() -> Heartbeat {
    Heartbeat { duration_ms: 1000, id: 42, hops: 3, source: MacAddr([4; 6]) }
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let message = |packet| Message::new(MacAddr([2; 6]), MacAddr([3; 6]), packet);
    let reply =
        message(PacketType::Control(Control::HeartbeatReply(sample().reply(MacAddr([5; 6])))));
    let bytes: Vec<u8> = (&reply).into();
    assert_eq!(bytes.len(), 52);
    assert_eq!(bytes[..16], [3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 0x30, 0x30, 0, 1]);
    assert_eq!(bytes[16..32], 1000u128.to_be_bytes());
    assert_eq!(bytes[32..40], [0, 0, 0, 42, 0, 0, 0, 3]);
    assert_eq!(bytes[40..], [4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5]);
    let heartbeat = message(PacketType::Control(Control::Heartbeat(sample())));
    assert_eq!(heartbeat.wire_size(), 46);
    let up = Data::ToUpstream(ToUpstream { origin: MacAddr([6; 6]), payload: b"abc" });
    assert_eq!(
        Vec::<u8>::from(&message(PacketType::Data(up)))[14..],
        *b"\x01\x00\x06\x06\x06\x06\x06\x06abc"
    );
    let (origin, destination) = (MacAddr([6; 6]), MacAddr([7; 6]));
    let down = Data::ToDownstream(ToDownstream { origin, destination, payload: b"" });
    let bytes: Vec<u8> = (&message(PacketType::Data(down))).into();
    assert_eq!(bytes.len(), 28);
    assert!(Message::parse(&bytes).is_ok(), "an empty payload is a payload");
}

#[test]
fn serialising_counts_no_hop_and_forwarding_does_until_it_cannot() {
    let heartbeat = sample();
    let message = Message::new(
        MacAddr([2; 6]),
        MacAddr::BROADCAST,
        PacketType::Control(Control::Heartbeat(heartbeat)),
    );
    let bytes: Vec<u8> = (&message).into();
    assert_eq!(Message::parse(&bytes).expect("reads"), message);
    assert_eq!(heartbeat.forwarded().expect("one more").hops, 4);
    let tired = Heartbeat { hops: u32::MAX, ..heartbeat };
    assert!(matches!(tired.forwarded(), Err(PacketError::BadField { field: "hops", .. })));
}

#[test]
fn what_is_wrong_is_named() {
    let good: Vec<u8> = (&Message::new(
        MacAddr([2; 6]),
        MacAddr([3; 6]),
        PacketType::Control(Control::HeartbeatReply(sample().reply(MacAddr([5; 6])))),
    ))
        .into();
    for len in 0..good.len() {
        assert!(
            matches!(Message::parse(&good[..len]), Err(PacketError::Truncated { .. })),
            "{len}"
        );
    }
    for (at, value, name) in
        [(12, 0, "marker"), (13, 0x31, "marker"), (14, 2, "type"), (15, 2, "subtype")]
    {
        let mut bad = good.clone();
        bad[at] = value;
        let refused = Message::parse(&bad);
        assert!(
            matches!(refused, Err(PacketError::BadField { field, .. }) if field == name),
            "{refused:?}"
        );
    }
}

#[test]
fn flat_answers_are_one_slice_and_nested_ones_several() {
    let message = Message::new(
        MacAddr([2; 6]),
        MacAddr([3; 6]),
        PacketType::Control(Control::Heartbeat(sample())),
    );
    let (flat, nested): (Vec<u8>, Vec<Vec<u8>>) = ((&message).into(), (&message).into());
    let joined = |reply: &ReplyType| {
        reply.with_slices(|slices| {
            (slices.len(), slices.iter().flat_map(|s| s.iter().copied()).collect::<Vec<u8>>())
        })
    };
    assert_eq!(joined(&ReplyType::WireFlat(flat.clone())), (1, flat.clone()));
    assert_eq!(joined(&ReplyType::TapShared(flat.clone().into())), (1, flat.clone()));
    assert_eq!(joined(&ReplyType::Wire(nested)), (8, flat.clone()));
    let many = ReplyType::Tap(flat.iter().map(|byte| vec![*byte]).collect());
    assert_eq!((joined(&many), many.len()), ((46, flat), 46));
}

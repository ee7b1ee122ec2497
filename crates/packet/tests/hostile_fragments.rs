//! Fragments that no honest sender makes: none gets past a rule, and none pushes out what is honest.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod pieces;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pieces::{START, add, fragment_header, fragments, packet, set, sockets, v6};
use straightway_packet::PacketError;
use straightway_packet::build::{TcpPacketBuilder, UdpPacketBuilder};
use straightway_packet::fragment::{Limits, Outcome, Reassembler, fragment_v4, fragment_v6};
use straightway_packet::view::{ExtensionHeader, Frame, Ipv6, Transport};

#[test]
fn a_first_fragment_holds_the_whole_header_chain_or_is_refused() {
    let (udp, options) = ([0; 8], [17, 0, 1, 4, 0, 0, 0, 0]);
    let tcp = |words: u8| [&[0; 12][..], &[words << 4], &[0; 60]].concat();
    let routing = [60, 0, 0, 0, 0, 0, 0, 0];
    for (next, pieces, good) in [
        (17, vec![&udp[..]], true),
        (58, vec![&udp], true),
        // TCP's header is longer than these sixteen bytes, and longer than forty if its options are.
        (6, vec![&tcp(5)[..16]], false),
        (6, vec![&tcp(5)[..24]], true),
        (6, vec![&tcp(15)[..40]], false),
        (6, vec![&tcp(15)[..64]], true),
        // The chain goes through extension headers, and ends beyond what is there.
        (60, vec![&options], false),
        (60, vec![&options, &udp], true),
        (43, vec![&routing, &options], false),
        (60, vec![&[17, 1, 1, 4, 0, 0, 0, 0]], false),
        // A fragment within a fragment.
        (44, vec![&fragment_header(17, 0, false), &udp], false),
        // Of what is not known nothing is known to be missing.
        (59, vec![&udp], true),
        (253, vec![&udp], true),
    ] {
        let body = pieces.concat();
        for more in [true, false] {
            let first = v6(44, &[&fragment_header(next, 0, more), &body]);
            let mut reassembler = Reassembler::default();
            let outcome = add(&mut reassembler, &first, START);
            match outcome {
                Ok(Outcome::Waiting) => assert!(good && more, "{next} {body:?}"),
                Ok(Outcome::Complete(_)) => assert!(good && !more, "{next} {body:?}"),
                Err(PacketError::BadField { field, .. }) => {
                    assert!(!good && (field == "header chain" || field == "next header"));
                    assert_eq!((reassembler.stats().refused, reassembler.len()), (1, 0));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // Those behind the first have no headers to hold.
    let behind = v6(44, &[&fragment_header(6, 16, false), &[1]]);
    assert_eq!(add(&mut Reassembler::default(), &behind, START).unwrap(), Outcome::Waiting);
}

#[test]
fn nothing_is_cut_within_its_header_chain() {
    let (from, to) = sockets(true, 1);
    let tcp = TcpPacketBuilder::new(from, to).unwrap().timestamps(1, 2).unwrap();
    let tcp = tcp.build(&[7; 200]).unwrap();
    let cut = |packet: &[u8], mtu| {
        let mut lens = Vec::new();
        let mut scratch = BytesMut::new();
        fragment_v6(packet, mtu, 1, &mut scratch, |piece| lens.push(piece.len())).map(|()| lens)
    };
    // 32 bytes of header: room for 24 is too little.
    let refused = cut(&tcp, 48 + 24);
    assert!(
        matches!(refused, Err(PacketError::BadField { field: "header chain", .. })),
        "{refused:?}"
    );
    assert_eq!(cut(&tcp, 48 + 32).unwrap()[0], 48 + 32);
}

#[test]
fn destination_options_before_a_routing_header_are_repeated_with_it() {
    // Options for the stops, the stops, options for the end, UDP.
    let headers =
        [[43, 0, 1, 4, 0, 0, 0, 0], [60, 0, 0, 0, 0, 0, 0, 0], [17, 0, 1, 4, 0, 0, 0, 0]].concat();
    let udp = [&[0, 1, 0, 2, 3, 240, 0, 0][..], &[9; 1000]].concat();
    let whole = v6(60, &[&headers, &udp]);
    let pieces = fragments(&whole, 600, 5);
    assert_eq!(pieces.len(), 2);
    for piece in &pieces {
        let ip = Ipv6::parse(piece).unwrap();
        let mut headers = ip.extensions().map(Result::unwrap);
        assert!(matches!(headers.next(), Some(ExtensionHeader::DestinationOptions(_))));
        assert!(matches!(headers.next(), Some(ExtensionHeader::Routing(..))));
        assert!(matches!(headers.next(), Some(ExtensionHeader::Fragment(_))));
    }
    let mut reassembler = Reassembler::default();
    assert_eq!(add(&mut reassembler, &pieces[1], START).unwrap(), Outcome::Waiting);
    let outcome = add(&mut reassembler, &pieces[0], START).unwrap();
    assert_eq!(outcome, Outcome::Complete(Bytes::from(whole)));
}

#[test]
fn fragments_that_would_be_longer_than_any_packet_together_are_discarded() {
    let (from, to) = sockets(false, 1);
    let builder = || UdpPacketBuilder::new(from, to).unwrap().dont_fragment(false);
    // Only the first one has the options, so that the last one by itself ends within the longest packet.
    let long = builder().ip_options(&[1; 40]).unwrap();
    let mut first = long.build(&[1; 1000]).unwrap()[..60 + 800].to_vec();
    set(&mut first, 2, 860);
    set(&mut first, 6, 0x2000);
    let mut last = builder().build(&[1; 1000]).unwrap()[..20 + 715].to_vec();
    set(&mut last, 2, 735);
    set(&mut last, 6, 64_800 / 8);
    let extension = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let v6_first = v6(0, &[&extension, &fragment_header(17, 0, true), &[1; 800]]);
    let v6_last = v6(44, &[&fragment_header(17, 64_800, false), &[1; 735]]);
    for (first, last) in [(first, last), (v6_first, v6_last)] {
        for order in [[&first, &last], [&last, &first]] {
            let mut reassembler = Reassembler::default();
            assert_eq!(add(&mut reassembler, order[0], START).unwrap(), Outcome::Waiting);
            assert_eq!(add(&mut reassembler, order[1], START).unwrap(), Outcome::Discarded);
            assert_eq!((reassembler.stats().oversized, reassembler.bytes_held()), (1, 0));
        }
    }
}

#[test]
fn damaged_headers_are_not_made_to_look_sound() {
    let whole = packet(false, 1, 9, &[1; 3000]);
    let mut piece = fragments(&whole, 1020, 0).swap_remove(1);
    piece[7] ^= 1;
    let mut reassembler = Reassembler::default();
    let refused = add(&mut reassembler, &piece, START);
    assert!(matches!(refused, Err(PacketError::Checksum { layer: "ipv4", .. })), "{refused:?}");
    assert_eq!((reassembler.stats().refused, reassembler.len()), (1, 0));
    let mut damaged = whole;
    damaged[8] ^= 1;
    let refused = fragment_v4(&damaged, 1020, &mut BytesMut::new(), |_| panic!("nothing is sent"));
    assert!(matches!(refused, Err(PacketError::Checksum { .. })), "{refused:?}");
}

#[test]
fn a_fragment_whose_end_cannot_be_is_not_cut_further() {
    // Its pieces' offsets would begin again at 0, and overlap what another fragment holds.
    let mut piece = packet(false, 1, 9, &[1; 1400]);
    set(&mut piece, 6, 0x1fff);
    let refused = fragment_v4(&piece, 576, &mut BytesMut::new(), |_| panic!("nothing is sent"));
    assert!(matches!(refused, Err(PacketError::BadField { field: "end", .. })), "{refused:?}");
    // Nor does a packet of headers alone vanish.
    let (from, to) = sockets(false, 1);
    let builder = UdpPacketBuilder::new(from, to).unwrap().dont_fragment(false);
    let mut bare = builder.ip_options(&[1; 40]).unwrap().build(b"").unwrap()[..60].to_vec();
    set(&mut bare, 2, 60);
    let refused = fragment_v4(&bare, 50, &mut BytesMut::new(), |_| panic!("nothing is sent"));
    assert!(matches!(refused, Err(PacketError::TooLong { len: 60, max: 50, .. })), "{refused:?}");
}

#[test]
fn many_small_ones_do_not_push_out_the_few() {
    let mut reassembler = Reassembler::default();
    for host in 1000..1256 {
        let tiny = fragments(&packet(false, host, 1, &[6; 100]), 28, 0).swap_remove(0);
        assert_eq!(add(&mut reassembler, &tiny, START).unwrap(), Outcome::Waiting);
    }
    let later = START + Duration::from_secs(1);
    let honest: Vec<_> =
        (1..20).map(|host| fragments(&packet(false, host, 1, &[7; 2000]), 1500, 0)).collect();
    for pieces in &honest {
        assert_eq!(add(&mut reassembler, &pieces[0], later).unwrap(), Outcome::Waiting);
    }
    for pieces in &honest {
        let outcome = add(&mut reassembler, &pieces[1], later).unwrap();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
}

#[test]
fn each_version_waits_as_long_as_it_may_whatever_else_waits() {
    let (v4, v6) = (packet(false, 1, 9, &[1; 2000]), packet(true, 1, 9, &[1; 2000]));
    let (v4, v6) = (fragments(&v4, 1500, 0), fragments(&v6, 1500, 9));
    let mut reassembler = Reassembler::default();
    let mut now = START;
    // The second datagram of IPv4 is due before the first of IPv6, which was there before it.
    for (pause, expired, left) in [(0, 0, 2), (30, 0, 2), (1, 1, 2), (29, 1, 2), (1, 2, 2)] {
        now += Duration::from_secs(pause);
        for piece in [&v6[0], &v4[0]] {
            let outcome = add(&mut reassembler, piece, now).unwrap();
            assert!(matches!(outcome, Outcome::Waiting | Outcome::Duplicate), "{outcome:?}");
        }
        assert_eq!((reassembler.stats().expired, reassembler.len()), (expired, left), "{now:?}");
    }
    reassembler.expire(now + Duration::from_mins(2));
    assert_eq!((reassembler.stats().expired, reassembler.bytes_held()), (4, 0));
}

#[test]
fn a_datagram_that_grows_does_not_push_out_others() {
    let limits = Limits { bytes: 20_000, ..Limits::default() };
    let mut reassembler = Reassembler::new(limits);
    let honest = fragments(&packet(false, 7, 1, &[7; 3000]), 1500, 0);
    add(&mut reassembler, &honest[0], START).unwrap();
    let greedy = fragments(&packet(false, 66, 1, &vec![6; 60_000]), 1500, 0);
    for piece in &greedy {
        add(&mut reassembler, piece, START + Duration::from_millis(1)).unwrap();
        assert!(reassembler.bytes_held() <= 20_000);
    }
    let rest = honest[1..].iter().map(|piece| add(&mut reassembler, piece, START).unwrap());
    assert!(matches!(rest.last(), Some(Outcome::Complete(_))));
}

#[test]
fn an_atomic_fragment_header_does_not_make_a_part_look_whole() {
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    for (first, second) in
        [((0, true), (0, false)), ((0, false), (0, true)), ((8, true), (0, false))]
    {
        let piece = v6(
            44,
            &[
                &fragment_header(44, first.0, first.1),
                &fragment_header(17, second.0, second.1),
                &udp,
            ],
        );
        let frame = [&[2; 12][..], &[0x86, 0xdd], &piece].concat();
        let transport = Frame::parse(&frame).unwrap().transport;
        assert!(matches!(transport, Transport::Fragment(_)), "{transport:?}");
    }
}

//! Fragments: cut and put together in any order, and everything that a sender could do to harm.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod pieces;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pieces::{START, add, fragments, packet, set, sockets};
use proptest::prelude::*;
use straightway_packet::PacketError;
use straightway_packet::build::UdpPacketBuilder;
use straightway_packet::fragment::{Limits, Outcome, Reassembler, fragment_v4, fragment_v6};
use straightway_packet::view::{Frame, Ipv4, Ipv6, Udp};

proptest! {
    #[test]
    fn what_was_cut_comes_together_in_any_order_and_twice(
        v6: bool, payload in proptest::collection::vec(any::<u8>(), 1..5000), mtu in 68..1500usize, order: u64, twice: bool,
    ) {
        let mtu = if v6 { mtu.max(128) } else { mtu };
        let whole = packet(v6, 1, 9, &payload);
        let mut pieces = fragments(&whole, mtu, 9);
        prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu));
        for piece in &pieces {
            // Each is a packet that others can read too.
            if v6 { prop_assert!(Ipv6::parse(piece).is_ok()); } else { Ipv4::parse(piece).unwrap().verify_checksum().unwrap(); }
        }
        let mut random = order | 1;
        for at in (1..pieces.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, usize::try_from(random >> 33).unwrap() % (at + 1));
        }
        let mut reassembler = Reassembler::new(Limits { fragments: 200, ..Limits::default() });
        for (n, piece) in pieces.iter().enumerate() {
            let outcome = add(&mut reassembler, piece, START).unwrap();
            if pieces.len() == 1 {
                prop_assert_eq!(outcome, Outcome::Whole);
            } else if n + 1 < pieces.len() {
                prop_assert_eq!(outcome, Outcome::Waiting);
                if twice {
                    prop_assert_eq!(add(&mut reassembler, piece, START).unwrap(), Outcome::Duplicate);
                }
            } else {
                prop_assert_eq!(outcome, Outcome::Complete(Bytes::from(whole.clone())));
            }
        }
        prop_assert_eq!((reassembler.bytes_held(), reassembler.len()), (0, 0));
    }

    #[test]
    fn no_stream_of_fragments_exceeds_the_bounds(
        fragments in proptest::collection::vec((0..6u16, 0..4u16, 0..40u16, 1..200usize, any::<bool>(), 0..20u64), 1..200),
    ) {
        let limits = Limits { bytes: 1000, datagrams: 8, datagrams_per_source: 3, fragments: 5, age_v4: Duration::from_secs(30), age_v6: Duration::from_mins(1) };
        let mut reassembler = Reassembler::new(limits);
        let mut now = START;
        for (host, id, offset, units, more, pause) in fragments {
            now += Duration::from_secs(pause);
            let mut bytes = packet(false, host, id, &vec![0xaa; units * 8]);
            set(&mut bytes, 6, offset | if more { 0x2000 } else { 0 });
            reassembler.add_v4(&bytes, None, now).ok();
            prop_assert!(reassembler.bytes_held() <= 1000);
            prop_assert!(reassembler.len() <= 8);
        }
        now += Duration::from_secs(31);
        reassembler.expire(now);
        prop_assert_eq!((reassembler.bytes_held(), reassembler.len()), (0, 0));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool, next in 0..3usize, mtu in 0..200usize) {
        if bytes.len() > 40 {
            bytes[0] = if v6 { 0x60 } else { 0x45 };
            let len = u16::try_from(bytes.len()).unwrap();
            if v6 {
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                bytes[6] = [0, 44, 60][next];
            } else {
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
        }
        let mut reassembler = Reassembler::default();
        drop(reassembler.add_v4(&bytes, None, START));
        drop(reassembler.add_v6(&bytes, None, START));
        let mut cut = 0;
        drop(fragment_v4(&bytes, mtu, &mut BytesMut::new(), |piece| cut += piece.len()));
        drop(fragment_v6(&bytes, mtu, 1, &mut BytesMut::new(), |piece| cut += piece.len()));
    }
}

#[test]
fn what_overlaps_is_discarded_with_all_that_still_comes() {
    let whole = packet(false, 1, 9, &[1; 3000]);
    let pieces = fragments(&whole, 1020, 0);
    assert_eq!(pieces.len(), 4);
    // From one byte back to one beyond, and one that says where the end is although there is more.
    let mut shifted = pieces[1].clone();
    set(&mut shifted, 6, 0x2000 + 124);
    let mut early_end = pieces[1].clone();
    set(&mut early_end, 6, 125);
    let mut other_bytes = pieces[1].clone();
    other_bytes[100] ^= 1;
    for bad in [shifted, early_end, other_bytes] {
        let mut reassembler = Reassembler::default();
        for piece in &pieces[..3] {
            assert_eq!(add(&mut reassembler, piece, START).unwrap(), Outcome::Waiting);
        }
        assert_eq!(add(&mut reassembler, &bad, START).unwrap(), Outcome::Discarded);
        assert_eq!(
            add(&mut reassembler, &pieces[3], START).unwrap(),
            Outcome::Discarded,
            "too late"
        );
        assert_eq!((reassembler.stats().overlapped, reassembler.bytes_held()), (1, 0));
        // After its time another datagram of that number may come.
        let later = START + Duration::from_secs(31);
        let outcomes = pieces.iter().map(|piece| add(&mut reassembler, piece, later).unwrap());
        assert_eq!(outcomes.last(), Some(Outcome::Complete(Bytes::from(whole.clone()))));
    }
}

#[test]
fn fragments_that_no_packet_has_are_refused_by_name() {
    let whole = packet(false, 1, 9, &[1; 3000]);
    let pieces = fragments(&whole, 1020, 0);
    let mut reassembler = Reassembler::default();
    let mut odd = pieces[0].clone();
    odd.truncate(1019);
    set(&mut odd, 2, 1019);
    let mut beyond = pieces[3].clone();
    set(&mut beyond, 6, 0x1fff);
    let mut empty = pieces[1][..20].to_vec();
    set(&mut empty, 2, 20);
    for (bad, field_name) in [(odd, "length"), (beyond, "end"), (empty, "length")] {
        let refused = reassembler.add_v4(&bad, None, START);
        assert!(
            matches!(refused, Err(PacketError::BadField { field, .. }) if field == field_name),
            "{refused:?}"
        );
    }
    assert_eq!((reassembler.stats().refused, reassembler.len()), (3, 0));
}

#[test]
fn one_greedy_source_does_not_push_out_the_others() {
    let limits = Limits { bytes: 100_000, datagrams: 64, ..Limits::default() };
    let mut reassembler = Reassembler::new(limits);
    let honest = packet(false, 7, 1, &[7; 3000]);
    let honest = fragments(&honest, 1500, 0);
    assert_eq!(add(&mut reassembler, &honest[0], START).unwrap(), Outcome::Waiting);
    for id in 0..1000 {
        let flood = fragments(&packet(false, 66, id, &vec![6; 20_000]), 9000, 0);
        add(&mut reassembler, &flood[0], START + Duration::from_millis(1)).unwrap();
        assert!(reassembler.bytes_held() <= 100_000);
    }
    let rest: Vec<_> =
        honest[1..].iter().map(|piece| add(&mut reassembler, piece, START).unwrap()).collect();
    assert!(matches!(rest.last(), Some(Outcome::Complete(_))), "{rest:?}");
    assert!(reassembler.stats().evicted >= 900);
}

#[test]
fn an_atomic_fragment_is_whole_whatever_else_came() {
    let whole = packet(true, 1, 0, &[3; 1000]);
    let pieces = fragments(&whole, 600, 5);
    let mut reassembler = Reassembler::default();
    assert_eq!(add(&mut reassembler, &pieces[0], START).unwrap(), Outcome::Waiting);
    let mut atomic = whole[..40].to_vec();
    atomic[6] = 44;
    atomic[4..6].copy_from_slice(&u16::try_from(whole.len() - 40 + 8).unwrap().to_be_bytes());
    atomic.extend([17, 0, 0, 0, 0, 0, 0, 5]);
    atomic.extend_from_slice(&whole[40..]);
    assert_eq!(
        add(&mut reassembler, &atomic, START).unwrap(),
        Outcome::Complete(Bytes::from(whole.clone()))
    );
    let rest: Vec<_> =
        pieces[1..].iter().map(|piece| add(&mut reassembler, piece, START).unwrap()).collect();
    assert_eq!(rest.last(), Some(&Outcome::Complete(Bytes::from(whole))));
}

#[test]
fn vlans_are_kept_apart_and_time_runs_out() {
    let pieces = fragments(&packet(false, 1, 9, &[1; 2000]), 1500, 0);
    let mut reassembler = Reassembler::default();
    assert_eq!(reassembler.add_v4(&pieces[0], Some(10), START).unwrap(), Outcome::Waiting);
    assert_eq!(reassembler.add_v4(&pieces[1], Some(11), START).unwrap(), Outcome::Waiting);
    assert_eq!(reassembler.len(), 2);
    let late = START + Duration::from_secs(31);
    assert_eq!(
        reassembler.add_v4(&pieces[1], Some(10), late).unwrap(),
        Outcome::Waiting,
        "the first half is gone"
    );
    assert_eq!((reassembler.stats().expired, reassembler.len()), (2, 1));
}

#[test]
fn what_may_not_or_cannot_be_cut_is_an_error() {
    let (from, to) = sockets(false, 1);
    let stubborn = UdpPacketBuilder::new(from, to).unwrap().build(&[0; 2000]).unwrap();
    let refused = fragment_v4(&stubborn, 1500, &mut BytesMut::new(), |_| panic!("nothing is sent"));
    assert!(matches!(refused, Err(PacketError::TooLong { max: 1500, .. })), "{refused:?}");
    let soft = packet(false, 1, 1, &[0; 100]);
    assert!(fragment_v4(&soft, 27, &mut BytesMut::new(), |_| ()).is_err());
    assert!(
        fragment_v6(&packet(true, 1, 1, &[0; 100]), 55, 1, &mut BytesMut::new(), |_| ()).is_err()
    );
    let piece = fragments(&packet(true, 1, 1, &[0; 3000]), 1500, 1).swap_remove(0);
    assert!(
        fragment_v6(&piece, 600, 1, &mut BytesMut::new(), |_| ()).is_err(),
        "a fragment is not cut again"
    );
}

#[test]
fn ipv4_options_are_repeated_only_if_they_say_so() {
    let (from, to) = sockets(false, 1);
    // Loose source route (copied), then record route (not copied).
    let options = [0x83, 7, 4, 1, 2, 3, 4, 7, 7, 4, 0, 0, 0, 0];
    let builder =
        UdpPacketBuilder::new(from, to).unwrap().dont_fragment(false).ip_options(&options).unwrap();
    let pieces = fragments(&builder.build(&[5; 3000]).unwrap(), 1500, 0);
    let kinds = |piece: &[u8]| {
        Ipv4::parse(piece).unwrap().options().map(|o| o.unwrap().kind).collect::<Vec<_>>()
    };
    assert_eq!(
        pieces.iter().map(|piece| kinds(piece)).collect::<Vec<_>>(),
        [vec![0x83, 7], vec![0x83], vec![0x83]]
    );
    // What comes together is the packet with its own header, and its UDP checksum is right.
    let mut reassembler = Reassembler::default();
    let outcomes: Vec<_> =
        pieces.iter().map(|piece| add(&mut reassembler, piece, START).unwrap()).collect();
    let Some(Outcome::Complete(whole)) = outcomes.last() else { panic!("{outcomes:?}") };
    let ip = Ipv4::parse(whole).unwrap();
    Udp::parse(ip.payload()).unwrap().verify_checksum(&ip.addresses()).unwrap();
    let framed = [&[2; 12][..], &[8, 0], whole].concat();
    Frame::parse(&framed).unwrap().verify_checksums().unwrap();
}

//! Any stream of fragments and any clock: nothing panics, the bounds hold, and what was taken apart comes together again.
#![no_main]
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use straightway_packet::checksum;
use straightway_packet::fragment::{Limits, Outcome, Reassembler, fragment_v4, fragment_v6};
use straightway_packet::view::{Ipv4, Ipv6};

/// Gives an IPv4 header the right checksum: nothing that the fuzzer makes up would come past it otherwise.
fn sum_again(packet: &mut [u8]) {
    let Some(first) = packet.first().copied().filter(|first| first >> 4 == 4) else { return };
    let Some(header) = packet.get_mut(..usize::from(first & 0x0f) * 4) else { return };
    if header.len() < Ipv4::HEADER_BYTES {
        return;
    }
    header[10..12].fill(0);
    let sum = checksum(header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
}

/// Takes a packet apart; a whole one is put together again.
fn there_and_back(packet: &[u8]) {
    // The reserved flag is nobody's: it does not come back.
    let comes_back = |ip: &Ipv4<'_>| !ip.is_fragment() && ip.header()[6] & 0x80 == 0;
    let whole = Ipv4::parse(packet).ok().filter(comes_back);
    let (mut reassembler, mut scratch) = (Reassembler::default(), BytesMut::new());
    let mut outcomes = Vec::new();
    let split = fragment_v4(packet, 68, &mut scratch, |piece| {
        assert!(piece.len() <= 68);
        outcomes.push(reassembler.add_v4(piece, None, Duration::ZERO));
    });
    if let (Ok(_), Some(ip)) = (split, whole) {
        match outcomes.pop() {
            Some(Ok(Outcome::Complete(joined))) => assert_eq!(joined, packet[..ip.total_len()]),
            Some(Ok(Outcome::Whole)) => assert!(outcomes.is_empty()),
            other => panic!("the last of {} pieces gave {other:?}", outcomes.len() + 1),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        bytes: 4096,
        datagrams: 8,
        datagrams_per_source: 3,
        fragments: 8,
        ..Limits::default()
    };
    let mut reassembler = Reassembler::new(limits);
    let mut now = Duration::ZERO;
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    // Length, pause, packet; and so on.
    while let [len, pause, behind @ ..] = rest {
        let len = behind.len().min(usize::from(*len));
        now += Duration::from_secs(u64::from(*pause));
        let (packet, next) = behind.split_at_mut(len);
        rest = next;
        sum_again(packet);
        let packet = &*packet;
        for outcome in
            [reassembler.add_v4(packet, None, now), reassembler.add_v6(packet, Some(1), now)]
        {
            if let Ok(Outcome::Complete(whole)) = outcome {
                assert!(Ipv4::parse(&whole).is_ok() || Ipv6::parse(&whole).is_ok());
            }
        }
        assert!(reassembler.bytes_held() <= 4096 && reassembler.len() <= 8);
        let mut scratch = BytesMut::new();
        there_and_back(packet);
        let _ = fragment_v6(packet, 128, 7, &mut scratch, |piece| assert!(piece.len() <= 128));
    }
});

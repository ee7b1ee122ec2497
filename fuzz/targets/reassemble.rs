//! Any stream of fragments and any clock: nothing panics, and the bounds hold.
#![no_main]
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use straightway_packet::fragment::{Limits, Outcome, Reassembler, fragment_v4, fragment_v6};
use straightway_packet::view::{Ipv4, Ipv6};

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
    let mut rest = bytes;
    // Length, pause, packet; and so on.
    while let [len, pause, behind @ ..] = rest {
        let (packet, next) = behind.split_at(behind.len().min(usize::from(*len)));
        rest = next;
        now += Duration::from_secs(u64::from(*pause));
        for outcome in
            [reassembler.add_v4(packet, None, now), reassembler.add_v6(packet, Some(1), now)]
        {
            if let Ok(Outcome::Complete(whole)) = outcome {
                assert!(Ipv4::parse(&whole).is_ok() || Ipv6::parse(&whole).is_ok());
            }
        }
        assert!(reassembler.bytes_held() <= 4096 && reassembler.len() <= 8);
        let mut scratch = BytesMut::new();
        let _ = fragment_v4(packet, 68, &mut scratch, |piece| assert!(piece.len() <= 68));
        let _ = fragment_v6(packet, 128, 7, &mut scratch, |piece| assert!(piece.len() <= 128));
    }
});

//! Building into a buffer and parsing allocate nothing; building afresh allocates once.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
mod counting;

use bytes::BytesMut;
use counting::allocations;
use straightway_buffer::packet::take_buffer;
use straightway_packet::MacAddr;
use straightway_packet::build::{TcpPacketBuilder, UdpPacketBuilder};
use straightway_packet::view::{Frame, Transport};

#[test]
fn packets_are_built_and_parsed_without_allocating() {
    let (a, b) = (MacAddr([2; 6]), MacAddr([4; 6]));
    let sockets = ("10.0.0.1:1".parse().expect("one"), "10.0.0.2:2".parse().expect("two"));
    let udp = UdpPacketBuilder::new(sockets.0, sockets.1).expect("a builder").ethernet(a, b);
    let tcp = TcpPacketBuilder::new(sockets.0, sockets.1).expect("a builder").ethernet(a, b);
    let bytes = vec![7; 60_000];
    for payload in [&[][..], &bytes[..1400], &bytes] {
        assert_eq!(allocations(|| drop(udp.build(payload).expect("builds"))), 1);
        assert_eq!(allocations(|| drop(tcp.build(payload).expect("builds"))), 1);
        let mut buffer = BytesMut::with_capacity(70_000);
        let count = allocations(|| {
            buffer.clear();
            udp.build_into(payload, &mut buffer).expect("builds");
            let frame = Frame::parse(&buffer).expect("reads");
            frame.verify_checksums().expect("right");
            assert!(matches!(frame.transport, Transport::Udp(udp) if udp.payload() == payload));
            buffer.clear();
            tcp.build_into(payload, &mut buffer).expect("builds");
            let tcp = Frame::parse(&buffer).expect("reads").transport;
            assert!(matches!(tcp, Transport::Tcp(tcp) if tcp.options().count() == 0));
        });
        assert_eq!(count, 0, "{} bytes", payload.len());
    }
    let pooled = || drop(udp.build_into(&[7; 1400], &mut take_buffer(1500)));
    pooled();
    assert_eq!(allocations(pooled), 0);
}

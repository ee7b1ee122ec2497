//! Views and builders: what is built reads back, agrees with another hand's bytes, and what is damaged is refused.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use proptest::prelude::*;
use straightway_packet::build::{IcmpPacketBuilder, TcpPacketBuilder, UdpPacketBuilder};
use straightway_packet::view::{
    EtherType, Ethernet, ExtensionHeader, Frame, Icmp, IcmpVersion, Ipv4, Ipv6, Network, Tcp,
    TcpFlags, TcpOption, Transport, Udp, VlanTag,
};
use straightway_packet::{MacAddr, PacketError};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn sockets(v6: bool, from: u16, to: u16) -> (SocketAddr, SocketAddr) {
    let [a, b]: [IpAddr; 2] = if v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] }
        .map(|address| address.parse().unwrap());
    ((a, from).into(), (b, to).into())
}

fn vlan(kind: EtherType, id: u16, priority: u8) -> VlanTag {
    VlanTag { kind, priority, drop_eligible: false, id }
}

/// Packets of a pcap file.
fn recorded() -> Vec<Vec<u8>> {
    let file = include_bytes!("data/scapy.pcap");
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        packets.push(behind[..len].to_vec());
        rest = &behind[len..];
    }
    packets
}

/// The packet of the record that a builder makes from the fields that the views read.
fn rebuilt(frame: &Frame<'_>) -> Option<Vec<u8>> {
    let ethernet = &frame.ethernet;
    let (from, to): (IpAddr, IpAddr) = match frame.network {
        Network::Ipv4(ip) => (ip.source().into(), ip.destination().into()),
        Network::Ipv6(ip) => (ip.source().into(), ip.destination().into()),
        _ => return None,
    };
    macro_rules! finish {
        ($builder:expr, $payload:expr) => {{
            let mut builder = $builder.unwrap().ethernet(ethernet.source(), ethernet.destination());
            for tag in ethernet.tags() {
                builder = builder.vlan(tag);
            }
            builder = match frame.network {
                Network::Ipv4(ip) => builder
                    .ttl(ip.ttl())
                    .traffic_class(ip.dscp() << 2 | ip.ecn())
                    .identification(ip.identification())
                    .dont_fragment(ip.dont_fragment())
                    .ip_options(&ip.header()[20..])
                    .unwrap(),
                Network::Ipv6(ip) => builder
                    .ttl(ip.hop_limit())
                    .traffic_class(ip.traffic_class())
                    .flow_label(ip.flow_label()),
                _ => return None,
            };
            Some(builder.build($payload).unwrap())
        }};
    }
    match frame.transport {
        Transport::Udp(udp) => {
            let (from, to) = ((from, udp.source_port()), (to, udp.destination_port()));
            finish!(UdpPacketBuilder::new(from.into(), to.into()), udp.payload())
        }
        Transport::Icmp(icmp) => {
            finish!(IcmpPacketBuilder::new(from, to, icmp.echo()?), icmp.payload())
        }
        Transport::Tcp(tcp) => {
            let (from, to) = ((from, tcp.source_port()), (to, tcp.destination_port()));
            let mut builder = TcpPacketBuilder::new(from.into(), to.into())
                .unwrap()
                .sequence(tcp.sequence())
                .flags(tcp.flags())
                .window(tcp.window());
            if tcp.flags().contains(TcpFlags::ACK) {
                builder = builder.acknowledge(tcp.acknowledgement());
            }
            for option in tcp.options() {
                builder = match option.unwrap() {
                    TcpOption::MaximumSegmentSize(bytes) => builder.maximum_segment_size(bytes),
                    TcpOption::WindowScale(shift) => builder.window_scale(shift),
                    TcpOption::SackPermitted => builder.sack_permitted(),
                    TcpOption::Timestamps(value, echo) => builder.timestamps(value, echo),
                    other => panic!("not in the record: {other:?}"),
                }
                .unwrap();
            }
            finish!(Ok::<_, PacketError>(builder), tcp.payload())
        }
        _ => None,
    }
}

#[test]
fn packets_by_another_hand_are_read_and_built_again_byte_by_byte() {
    let packets = recorded();
    assert_eq!(packets.len(), 47);
    let mut built = 0;
    for bytes in &packets {
        let frame = Frame::parse(bytes).expect("reads");
        frame.verify_checksums().expect("its checksums are right");
        if matches!(frame.network, Network::Ipv6(ip) if ip.extensions().next().is_some()) {
            continue;
        }
        if let Some(again) = rebuilt(&frame) {
            assert!(again == *bytes, "{frame:?}\n{again:02x?}\n{bytes:02x?}");
            built += 1;
        }
    }
    assert_eq!(built, 44);
    // What only the views know.
    let [.., arp, routed, extended, piece] = &packets[..] else { panic!("they are there") };
    let Network::Arp(arp) = Frame::parse(arp).unwrap().network else { panic!("it is ARP") };
    assert_eq!(
        (arp.operation(), arp.sender().0, arp.target().1.to_string()),
        (1, A, "10.0.0.2".into())
    );
    let Network::Ipv4(ip) = Frame::parse(routed).unwrap().network else { panic!("it is IPv4") };
    assert_eq!(ip.options().next().unwrap().unwrap().kind, 7);
    let frame = Frame::parse(extended).unwrap();
    let (Network::Ipv6(ip), Transport::Udp(udp)) = (frame.network, frame.transport) else {
        panic!("{frame:?}")
    };
    assert_eq!((ip.extensions().count(), udp.payload()), (2, &b"extended"[..]));
    let frame = Frame::parse(piece).unwrap();
    let (Network::Ipv6(ip), Transport::Fragment(bytes)) = (frame.network, frame.transport) else {
        panic!("{frame:?}")
    };
    assert_eq!(bytes, b"a piece!");
    let Some(Ok(ExtensionHeader::Fragment(fragment))) = ip.extensions().next() else {
        panic!("{ip:?}")
    };
    assert_eq!((fragment.offset, fragment.more, fragment.identification), (24, true, 99));
}

proptest! {
    #[test]
    fn every_flipped_bit_of_header_or_payload_is_noticed_or_not_summed(
        v6: bool, tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..64), bit in 0..2000usize,
    ) {
        let (from, to) = sockets(v6, 1, 2);
        let mut bytes = if tcp {
            TcpPacketBuilder::new(from, to).unwrap().ethernet(A, B).build(&payload).unwrap()
        } else {
            UdpPacketBuilder::new(from, to).unwrap().ethernet(A, B).build(&payload).unwrap()
        };
        prop_assert!(Frame::parse(&bytes).unwrap().verify_checksums().is_ok());
        let bit = bit % ((bytes.len() - 14) * 8) + 14 * 8;
        bytes[bit / 8] ^= 1 << (bit % 8);
        // IPv6 has no sum over its own fields; addresses and length count with the transport's.
        let unsummed = v6 && ((14 * 8..18 * 8).contains(&bit) || bit / 8 == 14 + 7);
        let noticed = Frame::parse(&bytes).map_or(true, |frame| {
            frame.verify_checksums().is_err() || matches!(frame.transport, Transport::Other(..) | Transport::Fragment(_))
        });
        // A UDP checksum that became zero says that there is none (IPv4).
        let none = matches!(Frame::parse(&bytes).map(|f| f.transport), Ok(Transport::Udp(udp)) if udp.checksum() == 0);
        prop_assert!(noticed || unsummed || none, "bit {bit}");
    }

    #[test]
    fn what_is_built_reads_back(
        v6: bool, ports: (u16, u16), sequence: u32, acknowledgement: u32, flags: u8, window: u16, urgent: u16,
        scale in proptest::option::of(0..15u8), mss in proptest::option::of(any::<u16>()), stamps in proptest::option::of(any::<(u32, u32)>()),
        tags in proptest::collection::vec((0..4096u16, 0..8u8), 0..3), ttl: u8, class: u8, label in 0..1u32 << 20, id: u16,
        options in proptest::collection::vec(any::<u8>(), 0..40), payload in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let (from, to) = sockets(v6, ports.0, ports.1);
        let mut tcp = TcpPacketBuilder::new(from, to).unwrap()
            .ethernet(A, B).ttl(ttl).traffic_class(class).flow_label(label).identification(id)
            .ip_options(&options).unwrap()
            .sequence(sequence).acknowledge(acknowledgement).flags(TcpFlags(flags)).window(window).urgent(urgent);
        for (id, priority) in &tags {
            tcp = tcp.vlan(vlan(EtherType::VLAN, *id, *priority));
        }
        let mut expected = Vec::new();
        if let Some(bytes) = mss {
            tcp = tcp.maximum_segment_size(bytes).unwrap();
            expected.push(TcpOption::MaximumSegmentSize(bytes));
        }
        if let Some(shift) = scale {
            tcp = tcp.window_scale(shift).unwrap();
            expected.push(TcpOption::WindowScale(shift));
        }
        if let Some((value, echo)) = stamps {
            tcp = tcp.timestamps(value, echo).unwrap();
            expected.push(TcpOption::Timestamps(value, echo));
        }
        let bytes = tcp.build(&payload).unwrap();
        prop_assert_eq!(bytes.len(), tcp.size(payload.len()));
        let mut buffer = BytesMut::from(&b"before"[..]);
        prop_assert_eq!(tcp.build_into(&payload, &mut buffer).unwrap(), bytes.len());
        prop_assert_eq!(&buffer[6..], &bytes[..]);
        let mut room = [0; 2000];
        prop_assert_eq!(tcp.write_to(&payload, &mut room).unwrap(), bytes.len());
        prop_assert_eq!(&room[..bytes.len()], &bytes[..]);
        prop_assert!(tcp.write_to(&payload, &mut room[..bytes.len() - 1]).is_err());

        let frame = Frame::parse(&bytes).unwrap();
        frame.verify_checksums().unwrap();
        prop_assert_eq!((frame.ethernet.source(), frame.ethernet.destination()), (A, B));
        prop_assert_eq!(frame.ethernet.tags().map(|tag| (tag.id, tag.priority)).collect::<Vec<_>>(), tags);
        match frame.network {
            Network::Ipv4(ip) => {
                prop_assert_eq!((ip.ttl(), ip.dscp() << 2 | ip.ecn(), ip.identification()), (ttl, class, id));
                prop_assert_eq!(&ip.header()[20..20 + options.len()], &options[..]);
                prop_assert!(ip.options().count() <= 40);
            }
            Network::Ipv6(ip) => prop_assert_eq!((ip.hop_limit(), ip.traffic_class(), ip.flow_label()), (ttl, class, label)),
            other => prop_assert!(false, "{other:?}"),
        }
        let Transport::Tcp(read) = frame.transport else { return Err(TestCaseError::fail("not TCP")) };
        prop_assert_eq!((read.source_port(), read.destination_port()), ports);
        prop_assert_eq!((read.sequence(), read.acknowledgement(), read.window(), read.urgent()), (sequence, acknowledgement, window, urgent));
        prop_assert_eq!(read.flags(), TcpFlags(flags) | TcpFlags::ACK | TcpFlags::URG);
        prop_assert_eq!(read.options().collect::<Result<Vec<_>, _>>().unwrap(), expected);
        prop_assert_eq!(read.payload(), &payload[..]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..6usize) {
        if bytes.len() > 14 {
            let types: [u16; 6] = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x3030];
            bytes[12..14].copy_from_slice(&types[kind].to_be_bytes());
        }
        read_everything(&bytes);
    }

    #[test]
    fn damaged_packets_never_panic(packet in 0..47usize, damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6), cut: usize) {
        let mut bytes = recorded().swap_remove(packet);
        let len = bytes.len();
        for (at, value) in damage {
            // Mostly the headers.
            bytes[at % len.min(90)] = value;
        }
        bytes.truncate(cut % (len * 2));
        read_everything(&bytes);
    }
}

/// Every field of every layer that can be reached.
fn read_everything(bytes: &[u8]) {
    // A frame is refused without a word first; what is wrong is then found in one of its layers.
    let wordless = |error| matches!(error, PacketError::Truncated { layer: "frame", .. });
    assert!(!Frame::parse(bytes).is_err_and(wordless));
    if let Ok(frame) = Frame::parse(bytes) {
        drop(format!("{frame:?}"));
        drop(frame.verify_checksums());
        match frame.network {
            Network::Ipv4(ip) => drop(ip.options().collect::<Vec<_>>()),
            Network::Ipv6(ip) => drop(ip.extensions().collect::<Vec<_>>()),
            _ => {}
        }
        match frame.transport {
            Transport::Tcp(tcp) => drop(tcp.options().collect::<Vec<_>>()),
            Transport::Udp(udp) => assert!(udp.payload().len() < bytes.len()),
            Transport::Icmp(icmp) => drop((icmp.echo(), icmp.payload(), icmp.rest_of_header())),
            _ => {}
        }
    }
    // Each layer by itself, as if it had come without the ones around it.
    let layers = [
        Ethernet::parse(bytes).is_ok(),
        Ipv4::parse(bytes).is_ok(),
        Ipv6::parse(bytes).is_ok(),
        Tcp::parse(bytes).is_ok(),
        Udp::parse(bytes).is_ok(),
        Icmp::parse(IcmpVersion::V6, bytes).is_ok(),
    ];
    std::hint::black_box(layers);
}

#[test]
fn every_truncation_is_an_error() {
    for packet in recorded() {
        let whole = Frame::parse(&packet).expect("reads");
        let carried = matches!(whole.network, Network::Other(_));
        assert!(!carried);
        for len in 0..packet.len() {
            // The IP length tells that something is missing; ARP has a fixed one.
            let cut = Frame::parse(&packet[..len]);
            if matches!(whole.network, Network::Arp(_)) && len >= 42 {
                continue;
            }
            assert!(
                matches!(cut, Err(PacketError::Truncated { .. })),
                "{len} of {}: {cut:?}",
                packet.len()
            );
        }
    }
}

#[test]
fn lying_fields_are_named() {
    let (from, to) = sockets(false, 1, 2);
    let udp = UdpPacketBuilder::new(from, to).unwrap().build(b"0123456789").unwrap();
    let tcp = TcpPacketBuilder::new(from, to).unwrap().build(b"0123456789").unwrap();
    let with = |packet: &[u8], at: usize, value: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + value.len()].copy_from_slice(value);
        packet
    };
    let field = |result: Result<(), PacketError>| match result {
        Err(PacketError::BadField { field, .. }) => field,
        Err(PacketError::Truncated { layer, .. }) => layer,
        other => panic!("{other:?}"),
    };
    let ip = |bytes: Vec<u8>| field(Ipv4::parse(&bytes).map(drop));
    assert_eq!(ip(with(&udp, 0, &[0x65])), "version");
    assert_eq!(ip(with(&udp, 0, &[0x44])), "header length");
    assert_eq!(ip(with(&udp, 0, &[0x4f])), "total length");
    assert_eq!(ip(with(&udp, 2, &[0, 19])), "total length");
    assert_eq!(ip(with(&udp, 2, &[0xff, 0xff])), "ipv4");
    let transport = |bytes: Vec<u8>| {
        let ip = Ipv4::parse(&bytes).unwrap();
        match ip.protocol() {
            6 => field(Tcp::parse(ip.payload()).map(drop)),
            _ => field(Udp::parse(ip.payload()).map(drop)),
        }
    };
    assert_eq!(transport(with(&udp, 24, &[0, 7])), "length");
    assert_eq!(transport(with(&udp, 24, &[0xff, 0])), "udp");
    assert_eq!(transport(with(&tcp, 32, &[0x40])), "data offset");
    assert_eq!(transport(with(&tcp, 32, &[0xf0])), "tcp");
    let options = |option: &[u8]| {
        let packet =
            TcpPacketBuilder::new(from, to).unwrap().option(option).unwrap().build(b"").unwrap();
        Tcp::parse(Ipv4::parse(&packet).unwrap().payload())
            .unwrap()
            .options()
            .map(|o| o.map(|_| ()))
            .collect::<Vec<_>>()
    };
    for lie in [[8, 0, 0, 0], [8, 1, 0, 0], [8, 5, 0, 0], [1, 1, 1, 8]] {
        let read = options(&lie);
        assert!(read.len() == 1 && read[0].is_err(), "{lie:?}: {read:?}");
    }
    assert!(options(&[1, 1, 0, 9]).is_empty(), "nothing counts behind the end");
}

#[test]
fn padding_of_the_link_is_not_payload() {
    let (from, to) = sockets(false, 1, 2);
    let mut bytes = UdpPacketBuilder::new(from, to).unwrap().ethernet(A, B).build(b"x").unwrap();
    bytes.resize(60, 0xaa);
    let Transport::Udp(udp) = Frame::parse(&bytes).unwrap().transport else { panic!("it is UDP") };
    assert_eq!(udp.payload(), b"x");
    Frame::parse(&bytes).unwrap().verify_checksums().expect("the padding is not summed");
}

#[test]
fn what_cannot_be_built_is_refused() {
    let ((v4, _), (v6, _)) = (sockets(false, 1, 2), sockets(true, 1, 2));
    assert!(matches!(UdpPacketBuilder::new(v4, v6), Err(PacketError::BadField { .. })));
    let too_long = vec![0; 65_535 - 27];
    let builder = UdpPacketBuilder::new(v4, v4).unwrap();
    assert!(builder.build(&too_long[1..]).is_ok(), "a packet of 65535 bytes is one");
    let mut buffer = BytesMut::new();
    assert!(matches!(
        builder.build_into(&too_long, &mut buffer),
        Err(PacketError::TooLong { max: 65_535, .. })
    ));
    assert!(buffer.is_empty());
    let mut tcp = TcpPacketBuilder::new(v4, v4).unwrap();
    for _ in 0..3 {
        tcp = tcp.timestamps(1, 2).unwrap();
    }
    assert!(matches!(tcp.timestamps(1, 2), Err(PacketError::TooLong { max: 40, .. })));
    assert!(matches!(builder.ip_options(&[1; 41]), Err(PacketError::TooLong { max: 40, .. })));
}

#[test]
fn link_addresses_are_read_as_they_are_written() {
    for (text, address) in
        [("02:00:00:00:00:01", Some(A)), ("FF:ff:ff:ff:ff:ff", Some(MacAddr::BROADCAST))]
    {
        assert_eq!(text.parse().ok(), address);
    }
    for text in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "2:0:0:0:0:1",
        "02-00-00-00-00-01",
        "+2:00:00:00:00:01",
        "gg:00:00:00:00:01",
    ] {
        assert!(text.parse::<MacAddr>().is_err(), "{text}");
    }
    assert!(MacAddr::BROADCAST.is_multicast() && !A.is_multicast());
}

//! Any bytes as a frame: nothing panics, and where etherparse and smoltcp can read a UDP or TCP packet too, all agree.
#![no_main]
use libfuzzer_sys::fuzz_target;
use straightway_packet::view::{Frame, Network, Transport};

/// Ports, and the payload's place and length.
type Seen = (u16, u16, Option<usize>);

fn ours(bytes: &[u8]) -> Option<Seen> {
    let frame = Frame::parse(bytes).ok()?;
    let _ = frame.verify_checksums();
    match frame.network {
        Network::Ipv4(ip) => drop(ip.options().collect::<Vec<_>>()),
        Network::Ipv6(ip) => drop(ip.extensions().collect::<Vec<_>>()),
        Network::Arp(_) | Network::Other(_) => {}
    }
    match frame.transport {
        Transport::Udp(udp) => {
            Some((udp.source_port(), udp.destination_port(), Some(udp.payload().len())))
        }
        Transport::Tcp(tcp) => {
            drop(tcp.options().collect::<Vec<_>>());
            Some((tcp.source_port(), tcp.destination_port(), Some(tcp.payload().len())))
        }
        _ => None,
    }
}

fn etherparses(bytes: &[u8]) -> Option<Seen> {
    let packet = etherparse::SlicedPacket::from_ethernet(bytes).ok()?;
    match packet.transport? {
        etherparse::TransportSlice::Udp(udp) => {
            Some((udp.source_port(), udp.destination_port(), Some(udp.payload().len())))
        }
        etherparse::TransportSlice::Tcp(tcp) => {
            Some((tcp.source_port(), tcp.destination_port(), Some(tcp.payload().len())))
        }
        _ => None,
    }
}

/// IPv4 without VLAN only: what it reads.
fn smoltcps(bytes: &[u8]) -> Option<Seen> {
    use smoltcp::wire::{
        EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
    };
    let ethernet = EthernetFrame::new_checked(bytes).ok()?;
    (ethernet.ethertype() == EthernetProtocol::Ipv4).then_some(())?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    (ip.version() == 4 && !ip.more_frags() && ip.frag_offset() == 0).then_some(())?;
    match ip.next_header() {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(ip.payload()).ok()?;
            Some((udp.src_port(), udp.dst_port(), Some(udp.payload().len())))
        }
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
            Some((tcp.src_port(), tcp.dst_port(), Some(tcp.payload().len())))
        }
        _ => None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let seen = ours(bytes);
    for theirs in [etherparses(bytes), smoltcps(bytes)].into_iter().flatten() {
        if let Some(seen) = seen {
            assert_eq!(seen, theirs);
        }
    }
});

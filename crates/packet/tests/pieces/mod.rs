//! Packets and fragments of them, sound and otherwise.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytes::BytesMut;
use straightway_packet::build::UdpPacketBuilder;
use straightway_packet::fragment::{Outcome, Reassembler, fragment_v4, fragment_v6};
use straightway_packet::{PacketError, checksum};

pub const START: Duration = Duration::from_secs(100);

pub fn sockets(v6: bool, host: u16) -> (SocketAddr, SocketAddr) {
    let [high, low] = host.to_be_bytes();
    if v6 {
        let from = format!("[fd00::{host:x}]:1");
        (from.parse().unwrap(), "[fd00::ffff]:2".parse().unwrap())
    } else {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 1, high, low), 1);
        (from.into(), "10.0.0.2:2".parse().unwrap())
    }
}

pub fn packet(v6: bool, host: u16, id: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = sockets(v6, host);
    let builder = UdpPacketBuilder::new(from, to).unwrap().dont_fragment(false).identification(id);
    builder.build(payload).unwrap()
}

pub fn fragments(packet: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let keep = |fragment: &[u8]| all.push(fragment.to_vec());
    if packet[0] >> 4 == 6 {
        fragment_v6(packet, mtu, id, &mut BytesMut::new(), keep).unwrap();
    } else {
        fragment_v4(packet, mtu, &mut BytesMut::new(), keep).unwrap();
    }
    all
}

/// Writes a two-byte field of an IPv4 header, and the checksum that is right for it.
pub fn set(packet: &mut [u8], at: usize, value: u16) {
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let header_len = usize::from(packet[0] & 15) * 4;
    let sum = checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 packet, or a fragment of one, of these headers and bytes behind the fixed header.
pub fn v6(next: u8, behind: &[&[u8]]) -> Vec<u8> {
    let behind = behind.concat();
    let mut packet = packet(true, 1, 0, b"")[..40].to_vec();
    packet[4..6].copy_from_slice(&u16::try_from(behind.len()).unwrap().to_be_bytes());
    packet[6] = next;
    packet.extend(behind);
    packet
}

pub fn add(
    reassembler: &mut Reassembler,
    fragment: &[u8],
    now: Duration,
) -> Result<Outcome, PacketError> {
    if fragment[0] >> 4 == 6 {
        reassembler.add_v6(fragment, None, now)
    } else {
        reassembler.add_v4(fragment, None, now)
    }
}

/// A fragment header: what follows, offset in bytes, whether there is more, identification 5.
pub fn fragment_header(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [next, 0, high, low, 0, 0, 0, 5]
}

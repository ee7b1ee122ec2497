//! Serialising, building, parsing and summing packets, beside the nested form, etherparse, smoltcp and pnet. Equal bytes
//! and equal fields are asserted before anything is timed; contestants take turns, 21 rounds, medians.
use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use etherparse::{PacketBuilder, PacketHeaders, SlicedPacket};
use pnet_packet::Packet;
use straightway_buffer::packet::take_buffer;
use straightway_buffer::{BufferPool, PoolConfig, StackBuffer};
use straightway_packet::build::UdpPacketBuilder;
use straightway_packet::overlay::{Control, Heartbeat, Message, PacketType};
use straightway_packet::view::{Ethernet, Frame, Ipv4, Network, Transport, Udp};
use straightway_packet::{MacAddr, PacketError, checksum};

const ROUNDS: usize = 21;

/// Frames that are parsed, or messages that are written, in a turn: as a batch holds them, and many enough that the call of a turn is not what is measured.
const BATCH: u32 = 64;

type Arm<'a> = (&'a str, Box<dyn FnMut() + 'a>);

/// Median nanoseconds of each arm.
fn compare(title: &str, arms: Vec<Arm<'_>>) {
    compare_batches(title, 1, arms);
}

/// Median nanoseconds of each arm for one of the `batch` things that it does in a turn.
fn compare_batches(title: &str, batch: u32, mut arms: Vec<Arm<'_>>) {
    let times = 200_000 / batch;
    let mut seen = vec![Vec::new(); arms.len()];
    for round in 0..ROUNDS {
        for n in 0..arms.len() {
            let n = if round % 2 == 0 { n } else { arms.len() - 1 - n };
            let act = &mut arms[n].1;
            (0..times / 10).for_each(|_| act());
            let started = Instant::now();
            (0..times).for_each(|_| act());
            seen[n].push(started.elapsed().as_nanos() as f64 / f64::from(times * batch));
        }
    }
    println!("\n### {title}\n\n| contestant | ns | against the first |\n|---|---|---|");
    let medians: Vec<f64> = seen
        .into_iter()
        .map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    for ((name, _), median) in arms.iter().zip(&medians) {
        println!("| {name} | {median:.1} | {:.2} |", median / medians[0]);
    }
}

/// What is done with each message of a batch.
macro_rules! each {
    ($messages:expr, |$message:ident| $act:expr) => {
        Box::new(|| {
            for $message in black_box($messages) {
                $act
            }
        })
    };
}

fn heartbeat() {
    let source = MacAddr([4; 6]);
    let message = |id| {
        let beat = Heartbeat { duration_ms: 1000, id, hops: 0, source };
        Message::new(MacAddr([2; 6]), MacAddr([3; 6]), PacketType::Control(Control::Heartbeat(beat)))
    };
    let messages: Vec<Message<'_>> = (0..BATCH).map(message).collect();
    let messages = &messages[..];
    let written: Vec<Vec<u8>> = messages.iter().map(Vec::from).collect();
    let nested = |message: &Message<'_>| Vec::<Vec<u8>>::from(message);
    assert!(messages.iter().zip(&written).all(|(one, bytes)| nested(one).concat() == *bytes), "the same bytes");
    let pool = BufferPool::new(PoolConfig::packets()).expect("a pool");
    let mut caller = BytesMut::with_capacity(64);
    let arms: Vec<Arm<'_>> = vec![
        ("nested: a vector of vectors", each!(messages, |message| {
            black_box(&nested(message)[..]);
        })),
        ("nested, then flattened", each!(messages, |message| {
            black_box(&nested(message).concat()[..]);
        })),
        ("flat: one Vec", each!(messages, |message| {
            black_box(&Vec::<u8>::from(message)[..]);
        })),
        ("into the caller's BytesMut", each!(messages, |message| {
            caller.clear();
            message.serialize_into(&mut caller);
            black_box(&caller[..]);
        })),
        ("into a pooled buffer, taken and given back", each!(messages, |message| {
            let mut buffer = pool.acquire(46).expect("a buffer");
            let len = message.write_to(buffer.as_mut_capacity()).expect("fits");
            buffer.set_len(len).expect("fits");
            black_box(&buffer[..]);
        })),
        ("into a thread-local packet buffer, taken and given back", each!(messages, |message| {
            let mut buffer = take_buffer(46);
            message.serialize_into(&mut buffer);
            black_box(&buffer[..]);
        })),
        ("on the stack", each!(messages, |message| {
            let mut stack = StackBuffer::<64>::new();
            let _ = stack.fill_with::<PacketError>(|room| message.write_to(room));
            black_box(&stack[..]);
        })),
        ("parsed in place", each!(&written, |bytes| {
            black_box(Message::parse(bytes).expect("reads"));
        })),
    ];
    compare_batches(&format!("a heartbeat of 46 bytes, each of {BATCH} in a batch"), BATCH, arms);
}

fn frames(payload: usize) {
    let payload = vec![7u8; payload];
    let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = UdpPacketBuilder::new("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap())
        .unwrap()
        .ethernet(MacAddr(a), MacAddr(b));
    let frame = builder.build(&payload).unwrap();
    let theirs = |out: &mut Vec<u8>| {
        PacketBuilder::ethernet2(a, b).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1000, 53).write(out, &payload).unwrap();
    };
    let mut reused = Vec::with_capacity(2000);
    theirs(&mut reused);
    assert_eq!(frame[..16], reused[..16], "the same frame");
    assert_eq!(frame[22..24], reused[22..24], "the same frame");
    assert_eq!(frame[26..], reused[26..], "the same frame");
    let (mut ours, mut smol, mut pnet) = (BytesMut::with_capacity(2000), vec![0; frame.len()], vec![0; frame.len()]);
    emit_smoltcp(&mut smol, &payload);
    assert_eq!(frame[26..], smol[26..], "the same frame");
    emit_pnet(&mut pnet, &payload);
    assert_eq!(frame[26..], pnet[26..], "the same frame");
    compare(&format!("building UDP over IPv4 over Ethernet, {} bytes of payload, checksums made", payload.len()), vec![
        ("straightway build_into", Box::new(|| {
            ours.clear();
            builder.build_into(black_box(&payload), &mut ours).unwrap();
            black_box(&ours);
        })),
        ("smoltcp emit", Box::new(|| {
            emit_smoltcp(&mut smol, black_box(&payload));
            black_box(&smol);
        })),
        ("pnet setters", Box::new(|| {
            emit_pnet(&mut pnet, black_box(&payload));
            black_box(&pnet);
        })),
        ("etherparse, reused Vec", Box::new(|| {
            reused.clear();
            theirs(&mut reused);
            black_box(&reused);
        })),
    ]);
    parse(&vec![frame.to_vec(); BATCH as usize], (1000, 53, payload.len()));
    compare(&format!("the Internet checksum of {} bytes", payload.len()), vec![
        ("straightway", Box::new(|| { black_box(checksum(black_box(&payload))); })),
        ("pnet", Box::new(|| { black_box(pnet_packet::util::checksum(black_box(&payload), 0)); })),
    ]);
}

/// What is read of a frame: ports and length of the payload.
type Read = (u16, u16, usize);

/// A turn: each frame of a batch, in a loop into which the compiler puts the parser.
macro_rules! turn {
    ($frames:ident, $expected:ident, $parse:ident) => {{
        assert!($frames.iter().all(|frame| $parse(frame) == $expected));
        Box::new(|| {
            for frame in black_box($frames) {
                let (from, to, len) = $parse(frame);
                // One by one: together they would go through memory, which takes longer than parsing.
                (black_box(from), black_box(to), black_box(len));
            }
        })
    }};
}

/// Smoltcp and pnet have no reader of whole frames. They are told that it is UDP over IPv4, as are our views one by one;
/// our `Frame` and etherparse find it out, and so does smoltcp in a row of its own.
fn parse(frames: &[Vec<u8>], expected: Read) {
    let contestants: Vec<Arm<'_>> = vec![
        ("straightway Frame::parse", turn!(frames, expected, parse_ours)),
        ("smoltcp, types looked at", turn!(frames, expected, parse_smoltcp_typed)),
        ("etherparse SlicedPacket", turn!(frames, expected, parse_etherparse)),
        ("etherparse PacketHeaders", Box::new(|| {
            for frame in black_box(frames) {
                black_box(PacketHeaders::from_ethernet_slice(frame).unwrap());
            }
        })),
        ("told what it is: straightway Ethernet, Ipv4, Udp", turn!(frames, expected, parse_views)),
        ("told what it is: smoltcp", turn!(frames, expected, parse_smoltcp)),
        ("told what it is: pnet", turn!(frames, expected, parse_pnet)),
    ];
    let title = format!("parsing such a frame to ports and payload, {} bytes, each of {BATCH} in a batch", expected.2);
    compare_batches(&title, BATCH, contestants);
}

#[inline(always)]
fn parse_ours(frame: &[u8]) -> Read {
    let frame = Frame::parse(frame).unwrap();
    let (Network::Ipv4(_), Transport::Udp(udp)) = (frame.network, frame.transport) else { unreachable!() };
    (udp.source_port(), udp.destination_port(), udp.payload().len())
}

#[inline(always)]
fn parse_views(frame: &[u8]) -> Read {
    let ethernet = Ethernet::parse(frame).unwrap();
    let ip = Ipv4::parse(ethernet.payload()).unwrap();
    let udp = Udp::parse(ip.payload()).unwrap();
    (udp.source_port(), udp.destination_port(), udp.payload().len())
}

#[inline(always)]
fn parse_smoltcp(frame: &[u8]) -> Read {
    use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    (udp.src_port(), udp.dst_port(), udp.payload().len())
}

#[inline(always)]
fn parse_smoltcp_typed(frame: &[u8]) -> Read {
    use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket};
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let EthernetProtocol::Ipv4 = ethernet.ethertype() else { unreachable!() };
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    if ip.version() != 4 || ip.more_frags() || ip.frag_offset() != 0 {
        unreachable!()
    }
    let IpProtocol::Udp = ip.next_header() else { unreachable!() };
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    (udp.src_port(), udp.dst_port(), udp.payload().len())
}

#[inline(always)]
fn parse_pnet(frame: &[u8]) -> Read {
    let ethernet = pnet_packet::ethernet::EthernetPacket::new(frame).unwrap();
    let ip = pnet_packet::ipv4::Ipv4Packet::new(ethernet.payload()).unwrap();
    let udp = pnet_packet::udp::UdpPacket::new(ip.payload()).unwrap();
    (udp.get_source(), udp.get_destination(), udp.payload().len())
}

#[inline(always)]
fn parse_etherparse(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { unreachable!() };
    (udp.source_port(), udp.destination_port(), udp.payload().len())
}

fn emit_smoltcp(out: &mut [u8], payload: &[u8]) {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    };
    let caps = ChecksumCapabilities::default();
    let (from, to) = (Ipv4Address::new(10, 0, 0, 1), Ipv4Address::new(10, 0, 0, 2));
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut frame = EthernetFrame::new_unchecked(out);
    ethernet.emit(&mut frame);
    let ip = Ipv4Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Udp, payload_len: 8 + payload.len(), hop_limit: 64 };
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &caps);
    let mut udp = UdpPacket::new_unchecked(packet.payload_mut());
    UdpRepr { src_port: 1000, dst_port: 53 }.emit(
        &mut udp,
        &from.into(),
        &to.into(),
        payload.len(),
        |room| room.copy_from_slice(payload),
        &caps,
    );
}

fn emit_pnet(out: &mut [u8], payload: &[u8]) {
    use pnet_packet::ethernet::{EtherTypes, MutableEthernetPacket};
    use pnet_packet::ip::IpNextHeaderProtocols;
    use pnet_packet::ipv4::MutableIpv4Packet;
    use pnet_packet::udp::MutableUdpPacket;
    let (from, to) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let mut ethernet = MutableEthernetPacket::new(&mut out[..14]).unwrap();
    ethernet.set_destination([2, 0, 0, 0, 0, 2].into());
    ethernet.set_source([2, 0, 0, 0, 0, 1].into());
    ethernet.set_ethertype(EtherTypes::Ipv4);
    let total = out.len() - 14;
    let mut ip = MutableIpv4Packet::new(&mut out[14..34]).unwrap();
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(total as u16);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(from);
    ip.set_destination(to);
    let sum = pnet_packet::ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(sum);
    let mut udp = MutableUdpPacket::new(&mut out[34..]).unwrap();
    udp.set_source(1000);
    udp.set_destination(53);
    udp.set_length((8 + payload.len()) as u16);
    udp.set_payload(payload);
    udp.set_checksum(0);
    let sum = pnet_packet::udp::ipv4_checksum(&udp.to_immutable(), &from, &to);
    udp.set_checksum(sum);
}

fn main() {
    heartbeat();
    frames(22);
    frames(1472);
}

//! Real devices in network namespaces: TAP, the capture ring, batches over a cable.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod netns;

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netns::{Pair, run};
use straightway_packet::batch::{BatchReceiver, BatchSender, ReceiveOptions, SendOptions};
use straightway_packet::build::{IcmpPacketBuilder, UdpPacketBuilder};
use straightway_packet::capture::pcap::{LINKTYPE_ETHERNET, Reader, Writer};
use straightway_packet::capture::{CaptureRing, RingOptions};
use straightway_packet::fragment::fragment_v4;
use straightway_packet::view::{
    Arp, Echo, EtherType, Ethernet, Frame, Network, Transport, VlanTag,
};
use straightway_packet::{MacAddr, PacketError, Tap};

/// Nothing here takes that long, unless others keep the machine busy.
const SOON: Duration = Duration::from_mins(1);
const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);

/// The next frame that the kernel sends through the device and that `wanted` makes something of.
fn next<R>(tap: &Tap, mut wanted: impl FnMut(&[u8], &Frame<'_>) -> Option<R>) -> R {
    let deadline = Instant::now() + SOON;
    let mut frame = [0; 2048];
    while Instant::now() < deadline {
        if let Some(len) = tap.try_read(&mut frame).unwrap() {
            let bytes = &frame[..len];
            if let Some(found) = Frame::parse(bytes).ok().and_then(|frame| wanted(bytes, &frame)) {
                return found;
            }
        } else {
            tap.wait_readable(Duration::from_millis(100)).unwrap();
        }
    }
    panic!("no such frame came");
}

fn write(tap: &Tap, frame: &[u8]) {
    // In two pieces, which are one frame all the same.
    let (head, rest) = frame.split_at(14);
    assert!(tap.try_write(&[IoSlice::new(head), IoSlice::new(rest)]).unwrap());
}

#[test]
fn the_kernel_answers_what_we_build_and_we_read_its_answers() {
    let Some(pair) = Pair::new("tap") else { return };
    pair.within(0, || {
        let tap = Tap::create(Some("tap7")).expect("made as root");
        assert_eq!(tap.name(), "tap7");
        let taken = Tap::create(Some("tap7")).expect_err("the name is taken").to_string();
        assert!(taken.contains("tap7") && taken.contains("taken"), "{taken}");
        assert!(Tap::create(Some("a-name-that-is-too-long")).is_err());
        let ns = &pair.names[0];
        run(&format!("ip -n {ns} addr add 10.78.0.1/24 dev tap7 && ip -n {ns} link set tap7 up"));
        run(&format!("ip -n {ns} neigh add 10.78.0.2 lladdr {US} dev tap7 nud permanent"));
        let kernel: MacAddr = run(&format!("ip -n {ns} -br link show tap7"))
            .split_whitespace()
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        let (us, it) = ("10.78.0.2".parse().unwrap(), "10.78.0.1".parse().unwrap());

        // It answers our ping, which it does only if every checksum is right.
        let echo = Echo { reply: false, identifier: 7, sequence: 9 };
        let ping = IcmpPacketBuilder::new(us, it, echo).unwrap().ethernet(US, kernel);
        write(&tap, &ping.build(b"straightway").unwrap());
        let answer = |frame: &Frame<'_>| match frame.transport {
            Transport::Icmp(icmp) => {
                icmp.echo().filter(|echo| echo.reply).map(|echo| (echo, icmp.payload().to_vec()))
            }
            _ => None,
        };
        let (echo, payload) = next(&tap, |_, frame| {
            answer(frame).inspect(|_| frame.verify_checksums().expect("the kernel is right"))
        });
        assert_eq!((echo.identifier, echo.sequence, &payload[..]), (7, 9, &b"straightway"[..]));

        // It puts our fragments together.
        let echo = Echo { reply: false, ..Echo { sequence: 10, ..echo } };
        let ping =
            IcmpPacketBuilder::new(us, it, echo).unwrap().dont_fragment(false).identification(1400);
        let packet = ping.build(&[3; 1400]).unwrap();
        let mut sent = 0;
        fragment_v4(&packet, 600, &mut bytes::BytesMut::new(), |fragment| {
            write(
                &tap,
                &[&kernel.0[..], &US.0, &EtherType::IPV4.0.to_be_bytes(), fragment].concat(),
            );
            sent += 1;
        })
        .unwrap();
        assert!(sent > 2);
        assert_eq!(next(&tap, |_, frame| answer(frame)).1, [3; 1400]);

        // It asks for our address, and gets datagrams that we build.
        let socket = UdpSocket::bind("10.78.0.1:5000").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let builder = UdpPacketBuilder::new(
            "10.78.0.2:6000".parse().unwrap(),
            "10.78.0.1:5000".parse().unwrap(),
        );
        write(&tap, &builder.unwrap().ethernet(US, kernel).build(b"hello kernel").unwrap());
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from),
            (&b"hello kernel"[..], "10.78.0.2:6000".parse::<SocketAddr>().unwrap())
        );
        socket.send_to(b"hello", "10.78.0.3:1").unwrap();
        let asked = next(&tap, |_, frame| match frame.network {
            Network::Arp(arp) => Some((arp.operation(), arp.target().1.to_string())),
            _ => None,
        });
        assert_eq!(asked, (1, "10.78.0.3".to_owned()));
    });
}

/// Runs `act` on a thread that has no rights.
#[expect(unsafe_code, reason = "the standard library cannot give rights up")]
fn as_nobody<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    const NOBODY: libc::c_long = 65_534;
    const UNCHANGED: libc::c_long = -1;
    std::thread::scope(|scope| {
        let powerless = scope.spawn(|| {
            // SAFETY: takes its arguments by value and, called directly, changes this thread only.
            let answer =
                unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, NOBODY, UNCHANGED) };
            assert_eq!(answer, 0, "gave its rights up");
            act()
        });
        powerless.join().expect("content")
    })
}

#[test]
fn without_permission_the_error_says_what_is_needed() {
    let Some(_pair) = Pair::new("nobody") else { return };
    as_nobody(|| {
        let tap = Tap::create(None).expect_err("not as nobody").to_string();
        assert!(tap.contains("CAP_NET_ADMIN"), "{tap}");
        let ring = CaptureRing::open("lo", RingOptions::default()).expect_err("nor this");
        assert!(ring.to_string().contains("CAP_NET_RAW"), "{ring}");
    });
}

#[test]
fn the_ring_sees_every_frame_of_the_cable() {
    let Some(pair) = Pair::new("ring") else { return };
    let missing =
        CaptureRing::open("nowhere0", RingOptions::default()).expect_err("no such interface");
    assert!(
        missing.to_string().contains("nowhere0")
            && missing.to_string().contains("no such interface")
    );
    for (block_bytes, blocks) in [(0, 1), (1000, 1), (1 << 16, 0), (1 << 30, 64)] {
        let options = RingOptions { block_bytes, blocks, ..RingOptions::default() };
        assert!(matches!(CaptureRing::open("lo", options), Err(PacketError::BadField { .. })));
    }
    // Told by hand: what waits for an answer is dropped when there is too much of it.
    let shown = run(&format!("ip -n {} -br link show dev wire0", pair.names[1]));
    let far: MacAddr = shown.split_whitespace().nth(2).unwrap().parse().unwrap();
    run(&format!(
        "ip -n {} neigh replace 10.77.0.2 lladdr {far} dev wire0 nud permanent",
        pair.names[0]
    ));
    // Blocks are handed over when they are full, or seldom: all are sent before the first is read, and a sender that is
    // held up is not to fill the ring with blocks of one packet.
    let options = RingOptions { retire: Duration::from_secs(1), ..RingOptions::default() };
    let mut ring = pair.within(1, || CaptureRing::open("wire0", options)).expect("opened as root");
    pair.within(0, || {
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        for n in 0..300u32 {
            socket.send_to(&n.to_be_bytes(), "10.77.0.2:9").unwrap();
        }
    });
    let (mut seen, deadline) = (Vec::new(), Instant::now() + SOON);
    while seen.len() < 300 && Instant::now() < deadline {
        let Some(block) = ring.next_block(Duration::from_millis(100)).unwrap() else { continue };
        for packet in block.packets() {
            assert!(
                packet.original_len as usize == packet.bytes.len()
                    && packet.time > Duration::from_hours(1)
            );
            let frame = Frame::parse(packet.bytes).expect("the kernel sends whole frames");
            if let Transport::Udp(udp) = frame.transport
                && udp.destination_port() == 9
            {
                seen.push(u32::from_be_bytes(udp.payload().try_into().unwrap()));
            }
        }
    }
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    let stats = ring.stats().unwrap();
    assert!(stats.packets >= 300 && stats.drops == 0, "{stats:?}");
}

#[test]
fn the_ring_keeps_vlan_tags_and_tells_when_the_interface_goes_down() {
    let Some(pair) = Pair::new("vlan") else { return };
    let ns = &pair.names[0];
    let options = RingOptions { retire: Duration::from_millis(5), ..RingOptions::default() };
    let (tap, mut ring) = pair.within(0, || {
        let tap = Tap::create(Some("tap8")).expect("made as root");
        run(&format!("ip -n {ns} link set tap8 up"));
        (tap, CaptureRing::open("tap8", options).expect("opened as root"))
    });
    let builder =
        UdpPacketBuilder::new("10.80.0.1:1".parse().unwrap(), "10.80.0.2:9".parse().unwrap());
    let builder = builder.unwrap().ethernet(US, MacAddr::BROADCAST);
    let tag = VlanTag { kind: EtherType::PROVIDER_VLAN, priority: 5, drop_eligible: true, id: 7 };
    let sent = [builder.build(b"plain").unwrap(), builder.vlan(tag).build(b"tagged").unwrap()];
    let deadline = Instant::now() + SOON;
    let next = |ring: &mut CaptureRing, frame: &[u8]| {
        write(&tap, frame);
        let (mut file, mut vlan) = (Vec::new(), None);
        let mut writer = Writer::new(&mut file, LINKTYPE_ETHERNET).unwrap();
        while vlan.is_none() && Instant::now() < deadline {
            let Some(block) = ring.next_block(Duration::from_millis(100)).unwrap() else {
                continue;
            };
            // Beside what the kernel says itself.
            let ours =
                |bytes: &[u8]| Ethernet::parse(bytes).is_ok_and(|frame| frame.source() == US);
            for packet in block.packets().filter(|packet| ours(packet.bytes)) {
                packet.write_to(&mut writer).unwrap();
                vlan = Some(packet.vlan);
            }
        }
        let (mut reader, mut buffer) = (Reader::new(&file[..]).unwrap(), Vec::new());
        let packet = reader.next(&mut buffer).unwrap().expect("it was seen");
        assert_eq!((packet.bytes, packet.original_len as usize), (frame, frame.len()));
        vlan.flatten()
    };
    assert_eq!(sent.each_ref().map(|frame| next(&mut ring, frame)), [None, Some(tag)]);

    run(&format!("ip -n {ns} link set tap8 down"));
    let down = loop {
        assert!(Instant::now() < deadline, "it is told");
        // Packets of before may come first; what must not come is an endless row of answers that there is nothing.
        match ring.next_block(SOON) {
            Ok(block) => assert!(block.is_some(), "it waits, or tells why not"),
            Err(error) => break error,
        }
    };
    assert!(down.to_string().contains("tap8"), "{down}");
    // Told once; up again, packets come again.
    run(&format!("ip -n {ns} link set tap8 up"));
    assert_eq!(next(&mut ring, &sent[0]), None);
}

#[test]
fn joined_packets_cross_the_cable_apart() {
    let Some(pair) = Pair::new("batch") else { return };
    // Segments are cut before they enter the cable, as a network card would: what arrives are single packets.
    run(&format!(
        "ip netns exec {} ethtool -K wire0 tx-udp-segmentation off 2>/dev/null || true",
        pair.names[0]
    ));
    for host in ["10.77.0", "[fd77:"] {
        let address = |n: u8| -> SocketAddr {
            if host.starts_with('[') {
                format!("[fd77::{n}]:7000")
            } else {
                format!("{host}.{n}:7000")
            }
            .parse()
            .unwrap()
        };
        let socket = pair.within(1, || UdpSocket::bind(address(2)).unwrap());
        let mut receiver = BatchReceiver::new(
            Arc::new(socket),
            ReceiveOptions { socket_buffer: Some(4 << 20), ..ReceiveOptions::default() },
        )
        .unwrap();
        let socket = pair.within(0, || UdpSocket::bind(address(1)).unwrap());
        // Room for all: what has left counts until it has arrived, and a full socket means more calls.
        rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 4 << 20).unwrap();
        let mut sender = BatchSender::new(Arc::new(socket), SendOptions::default()).unwrap();
        for n in 0..100u8 {
            sender.push(address(2), Bytes::from(vec![n; 1400])).unwrap();
        }
        // And one that is longer than the cable takes in one piece, joined or not.
        sender.push(address(2), Bytes::from(vec![200; 4000])).unwrap();
        sender.push(address(2), Bytes::from(vec![201; 4000])).unwrap();
        let (mut seen, deadline) = (Vec::new(), Instant::now() + SOON);
        sender.flush(SOON).unwrap();
        while seen.len() < 102 && Instant::now() < deadline {
            receiver.receive(Duration::from_millis(100)).unwrap();
            seen.extend(
                receiver.datagrams().map(|datagram| (datagram.bytes[0], datagram.bytes.len())),
            );
        }
        let expected: Vec<_> =
            (0..100).map(|n| (n, 1400)).chain([(200, 4000), (201, 4000)]).collect();
        assert_eq!(seen, expected, "{:?}", sender.stats());
        assert!(sender.stats().calls <= 6, "{:?}", sender.stats());
        // The long ones went apart, which does not keep shorter ones from being joined.
        assert_eq!(sender.stats().apart, 1);
        let before = sender.stats().messages;
        for n in 0..40u8 {
            sender.push(address(2), Bytes::from(vec![n; 1400])).unwrap();
        }
        sender.flush(SOON).unwrap();
        assert_eq!(sender.stats().messages, before + 1);
    }
}

#[cfg(feature = "xdp")]
#[test]
fn frames_go_past_the_stack_both_ways() {
    use straightway_packet::xdp::XdpSocket;
    let Some(pair) = Pair::new("xdp") else { return };
    let missing = XdpSocket::open("nowhere0", 0, 64).expect_err("no such interface");
    assert!(missing.to_string().contains("no such interface"), "{missing}");
    assert!(matches!(XdpSocket::open("lo", 0, 63), Err(PacketError::BadField { .. })));
    let mut sender = pair.within(0, || XdpSocket::open("wire0", 0, 64)).expect("opened as root");
    let mut receiver = pair.within(1, || XdpSocket::open("wire0", 0, 64)).expect("opened as root");
    let builder =
        UdpPacketBuilder::new("10.77.0.1:1".parse().unwrap(), "10.77.0.2:2".parse().unwrap());
    let builder = builder.unwrap().ethernet(US, MacAddr::BROADCAST);
    let frame = |n: u16| builder.build(&[&n.to_be_bytes()[..], &[7; 1400]].concat()).unwrap();
    let (mut sent, mut seen, deadline) = (0, Vec::new(), Instant::now() + SOON);
    while seen.len() < 500 && Instant::now() < deadline {
        // The next when those before are here: so there are places left for the kernel's own frames.
        if sent < 500 && usize::from(sent) == seen.len() {
            let frames: Vec<_> = (sent..(sent + 32).min(500)).map(frame).collect();
            sent += u16::try_from(sender.send(frames.iter().map(Vec::as_slice)).unwrap()).unwrap();
        }
        sender.flush().unwrap();
        receiver
            .receive(Duration::from_millis(10), |bytes| {
                // The kernel's own frames of the cable come too.
                if let Ok(Transport::Udp(udp)) = Frame::parse(bytes).map(|frame| frame.transport)
                    && udp.destination_port() == 2
                {
                    assert_eq!(udp.payload()[2..], [7; 1400]);
                    seen.push(u16::from_be_bytes([udp.payload()[0], udp.payload()[1]]));
                }
            })
            .unwrap();
    }
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    while sender.flush().unwrap() > 0 {
        assert!(Instant::now() < deadline, "every frame comes back from the kernel");
    }
    assert!(matches!(sender.send([&[0; 3000][..]]), Err(PacketError::TooLong { .. })));
    let short = frame(0);
    assert_eq!(sender.send([&short, &[0; 3000][..]]).unwrap(), 1, "those before it are told");
    // Closed, the queue is the stack's again.
    drop((sender, receiver));
    let ping = pair.command(0, "ping").args(["-c", "1", "-W", "60", "10.77.0.2"]).output();
    assert!(ping.is_ok_and(|output| output.status.success()));
}

#[test]
fn every_frame_of_a_real_conversation_reads() {
    let Some(pair) = Pair::new("talk") else { return };
    let mut ring = pair.within(0, || CaptureRing::open("wire0", RingOptions::default())).unwrap();
    let output = pair.command(0, "ping").args(["-c", "2", "-i", "0.2", "10.77.0.2"]).output();
    if !output.as_ref().is_ok_and(|output| output.status.success()) {
        println!("SKIP talk: ping is missing: {output:?}");
        return;
    }
    let (mut kinds, deadline) = ([0; 2], Instant::now() + SOON);
    loop {
        let Some(block) = ring.next_block(Duration::from_millis(200)).unwrap() else {
            // All that has to come, and quiet since; the kernel may be late with the last block.
            if (kinds[0] >= 2 && kinds[1] >= 4) || Instant::now() > deadline {
                break;
            }
            continue;
        };
        for packet in block.packets() {
            let ethernet = Ethernet::parse(packet.bytes).unwrap();
            if ethernet.ether_type() == EtherType::ARP {
                Arp::parse(ethernet.payload()).unwrap();
                kinds[0] += 1;
            } else if let Transport::Icmp(icmp) = Frame::parse(packet.bytes).unwrap().transport {
                kinds[1] += usize::from(icmp.echo().is_some());
            }
        }
    }
    assert!(kinds[0] >= 2 && kinds[1] == 4, "{kinds:?}");
}

//! A cable made of UDP: frames of a TAP device travel to another host as overlay messages and come out of a TAP device
//! there.
//!
//! On each of two hosts (or in two network namespaces), as root:
//! ```sh
//! cargo build --release --package straightway-packet --example tap_relay
//! target/release/examples/tap_relay tap0 10.0.0.1:7000 10.0.0.2:7000 &    # its own address, then the other's
//! ip addr add 192.168.7.1/24 dev tap0 && ip link set tap0 up mtu 1400
//! ping 192.168.7.2
//! ```
//! A frame is read once, into a pooled buffer with room in front; the message's header is written into that room, and
//! the same bytes go to the kernel. On the way back the frame is borrowed from the buffer that it was received in.
use std::error::Error;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr};
use straightway_buffer::{BufferPool, PoolConfig, SharedPacket};
use straightway_packet::batch::{BatchReceiver, BatchSender, ReceiveOptions, SendOptions};
use straightway_packet::overlay::{
    Control, Data, Heartbeat, Message, PacketType, ReplyType, ToUpstream,
};
use straightway_packet::view::Ethernet;
use straightway_packet::{MacAddr, PacketError, Tap};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, own, peer] = &arguments[..] else {
        return Err("usage: tap_relay DEVICE OWN_ADDRESS PEER_ADDRESS".into());
    };
    let tap = Tap::create(Some(name))?;
    let socket = UdpSocket::bind(own.parse::<SocketAddr>()?)?;
    println!("{} is joined to {peer} over {own}", tap.name());
    let counts = Counts::default();
    relay(&tap, socket, peer.parse()?, &AtomicBool::new(false), &counts)?;
    Ok(())
}

/// What the relay has carried.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames from the device to the peer.
    pub out: AtomicU64,
    /// Frames from the peer to the device.
    pub back: AtomicU64,
    /// Round trip of the last heartbeat, in microseconds.
    pub round_trip_us: AtomicU64,
}

/// How often a side looks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(50);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Frames that are read before they are sent together.
const BATCH: usize = 32;
/// Type, addresses and origin of a message, which come before the frame.
const HEADROOM: usize = 22;

/// Carries frames both ways until it is told to stop.
pub fn relay(
    tap: &Tap,
    socket: UdpSocket,
    peer: SocketAddr,
    stop: &AtomicBool,
    counts: &Counts,
) -> Result<(), PacketError> {
    let socket = Arc::new(socket);
    let pool = BufferPool::new(PoolConfig { name: "relay", ..PoolConfig::packets() })?;
    let (to_peer, from_peer) = (socket.clone(), socket);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let out = scope.spawn(|| {
            let out = outwards(tap, to_peer, peer, &pool, stop, counts, started);
            // Whichever side ends, the other is to end too: half a cable is none.
            stop.store(true, Ordering::Relaxed);
            out
        });
        let back = inwards(tap, from_peer, peer, &pool, stop, counts, started);
        stop.store(true, Ordering::Relaxed);
        let out = out.join().unwrap_or(Ok(()));
        out.and(back)
    })
}

/// The addresses of a link that has two ends only mean that it is one of ours.
const NEAR: MacAddr = MacAddr([0x02, 0x53, 0x57, 0, 0, 1]);
const FAR: MacAddr = MacAddr([0x02, 0x53, 0x57, 0, 0, 2]);

fn outwards(
    tap: &Tap,
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    pool: &BufferPool,
    stop: &AtomicBool,
    counts: &Counts,
    started: Instant,
) -> Result<(), PacketError> {
    let mut sender = BatchSender::<SharedPacket>::new(socket, SendOptions::default())?;
    let (mut next_heartbeat, mut id) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        if started.elapsed() >= next_heartbeat {
            let duration_ms = started.elapsed().as_millis();
            let heartbeat = Heartbeat { duration_ms, id, hops: 0, source: NEAR };
            let packet = PacketType::Control(Control::Heartbeat(heartbeat));
            queue(&mut sender, pool, peer, &Message::new(NEAR, FAR, packet))?;
            (next_heartbeat, id) = (next_heartbeat + HEARTBEAT, id.wrapping_add(1));
        }
        for _ in 0..BATCH {
            let mut buffer = pool.acquire(2048)?;
            buffer.set_headroom(HEADROOM)?;
            let Ok(Some(len)) = tap.try_read(buffer.as_mut_capacity()) else { break };
            buffer.set_len(len)?;
            let origin = Ethernet::parse(&buffer).map_or(NEAR, |frame| frame.source());
            // Only the header: the frame is where it has to be.
            let data = Data::ToUpstream(ToUpstream { origin, payload: &[] });
            Message::new(NEAR, FAR, PacketType::Data(data)).write_to(buffer.prepend(HEADROOM)?)?;
            if sender.push(peer, buffer.share()).is_err() {
                break;
            }
            counts.out.fetch_add(1, Ordering::Relaxed);
        }
        sender.flush(PAUSE)?;
        // A device that is not up yet answers with an error: wait for it.
        if !tap.wait_readable(PAUSE)? {
            std::thread::yield_now();
        }
    }
    Ok(())
}

fn inwards(
    tap: &Tap,
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    pool: &BufferPool,
    stop: &AtomicBool,
    counts: &Counts,
    started: Instant,
) -> Result<(), PacketError> {
    let answers = socket.clone();
    let options = ReceiveOptions {
        pool: Some(pool.clone()),
        socket_buffer: Some(8 << 20),
        ..ReceiveOptions::default()
    };
    let mut receiver = BatchReceiver::new(socket, options)?;
    while !stop.load(Ordering::Relaxed) {
        receiver.receive(PAUSE)?;
        // Strangers are not answered.
        for datagram in receiver.datagrams().filter(|datagram| datagram.from == peer) {
            match Message::parse(datagram.bytes).map(|message| message.packet) {
                Ok(PacketType::Data(Data::ToUpstream(ToUpstream { payload, .. }))) => {
                    // A device that is down drops frames, as a cable that is not plugged in does.
                    if let Ok(true) = tap.try_write(&[IoSlice::new(payload)]) {
                        counts.back.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(PacketType::Control(Control::Heartbeat(heartbeat))) => {
                    let packet =
                        PacketType::Control(Control::HeartbeatReply(heartbeat.reply(NEAR)));
                    // Seldom enough for memory of its own.
                    let reply = ReplyType::WireFlat(Vec::from(&Message::new(NEAR, FAR, packet)));
                    answer(&answers, peer, &reply);
                }
                Ok(PacketType::Control(Control::HeartbeatReply(reply))) => {
                    let sent = Duration::from_millis(
                        u64::try_from(reply.heartbeat.duration_ms).unwrap_or(0),
                    );
                    let took = started.elapsed().saturating_sub(sent).as_micros();
                    counts
                        .round_trip_us
                        .store(u64::try_from(took).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
                }
                Ok(PacketType::Data(Data::ToDownstream(_))) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Sends a reply in one call, whatever it is made of. One that finds the socket full is left out, as the next will come.
fn answer(socket: &UdpSocket, peer: SocketAddr, reply: &ReplyType) {
    let _ = reply.with_slices(|slices| {
        let nothing = &mut SendAncillaryBuffer::default();
        sendmsg_addr(socket, &peer, slices, nothing, SendFlags::DONTWAIT)
    });
}

/// Queues a message without a frame; one that finds the queue full is left out, as the next will come.
fn queue(
    sender: &mut BatchSender<SharedPacket>,
    pool: &BufferPool,
    peer: SocketAddr,
    message: &Message<'_>,
) -> Result<(), PacketError> {
    let mut buffer = pool.acquire(message.wire_size())?;
    let len = message.write_to(buffer.as_mut_capacity())?;
    buffer.set_len(len)?;
    drop(sender.push(peer, buffer.share()));
    Ok(())
}

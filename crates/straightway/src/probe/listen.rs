//! The side that answers.
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use straightway_buffer::{Arena, BufferPool, PoolConfig, SharedPacket};
use straightway_packet::batch::{BatchReceiver, BatchSender, ReceiveOptions, SendOptions};
use straightway_packet::overlay::{Control, Message, PacketType};

use super::{MIN_PROBE, ProbeError, bind};

/// How often it looks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers probes until `stop` is set; `ready` is told the address once it listens.
///
/// # Errors
/// [`ProbeError::Bind`], [`ProbeError::Packet`].
pub fn listen(
    address: SocketAddr,
    stop: &AtomicBool,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ProbeError> {
    let socket = bind(address)?;
    ready(socket.local_addr().map_err(|source| ProbeError::Bind { address, source })?);
    answer(Arc::new(socket), stop)
}

fn answer(socket: Arc<UdpSocket>, stop: &AtomicBool) -> Result<(), ProbeError> {
    let pool = BufferPool::new(PoolConfig { name: "probe", ..PoolConfig::packets() })?;
    let mut sender = BatchSender::<SharedPacket>::new(socket.clone(), SendOptions::default())?;
    let options = ReceiveOptions {
        // A probe may be as long as a datagram can be.
        mtu: 64 << 10,
        socket_buffer: Some(8 << 20),
        pool: Some(pool.clone()),
        ..ReceiveOptions::default()
    };
    let mut receiver = BatchReceiver::new(socket, options)?;
    let mut askers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        receiver.receive(PAUSE)?;
        let probes = || receiver.datagrams().filter(|probe| probe.bytes.len() >= MIN_PROBE);
        // One buffer for the answers to all of them.
        let mut answers = Arena::new(pool.acquire(probes().count() * MIN_PROBE)?);
        askers.clear();
        for probe in probes() {
            let Ok(Message { from, to, packet }) = Message::parse(probe.bytes) else { continue };
            let PacketType::Control(Control::Heartbeat(heartbeat)) = packet else { continue };
            let reply = PacketType::Control(Control::HeartbeatReply(heartbeat.reply(to)));
            answers.push_with(|room| Message::new(to, from, reply).write_to(room))?;
            askers.push(probe.from);
        }
        for (to, answer) in askers.iter().zip(answers.finish().iter()) {
            if let Err(answer) = sender.push(*to, answer) {
                sender.try_flush()?;
                // A socket that is full even so loses the answer, as the network would.
                drop(sender.push(*to, answer));
            }
        }
        sender.try_flush()?;
        // Each would keep the buffer of all answers that it was made with.
        drop(sender.take_refused());
    }
    Ok(())
}

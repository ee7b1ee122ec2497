//! Sending many datagrams.
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::group::{Group, next_group};
use super::{Offload, portable, wait_for};
use crate::error::PacketError;
#[cfg(target_os = "linux")]
use crate::sys::mmsg::{Outgoing, SendMany};

/// How to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendOptions {
    /// Packets that may wait to be sent.
    pub queue: usize,
    /// The kernel's help.
    pub offload: Offload,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { queue: 256, offload: Offload::Auto }
    }
}

/// Sends packets in batches over a UDP socket, which it makes non-blocking. Packets are [`Bytes`], or whatever else holds
/// bytes: a [`SharedPacket`](straightway_buffer::SharedPacket) needs no allocation to get here.
///
/// ```
/// use std::net::UdpSocket;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use bytes::Bytes;
/// use straightway_packet::batch::{BatchReceiver, BatchSender, ReceiveOptions, SendOptions};
///
/// let receiver = UdpSocket::bind("127.0.0.1:0")?;
/// let to = receiver.local_addr()?;
/// let mut sender = BatchSender::new(Arc::new(UdpSocket::bind("127.0.0.1:0")?), SendOptions::default())?;
/// for n in 0..10u8 {
///     sender.push(to, Bytes::from(vec![n; 1200])).expect("the queue has room");
/// }
/// let sent = sender.flush(Duration::from_secs(1))?;
/// assert_eq!((sent.datagrams, sent.waiting), (10, 0));
///
/// let mut receiver = BatchReceiver::new(Arc::new(receiver), ReceiveOptions::default())?;
/// let mut seen = 0;
/// while seen < 10 {
///     seen += receiver.receive(Duration::from_secs(1))?;
///     assert!(receiver.datagrams().all(|datagram| datagram.bytes.len() == 1200));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchSender<P = Bytes> {
    socket: Arc<UdpSocket>,
    options: SendOptions,
    to: VecDeque<SocketAddr>,
    packets: VecDeque<P>,
    groups: Vec<Group>,
    refused: Vec<Refused<P>>,
    /// Places whose route does not take packets of this length, or longer ones, joined.
    apart: Vec<(IpAddr, usize)>,
    stats: SendStats,
    #[cfg(target_os = "linux")]
    many: SendMany,
}

/// What one flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: usize,
    /// Datagrams that it refused for good: see [`BatchSender::take_refused`].
    pub refused: usize,
    /// Datagrams that still wait, because the socket is full.
    pub waiting: usize,
}

/// A datagram that cannot be sent.
#[derive(Debug)]
pub struct Refused<P = Bytes> {
    /// Where it was to go.
    pub to: SocketAddr,
    /// The packet.
    pub packet: P,
    /// Why not: `EMSGSIZE` when it is longer than the path takes.
    pub error: io::Error,
}

/// What a [`BatchSender`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SendStats {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// System calls.
    pub calls: u64,
    /// Messages, of one or several datagrams.
    pub messages: u64,
    /// Datagrams that were refused.
    pub refused: u64,
    /// Messages that a route did not take joined.
    pub apart: u64,
}

/// Messages of one call.
const MAX_MESSAGES: usize = 64;
/// Refused datagrams and unjoinable places that are remembered.
const MAX_REMEMBERED: usize = 64;

impl<P: AsRef<[u8]>> BatchSender<P> {
    /// A sender over a socket.
    ///
    /// # Errors
    /// [`PacketError::Io`] when the socket cannot be made non-blocking.
    pub fn new(socket: Arc<UdpSocket>, options: SendOptions) -> Result<Self, PacketError> {
        socket.set_nonblocking(true).map_err(|source| PacketError::Io {
            operation: "making a UDP socket non-blocking failed".to_owned(),
            source,
        })?;
        let options = SendOptions { queue: options.queue.max(1), ..options };
        Ok(Self {
            socket,
            to: VecDeque::with_capacity(options.queue),
            packets: VecDeque::with_capacity(options.queue),
            groups: Vec::with_capacity(MAX_MESSAGES),
            refused: Vec::new(),
            apart: Vec::new(),
            stats: SendStats::default(),
            #[cfg(target_os = "linux")]
            many: SendMany::new(MAX_MESSAGES, options.queue),
            options,
        })
    }

    /// Queues a packet.
    ///
    /// # Errors
    /// The packet itself, when the queue is full: flush, and push it again.
    pub fn push(&mut self, to: SocketAddr, packet: P) -> Result<(), P> {
        if self.packets.len() >= self.options.queue {
            return Err(packet);
        }
        self.to.push_back(to);
        self.packets.push_back(packet);
        Ok(())
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.packets.len()
    }

    /// Sends what waits, for so long at the most. What the socket does not take in that time stays in the queue, in
    /// order.
    ///
    /// # Errors
    /// [`PacketError::Io`] when the socket itself fails; the queue is kept.
    pub fn flush(&mut self, at_most: Duration) -> Result<Sent, PacketError> {
        let deadline = Instant::now().checked_add(at_most);
        let mut total = Sent::default();
        loop {
            let sent = self.try_flush()?;
            total.datagrams += sent.datagrams;
            total.refused += sent.refused;
            total.waiting = sent.waiting;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if sent.waiting == 0 || left == Some(Duration::ZERO) {
                return Ok(total);
            }
            wait_for(&self.socket, true, left).map_err(failed)?;
        }
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn try_flush(&mut self) -> Result<Sent, PacketError> {
        let before = (self.stats.datagrams, self.stats.refused);
        while !self.packets.is_empty() {
            match self.send_some() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        let count = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        Ok(Sent {
            datagrams: count(self.stats.datagrams, before.0),
            refused: count(self.stats.refused, before.1),
            waiting: self.packets.len(),
        })
    }

    /// The datagrams that were refused since this was last asked: the last 64 of them.
    pub fn take_refused(&mut self) -> Vec<Refused<P>> {
        std::mem::take(&mut self.refused)
    }

    /// What it has done.
    pub fn stats(&self) -> SendStats {
        self.stats
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    /// One call, and what follows from its answer. An error is one of the socket.
    fn send_some(&mut self) -> io::Result<()> {
        self.plan();
        let sent = self.call();
        let (messages, refusal) = match sent {
            Ok(messages) => (messages, None),
            Err(error) => (0, Some(error)),
        };
        let packets = self.groups.iter().take(messages).map(|group| group.packets.len()).sum();
        self.stats.messages += messages as u64;
        self.done(packets);
        match refusal {
            None => Ok(()),
            Some(error) => self.judge(error),
        }
    }

    /// Puts the front of the queue into messages.
    fn plan(&mut self) {
        self.groups.clear();
        self.to.make_contiguous();
        self.packets.make_contiguous();
        let (to, packets) = (self.to.as_slices().0, self.packets.as_slices().0);
        let mut at = 0;
        while at < packets.len() && self.groups.len() < MAX_MESSAGES {
            let join = self.options.offload == Offload::Auto
                && cfg!(target_os = "linux")
                && !self.goes_apart(&to[at], packets[at].as_ref().len());
            let packet = |n: usize| (to[n], packets[n].as_ref().len());
            let group = next_group(at, packets.len(), packet, join);
            at = group.packets.end;
            self.groups.push(group);
        }
    }

    fn goes_apart(&self, to: &SocketAddr, len: usize) -> bool {
        self.apart.iter().any(|(place, from)| *place == to.ip() && len >= *from)
    }

    /// Messages that were taken; an error of the first one otherwise.
    fn call(&mut self) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if self.options.offload != Offload::Portable {
            use std::os::fd::AsFd;
            self.stats.calls += 1;
            let (to, packets) = (self.to.as_slices().0, self.packets.as_slices().0);
            let messages = self.groups.iter().map(|group| Outgoing {
                to: &to[group.packets.start],
                packets: &packets[group.packets.clone()],
                segment: group.segment,
            });
            return self.many.send(self.socket.as_fd(), messages);
        }
        let (to, packets) = (self.to.as_slices().0, self.packets.as_slices().0);
        let wanted = self.groups.len();
        let (sent, calls, result) =
            portable::send(&self.socket, to.iter().zip(packets).take(wanted));
        self.stats.calls += calls as u64;
        if sent > 0 { Ok(sent) } else { result.map(|()| 0) }
    }

    /// Takes sent packets off the queue.
    fn done(&mut self, packets: usize) {
        self.stats.datagrams += packets as u64;
        self.stats.bytes +=
            self.packets.drain(..packets).map(|packet| packet.as_ref().len() as u64).sum::<u64>();
        self.to.drain(..packets);
    }

    /// The first message was refused.
    fn judge(&mut self, error: io::Error) -> io::Result<()> {
        const NOT_SUPPORTED: [i32; 2] = [libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        let joined = self.groups.first().is_some_and(|group| group.segment.is_some());
        let code = error.raw_os_error().unwrap_or(0);
        match error.kind() {
            io::ErrorKind::WouldBlock => Err(error),
            // An error of the past on this socket, told now; the packet was not tried.
            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused => Ok(()),
            _ if joined
                && (matches!(code, libc::EIO | libc::EINVAL | libc::EMSGSIZE)
                    || NOT_SUPPORTED.contains(&code)) =>
            {
                // The route does not take them joined: the same packets, apart, and from now on. A length may be what
                // it minds (they are longer than its MTU): shorter ones are tried again.
                let by_length = matches!(code, libc::EINVAL | libc::EMSGSIZE);
                self.stats.apart += 1;
                if let (Some(to), Some(packet)) = (self.to.front(), self.packets.front()) {
                    if self.apart.len() >= MAX_REMEMBERED {
                        self.apart.remove(0);
                    }
                    let from = if by_length { packet.as_ref().len() } else { 0 };
                    self.apart.push((to.ip(), from));
                }
                Ok(())
            }
            _ if matches!(code, libc::EBADF | libc::ENOTSOCK | libc::ENOMEM) => Err(error),
            _ => {
                // This one cannot go; the others may.
                self.stats.refused += 1;
                if let (Some(to), Some(packet)) = (self.to.pop_front(), self.packets.pop_front()) {
                    if self.refused.len() >= MAX_REMEMBERED {
                        self.refused.remove(0);
                    }
                    self.refused.push(Refused { to, packet, error });
                }
                Ok(())
            }
        }
    }
}

fn failed(source: io::Error) -> PacketError {
    PacketError::Io {
        operation: "sending datagrams failed; the unsent ones are kept".to_owned(),
        source,
    }
}

//! Receiving many datagrams.
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use straightway_buffer::{BufferPool, PoolConfig, PooledBuffer, SharedPacket};

use super::{Offload, portable, wait_for};
use crate::error::PacketError;
#[cfg(target_os = "linux")]
pub(super) use crate::sys::mmsg::Incoming as Received;
#[cfg(target_os = "linux")]
use crate::sys::mmsg::ReceiveMany;

/// What one received message was.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) from: Option<SocketAddr>,
    pub(super) len: usize,
    pub(super) truncated: bool,
    pub(super) segment: Option<usize>,
    pub(super) dropped: Option<u32>,
}

/// How to receive.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// The longest datagram that is expected, in bytes: the path's MTU less the headers. Longer ones are truncated, and
    /// marked so.
    pub mtu: usize,
    /// Messages that one call may receive.
    pub batch: usize,
    /// The kernel's help. With segmentation, buffers have 64 KiB whatever the MTU: the kernel puts several datagrams
    /// into one.
    pub offload: Offload,
    /// Bytes that may wait in the socket: the system's default if not given. What the system allows at most
    /// (`net.core.rmem_max`) counts unless the process may override it.
    pub socket_buffer: Option<usize>,
    /// Where buffers come from; a pool of its own if not given.
    pub pool: Option<BufferPool>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { mtu: 1500, batch: 32, offload: Offload::Auto, socket_buffer: None, pool: None }
    }
}

/// Receives datagrams in batches from a UDP socket, which it makes non-blocking. Buffers come from a pool and are used
/// again; see [`super::BatchSender`] for an example.
#[derive(Debug)]
pub struct BatchReceiver {
    socket: Arc<UdpSocket>,
    pool: BufferPool,
    buffer_len: usize,
    buffers: Vec<PooledBuffer>,
    received: Vec<Received>,
    stats: ReceiveStats,
    /// `None`: one datagram by one call.
    #[cfg(target_os = "linux")]
    many: Option<ReceiveMany>,
}

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its payload.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub from: SocketAddr,
    /// It was longer than the buffer, and the rest is lost.
    pub truncated: bool,
}

/// What a [`BatchReceiver`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReceiveStats {
    /// Datagrams received.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// System calls that received something.
    pub calls: u64,
    /// Messages, of one or several datagrams.
    pub messages: u64,
    /// Datagrams that were longer than the buffer.
    pub truncated: u64,
    /// Datagrams that the socket dropped because nobody received them in time, if the kernel says so.
    pub dropped: u64,
}

impl BatchReceiver {
    /// A receiver from a socket.
    ///
    /// # Errors
    /// [`PacketError::Io`] when the socket cannot be set up, [`PacketError::Buffer`].
    pub fn new(socket: Arc<UdpSocket>, options: ReceiveOptions) -> Result<Self, PacketError> {
        socket.set_nonblocking(true).map_err(|source| PacketError::Io {
            operation: "making a UDP socket non-blocking failed".to_owned(),
            source,
        })?;
        if let Some(bytes) = options.socket_buffer {
            enlarge(&socket, bytes);
        }
        let joined = join_received(&socket, options.offload == Offload::Auto);
        let portable = options.offload == Offload::Portable || cfg!(not(target_os = "linux"));
        // One byte more tells a datagram that is as long as expected from one that was cut.
        let mtu = options.mtu.max(1).saturating_add(usize::from(portable));
        let buffer_len = if joined { 64 << 10 } else { mtu };
        let pool = match options.pool {
            Some(pool) => pool,
            None => BufferPool::new(PoolConfig { name: "receive", ..PoolConfig::packets() })?,
        };
        let batch = options.batch.clamp(1, 1024);
        let buffers = (0..batch).map(|_| pool.acquire(buffer_len)).collect::<Result<_, _>>()?;
        Ok(Self {
            socket,
            pool,
            buffer_len,
            buffers,
            received: Vec::with_capacity(batch),
            stats: ReceiveStats::default(),
            #[cfg(target_os = "linux")]
            many: (!portable).then(|| ReceiveMany::new(batch)),
        })
    }

    /// Waits for datagrams, for so long at the most, and receives what is there: gives how many, 0 when none came. They
    /// are there until the next call: see [`Self::datagrams`] and [`Self::share`].
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn receive(&mut self, at_most: Duration) -> Result<usize, PacketError> {
        let deadline = Instant::now().checked_add(at_most);
        loop {
            let received = self.try_receive()?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if received > 0 || left == Some(Duration::ZERO) {
                return Ok(received);
            }
            wait_for(&self.socket, false, left).map_err(failed)?;
        }
    }

    /// Receives what is there now: gives how many datagrams.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn try_receive(&mut self) -> Result<usize, PacketError> {
        self.received.clear();
        match self.call() {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        // An answer to something that was sent over this socket earlier.
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(0);
            }
            Err(error) => return Err(failed(error)),
        }
        for (buffer, message) in self.buffers.iter_mut().zip(&self.received) {
            buffer.set_len(message.len)?;
            self.stats.bytes += message.len as u64;
            self.stats.truncated += u64::from(message.truncated);
            if let Some(dropped) = message.dropped {
                self.stats.dropped = u64::from(dropped);
            }
        }
        let datagrams: usize = self.received.iter().map(count).sum();
        self.stats.messages += self.received.len() as u64;
        self.stats.datagrams += datagrams as u64;
        Ok(datagrams)
    }

    /// The datagrams that were received last, where they lie.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.buffers.iter().zip(&self.received).flat_map(|(buffer, message)| {
            pieces(message).filter_map(move |(from, range, truncated)| {
                Some(Datagram { bytes: buffer.get(range)?, from, truncated })
            })
        })
    }

    /// Hands over the datagrams that were received last, each sharing the buffer that it lies in; the receiver takes
    /// new ones from its pool. Nothing is copied, and nothing allocated once the pool is warm.
    ///
    /// # Errors
    /// [`PacketError::Buffer`] when the pool has no more: what was not handed over is still there.
    pub fn share(
        &mut self,
        mut take: impl FnMut(SharedPacket, SocketAddr),
    ) -> Result<(), PacketError> {
        while let Some(message) = self.received.pop() {
            let n = self.received.len();
            let fresh = match self.pool.acquire(self.buffer_len) {
                Ok(fresh) => fresh,
                Err(error) => {
                    self.received.push(message);
                    return Err(error.into());
                }
            };
            let Some(slot) = self.buffers.get_mut(n) else { continue };
            let packet = std::mem::replace(slot, fresh).share();
            for (from, range, _) in pieces(&message) {
                if let Some(datagram) = packet.get(range) {
                    take(datagram, from);
                }
            }
        }
        Ok(())
    }

    /// What it has done.
    pub fn stats(&self) -> ReceiveStats {
        self.stats
    }

    /// The pool that its buffers come from.
    pub fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    fn call(&mut self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(many) = &mut self.many {
            use std::os::fd::AsFd;
            many.receive(self.socket.as_fd(), &mut self.buffers, &mut self.received)?;
            self.stats.calls += 1;
            return Ok(());
        }
        self.stats.calls += portable::receive(&self.socket, &mut self.buffers, &mut self.received)?;
        Ok(())
    }
}

fn count(message: &Received) -> usize {
    message.segment.map_or(1, |segment| message.len.div_ceil(segment))
}

/// Sender, place and state of each datagram of a message.
fn pieces(
    message: &Received,
) -> impl Iterator<Item = (SocketAddr, std::ops::Range<usize>, bool)> + use<> {
    let (len, count, truncated) = (message.len, count(message), message.truncated);
    let step = message.segment.unwrap_or(len);
    message.from.into_iter().flat_map(move |from| {
        (0..count).map(move |n| {
            // Of several in one, the last is the one that was cut.
            (from, n * step..len.min((n + 1) * step), truncated && n + 1 == count)
        })
    })
}

/// Lets more bytes wait in a socket, as far as the system allows it.
#[cfg(unix)]
fn enlarge(socket: &UdpSocket, bytes: usize) {
    use crate::sys::sockopt::set_int;
    use std::os::fd::AsFd;
    let (fd, bytes) = (socket.as_fd(), i32::try_from(bytes).unwrap_or(i32::MAX));
    // Beyond the system's limit if this process may, else up to it: either way no reason to fail.
    #[cfg(target_os = "linux")]
    if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_ok() {
        return;
    }
    let _limited = set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
}

/// Asks the kernel to put datagrams of one sender together, or not to, if another receiver of this socket had asked; and
/// to say how many it has dropped. Gives whether they may come together.
#[cfg(target_os = "linux")]
fn join_received(socket: &UdpSocket, join: bool) -> bool {
    use crate::sys::sockopt::{SOL_UDP, UDP_GRO, set_int};
    use std::os::fd::AsFd;
    let fd = socket.as_fd();
    // Statistics only: without it the count stays 0.
    let _counted = set_int(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
    set_int(fd, SOL_UDP, UDP_GRO, join.into()).is_ok() && join
}

#[cfg(not(target_os = "linux"))]
fn join_received(_socket: &UdpSocket, _join: bool) -> bool {
    false
}

fn failed(source: io::Error) -> PacketError {
    PacketError::Io { operation: "receiving datagrams failed".to_owned(), source }
}

//! AF_XDP: frames past the kernel's network stack, on one queue of an interface (Linux, feature `xdp`).
//!
//! In copy mode, with the generic program that every driver takes: the fastest way to send single raw frames here, and
//! it works on a plain veth. Zero-copy mode needs a driver that has it.
use std::io;
use std::time::Duration;

use crate::error::PacketError;
use crate::sys::sockopt::poll;
use crate::sys::xsk::{FRAME_BYTES, Xsk};

/// A raw socket on one queue of an interface. While it is open it takes every frame that the queue receives, ARP among
/// them. Needs root, or `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_BPF`.
#[derive(Debug)]
pub struct XdpSocket {
    socket: Xsk,
    interface: String,
}

/// The longest frame.
pub const MAX_FRAME: usize = FRAME_BYTES;

impl XdpSocket {
    /// Takes over a queue. `entries`: packets that each ring holds, a power of two up to 32768.
    ///
    /// # Errors
    /// [`PacketError::BadField`] for `entries`; [`PacketError::Io`] without permission, without such an interface or
    /// queue, or when another program has it.
    pub fn open(interface: &str, queue: u32, entries: u32) -> Result<Self, PacketError> {
        if !entries.is_power_of_two() || entries > 1 << 15 {
            return Err(PacketError::BadField {
                layer: "xdp",
                field: "entries",
                value: u64::from(entries),
                rule: "must be a power of two up to 32768",
            });
        }
        let socket = Xsk::open(interface, queue, entries).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "run as root, or with CAP_NET_ADMIN and CAP_BPF"
                }
                Some(libc::ENODEV | libc::ENXIO) => {
                    "there is no such interface; ip link lists them"
                }
                Some(libc::EINVAL) => "there may be no such queue",
                Some(libc::EBUSY) => "another program has the queue",
                _ => "see the system's answer",
            };
            let operation =
                format!("opening queue {queue} of {interface} for AF_XDP failed; {hint}");
            PacketError::Io { operation, source }
        })?;
        Ok(Self { socket, interface: interface.to_owned() })
    }

    /// Queues frames, as many as fit, and has the kernel send them; gives how many were taken.
    ///
    /// # Errors
    /// [`PacketError::TooLong`] when the first frame is over [`MAX_FRAME`] (a later one ends the batch before it);
    /// [`PacketError::Io`].
    pub fn send<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<usize, PacketError> {
        let mut taken = 0;
        for frame in frames {
            if frame.len() > MAX_FRAME {
                if taken > 0 {
                    // Those before it go, and are told; it is the first of the next call.
                    break;
                }
                let (len, max) = (frame.len(), MAX_FRAME);
                return Err(PacketError::TooLong { layer: "xdp frame", len, max });
            }
            if !self.socket.queue(frame).map_err(|source| self.failed("sending on", source))? {
                break;
            }
            taken += 1;
        }
        self.socket.kick().map_err(|source| self.failed("sending on", source))?;
        Ok(taken)
    }

    /// Has the kernel go on with what is queued; gives how many frames are still on their way.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn flush(&mut self) -> Result<usize, PacketError> {
        self.socket.kick().map_err(|source| self.failed("sending on", source))?;
        Ok(self.socket.in_flight())
    }

    /// Waits for frames, for so long at the most, and hands each that is there to `take`; gives how many there were.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn receive(
        &mut self,
        at_most: Duration,
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, PacketError> {
        let polled = poll(self.socket.fd(), false, Some(at_most));
        polled.map_err(|source| self.failed("receiving on", source))?;
        let mut received = 0;
        while self
            .socket
            .receive(&mut take)
            .map_err(|source| self.failed("receiving on", source))?
            .is_some()
        {
            received += 1;
        }
        Ok(received)
    }

    fn failed(&self, what: &str, source: io::Error) -> PacketError {
        PacketError::Io { operation: format!("{what} {} by AF_XDP failed", self.interface), source }
    }
}

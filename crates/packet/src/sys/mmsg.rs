//! Many datagrams by one call: sendmmsg(2), recvmmsg(2), with segmentation by the kernel (`UDP_SEGMENT`, `UDP_GRO`).
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use straightway_buffer::PooledBuffer;

use super::address::RawAddress;
use super::check;
use super::sockopt::{SOL_UDP, UDP_GRO, UDP_SEGMENT};

/// Room for the control messages of one datagram, aligned as the kernel wants them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

const CONTROL_BYTES: usize = 64;
/// Header of a control message: length, level, type.
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();
/// Where level and type stand in it, behind a length of a pointer's size.
const CMSG_LEVEL: usize = size_of::<usize>();
const CMSG_TYPE: usize = CMSG_LEVEL + 4;

/// One message to be sent: some packets, which the kernel takes apart again if `segment` says how.
pub(crate) struct Outgoing<'a, P> {
    pub(crate) to: &'a SocketAddr,
    pub(crate) packets: &'a [P],
    /// Length of each packet but the last.
    pub(crate) segment: Option<u16>,
}

/// The structures that sendmmsg reads. Kept from call to call, so that sending allocates nothing; the pointers in them
/// mean something during a call only.
pub(crate) struct SendMany {
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    names: Vec<RawAddress>,
    controls: Vec<Control>,
}

impl std::fmt::Debug for SendMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendMany").finish_non_exhaustive()
    }
}

// SAFETY: the pointers inside are written and used within one call of `send`, which has exclusive access.
unsafe impl Send for SendMany {}

impl SendMany {
    /// Room for so many messages of so many packets together.
    pub(crate) fn new(messages: usize, packets: usize) -> Self {
        Self {
            headers: Vec::with_capacity(messages),
            slices: Vec::with_capacity(packets),
            names: Vec::with_capacity(messages),
            controls: Vec::with_capacity(messages),
        }
    }

    /// Sends messages without waiting; gives how many were taken, which is less than all when the socket is full or one
    /// of them is refused.
    ///
    /// # Errors
    /// That of the first message.
    pub(crate) fn send<'a, P: AsRef<[u8]> + 'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        messages: impl Iterator<Item = Outgoing<'a, P>> + Clone,
    ) -> io::Result<usize> {
        self.headers.clear();
        self.slices.clear();
        self.names.clear();
        self.controls.clear();
        for message in messages.clone() {
            self.names.push(RawAddress::new(message.to));
            self.controls.push(segment_control(message.segment));
            for packet in message.packets {
                let packet = packet.as_ref();
                let base = packet.as_ptr().cast_mut().cast();
                self.slices.push(libc::iovec { iov_base: base, iov_len: packet.len() });
            }
        }
        // Only now, as the vectors do not move any more.
        let mut slices = self.slices.as_mut_slice();
        let parts = self.names.iter_mut().zip(&mut self.controls);
        for (message, (name, control)) in messages.zip(parts) {
            let (own, rest) = slices.split_at_mut(message.packets.len());
            slices = rest;
            let mut header = empty_header();
            header.msg_hdr.msg_name = ptr::from_mut(&mut name.storage).cast();
            header.msg_hdr.msg_namelen = name.len;
            header.msg_hdr.msg_iov = own.as_mut_ptr();
            header.msg_hdr.msg_iovlen = own.len() as _;
            if message.segment.is_some() {
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = SEGMENT_SPACE as _;
            }
            self.headers.push(header);
        }
        let count = libc::c_uint::try_from(self.headers.len()).map_err(io::Error::other)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `count` headers lie at the pointer. Each points to an address, to as many slices as it says and to its
        // control message, all in vectors of `self` that are not touched before the call returns; the slices point into
        // packets that `messages` borrows. The kernel reads all of it and writes `msg_len` of the headers.
        let answer =
            unsafe { libc::sendmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count, flags) };
        check(answer)
    }
}

const SEGMENT_SPACE: usize = (CMSG_HEADER + size_of::<u16>()).next_multiple_of(align_of::<usize>());

/// A control message that says into which lengths to cut; zeros without.
fn segment_control(segment: Option<u16>) -> Control {
    let mut control = Control([0; CONTROL_BYTES]);
    if let Some(segment) = segment {
        let len = CMSG_HEADER + size_of::<u16>();
        control.0[..CMSG_LEVEL].copy_from_slice(&len.to_ne_bytes());
        control.0[CMSG_LEVEL..CMSG_TYPE].copy_from_slice(&SOL_UDP.to_ne_bytes());
        control.0[CMSG_TYPE..CMSG_HEADER].copy_from_slice(&UDP_SEGMENT.to_ne_bytes());
        control.0[CMSG_HEADER..len].copy_from_slice(&segment.to_ne_bytes());
    }
    control
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: the structure holds integers and pointers only, for which zeros are values.
    unsafe { std::mem::zeroed() }
}

/// What one received message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incoming {
    /// `None`: not an IP address.
    pub(crate) from: Option<SocketAddr>,
    pub(crate) len: usize,
    /// It was longer than the buffer.
    pub(crate) truncated: bool,
    /// Length of each of its datagrams but the last, if the kernel put several together.
    pub(crate) segment: Option<usize>,
    /// Datagrams that the socket has dropped since it was made, if the kernel said so.
    pub(crate) dropped: Option<u32>,
}

/// The structures that recvmmsg writes; kept from call to call.
pub(crate) struct ReceiveMany {
    headers: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    names: Vec<RawAddress>,
    controls: Vec<Control>,
}

impl std::fmt::Debug for ReceiveMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveMany").finish_non_exhaustive()
    }
}

// SAFETY: the pointers inside are written and used within one call of `receive`, which has exclusive access.
unsafe impl Send for ReceiveMany {}

impl ReceiveMany {
    /// Room for so many messages.
    pub(crate) fn new(messages: usize) -> Self {
        Self {
            headers: vec![empty_header(); messages],
            slices: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; messages],
            names: vec![RawAddress::empty(); messages],
            controls: vec![Control([0; CONTROL_BYTES]); messages],
        }
    }

    /// Receives what is there without waiting, one message into each buffer (over its whole capacity); appends what
    /// they were to `into`. Buffers beyond the structures' room are left out.
    ///
    /// # Errors
    /// That of the call: `WouldBlock` when nothing is there.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        buffers: &mut [PooledBuffer],
        into: &mut Vec<Incoming>,
    ) -> io::Result<()> {
        let count = buffers.len().min(self.headers.len());
        let parts = self.slices.iter_mut().zip(&mut self.names).zip(&mut self.controls);
        for ((buffer, header), ((slice, name), control)) in
            buffers.iter_mut().zip(&mut self.headers).zip(parts)
        {
            let memory = buffer.as_mut_capacity();
            *slice = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
            *name = RawAddress::empty();
            *header = empty_header();
            header.msg_hdr.msg_name = ptr::from_mut(&mut name.storage).cast();
            header.msg_hdr.msg_namelen = name.len;
            header.msg_hdr.msg_iov = ptr::from_mut(slice);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        let wanted = libc::c_uint::try_from(count).map_err(io::Error::other)?;
        let headers = self.headers.as_mut_ptr();
        // SAFETY: `wanted` headers lie at the pointer, each pointing to room for an address, to one slice over a buffer
        // that is borrowed exclusively, and to room for control messages, with their true lengths. Nothing of it is
        // touched before the call returns. No time-out is passed.
        let answer = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), headers, wanted, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = check(answer)?;
        into.extend((0..received).map(|n| self.incoming(n)));
        Ok(())
    }

    fn incoming(&self, n: usize) -> Incoming {
        let header = &self.headers[n];
        let flags = header.msg_hdr.msg_flags;
        let written = header.msg_hdr.msg_controllen;
        let control = &self.controls[n].0;
        let control = &control[..written.min(control.len())];
        let (segment, dropped) = controls(control);
        let len = (header.msg_len as usize).min(self.slices[n].iov_len);
        Incoming {
            from: self.names[n].to_socket_addr(),
            len,
            truncated: flags & libc::MSG_TRUNC != 0,
            segment: segment.filter(|segment| *segment > 0 && *segment < len),
            dropped,
        }
    }
}

/// Segment length and count of dropped datagrams, from control messages that lie one behind the other.
fn controls(mut control: &[u8]) -> (Option<usize>, Option<u32>) {
    let (mut segment, mut dropped) = (None, None);
    while let Some((header, _)) = control.split_first_chunk::<CMSG_HEADER>() {
        let len = usize::from_ne_bytes(crate::field::field(header, 0));
        let level = i32::from_ne_bytes(crate::field::field(header, CMSG_LEVEL));
        let kind = i32::from_ne_bytes(crate::field::field(header, CMSG_TYPE));
        let Some(data) = control.get(CMSG_HEADER..len) else { break };
        match (level, kind) {
            (SOL_UDP, UDP_GRO) => {
                // An int since Linux 5.0; its lower half says it all.
                let value = data.first_chunk().map(|value| i32::from_ne_bytes(*value));
                segment = value.and_then(|value| usize::try_from(value).ok());
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                dropped = data.first_chunk().map(|value| u32::from_ne_bytes(*value));
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(align_of::<usize>())..).unwrap_or_default();
    }
    (segment, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let len = CMSG_HEADER + data.len();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(len.next_multiple_of(align_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn control_messages_are_found_in_any_order() {
        let gro = control(SOL_UDP, UDP_GRO, &1200i32.to_ne_bytes());
        let lost = control(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        let other = control(0, 1, &[1, 2, 3]);
        for parts in [[&gro, &lost, &other], [&other, &gro, &lost]] {
            assert_eq!(controls(&parts.map(|part| &part[..]).concat()), (Some(1200), Some(7)));
        }
        assert_eq!(controls(&control(SOL_UDP, UDP_GRO, &(-1i32).to_ne_bytes())), (None, None));
    }

    proptest! {
        #[test]
        fn arbitrary_control_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), len in 0..80usize) {
            let mut bytes = bytes;
            if bytes.len() >= CMSG_LEVEL {
                bytes[..CMSG_LEVEL].copy_from_slice(&len.to_ne_bytes());
            }
            std::hint::black_box(controls(&bytes));
        }
    }

    #[test]
    fn a_segment_control_reads_as_the_kernel_reads_it() {
        let control = segment_control(Some(1200)).0;
        assert_eq!(control[..CMSG_LEVEL], (CMSG_HEADER + 2).to_ne_bytes());
        assert_eq!(control[CMSG_HEADER..CMSG_HEADER + 2], 1200u16.to_ne_bytes());
        assert_eq!(SEGMENT_SPACE % align_of::<usize>(), 0);
    }
}

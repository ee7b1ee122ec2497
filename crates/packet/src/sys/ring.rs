//! The kernel's ring of received packets: AF_PACKET with TPACKET_V3 (Documentation/networking/packet_mmap.rst).
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::sockopt::{get, set, set_int};
use super::{check, sockopt};

/// A packet socket bound to one interface, with its ring mapped.
///
/// Invariant: `memory` is a mapping of `blocks * block_bytes` bytes, shared with the kernel, until it is dropped.
#[derive(Debug)]
pub(crate) struct PacketRing {
    socket: OwnedFd,
    memory: NonNull<u8>,
    block_bytes: usize,
    blocks: usize,
}

// SAFETY: the mapping belongs to the ring alone in this process and has no thread affinity.
unsafe impl Send for PacketRing {}

const TPACKET_V3: libc::c_int = 2;
/// The unit in which the kernel checks the ring's size; packets of any length share a block.
const FRAME_BYTES: usize = 2048;
/// `block_status` in a block's header: after version and offset to private data.
const STATUS_AT: usize = 8;
const STATUS_USER: u32 = 1;
const STATUS_KERNEL: u32 = 0;

/// What the kernel counts; each reading starts anew.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RingStats {
    pub(crate) packets: u32,
    pub(crate) drops: u32,
    pub(crate) freezes: u32,
}

impl PacketRing {
    /// Opens a socket for every protocol on an interface. A block is handed over when it is full, or after
    /// `retire_ms`.
    pub(crate) fn open(
        interface: &str,
        block_bytes: usize,
        blocks: usize,
        retire_ms: u32,
    ) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: if_nametoindex(3) reads a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // No protocol yet: nothing is received before the socket is bound to its interface.
        // SAFETY: socket(2) takes its arguments by value.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set_int(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VERSION, TPACKET_V3)?;
        let count = |value: usize| u32::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req3 {
            tp_block_size: count(block_bytes)?,
            tp_block_nr: count(blocks)?,
            tp_frame_size: count(FRAME_BYTES)?,
            tp_frame_nr: count(block_bytes / FRAME_BYTES * blocks)?,
            tp_retire_blk_tov: retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let ring = Self::map(socket, block_bytes, blocks)?;
        ring.bind(index)?;
        Ok(ring)
    }

    fn map(socket: OwnedFd, block_bytes: usize, blocks: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (len, fd) = (block_bytes * blocks, socket.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let memory =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { socket, memory, block_bytes, blocks })
    }

    fn bind(&self, index: libc::c_uint) -> io::Result<()> {
        // SAFETY: the structure holds integers only, for which zeros are values.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family =
            libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        address.sll_protocol = all.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        let pointer = (&raw const address).cast();
        // SAFETY: bind(2) reads `len` bytes at the pointer, which are those of `address`.
        let answer = unsafe { libc::bind(self.socket.as_raw_fd(), pointer, len) };
        check(answer).map(drop)
    }

    /// The bytes of a block that the kernel has handed over; `None`: it is still filling it.
    pub(crate) fn block(&self, n: usize) -> Option<&[u8]> {
        if self.status(n)?.load(Ordering::Acquire) & STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the block lies within the mapping (the invariant, and `status` has checked `n`).
        let start = unsafe { self.memory.as_ptr().add(n * self.block_bytes) };
        // SAFETY: the block is `block_bytes` long, and the kernel does not touch it between handing it over (seen by the
        // Acquire above) and `release`, which needs exclusive access and so the end of this borrow.
        Some(unsafe { std::slice::from_raw_parts(start, self.block_bytes) })
    }

    /// Gives a block back to the kernel.
    pub(crate) fn release(&mut self, n: usize) {
        if let Some(status) = self.status(n) {
            // Release: what was read from the block was read before.
            status.store(STATUS_KERNEL, Ordering::Release);
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Waits until a block may be there.
    pub(crate) fn poll(&self, at_most: Duration) -> io::Result<bool> {
        sockopt::poll(self.socket.as_fd(), false, Some(at_most))
    }

    /// What has gone wrong since this was last asked.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        sockopt::take_error(self.socket.as_fd())
    }

    /// What was received and dropped since the last reading.
    pub(crate) fn stats(&self) -> io::Result<RingStats> {
        let mut stats = RingStats::default();
        get(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut stats)?;
        Ok(stats)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn status(&self, n: usize) -> Option<&AtomicU32> {
        if n >= self.blocks {
            return None;
        }
        // SAFETY: the word lies within the mapping: blocks are far longer than `STATUS_AT`.
        let word = unsafe { self.memory.as_ptr().add(n * self.block_bytes + STATUS_AT) };
        // SAFETY: blocks are page-aligned, so the word is aligned; the mapping lives as long as `self`, and the word is
        // accessed atomically by both sides.
        Some(unsafe { AtomicU32::from_ptr(word.cast()) })
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is this long (the invariant) and is not used again.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.block_bytes * self.blocks) };
    }
}

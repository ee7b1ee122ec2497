//! An AF_XDP socket in copy mode: memory for frames and four rings that are shared with the kernel
//! (Documentation/networking/af_xdp.rst).
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use straightway_buffer::{HugePages, MappedBuffer};

use super::sockopt::{get, set};
use super::{bpf, check};

/// A mapping that ends with this value.
#[derive(Debug)]
struct Mapping {
    memory: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize, flags: libc::c_int, fd: libc::c_int, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let memory = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, offset) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { memory, len })
    }

    /// The address of `size` bytes at an offset; `None`: they are not all within.
    fn at(&self, offset: usize, size: usize) -> Option<*mut u8> {
        offset.checked_add(size).filter(|end| *end <= self.len)?;
        // SAFETY: within the mapping, as was just checked.
        Some(unsafe { self.memory.as_ptr().add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this long, and nothing that borrows from it outlives it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}

/// A ring of `T`, of which this side either produces or consumes.
#[derive(Debug)]
struct Ring {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    descriptors: usize,
    entries: u32,
}

impl Ring {
    fn map(
        socket: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        entry_bytes: usize,
        entries: u32,
        page: i64,
    ) -> io::Result<Self> {
        let offset = |value: u64| usize::try_from(value).map_err(io::Error::other);
        let descriptors = offset(offsets.desc)?;
        let len = descriptors + entries as usize * entry_bytes;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let mapping = Mapping::new(len, flags, socket.as_raw_fd(), page)?;
        let (producer, consumer) = (offset(offsets.producer)?, offset(offsets.consumer)?);
        Ok(Self { mapping, producer, consumer, descriptors, entries })
    }

    fn counter(&self, offset: usize) -> io::Result<&AtomicU32> {
        let word = self.mapping.at(offset, 4).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: four bytes within the mapping, which lives as long as `self`; the kernel aligns its counters, and
        // both sides access them atomically.
        Ok(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// Entries that can be produced now.
    fn room(&self) -> io::Result<u32> {
        let (producer, consumer) = (self.counter(self.producer)?, self.counter(self.consumer)?);
        let used = producer.load(Ordering::Relaxed).wrapping_sub(consumer.load(Ordering::Acquire));
        Ok(self.entries.saturating_sub(used))
    }

    /// Entries that can be consumed now.
    fn ready(&self) -> io::Result<u32> {
        let (producer, consumer) = (self.counter(self.producer)?, self.counter(self.consumer)?);
        let ready = producer.load(Ordering::Acquire).wrapping_sub(consumer.load(Ordering::Relaxed));
        Ok(ready.min(self.entries))
    }

    /// Where the next entry lies, by the counter at `offset`.
    fn slot<T>(&self, offset: usize) -> io::Result<*mut T> {
        let index = self.counter(offset)?.load(Ordering::Relaxed) % self.entries;
        let at = self.descriptors + index as usize * size_of::<T>();
        let slot = self.mapping.at(at, size_of::<T>()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(slot.cast())
    }

    /// Produces an entry, if there is room.
    fn push<T: Copy>(&self, entry: T) -> io::Result<bool> {
        if self.room()? == 0 {
            return Ok(false);
        }
        let slot: *mut T = self.slot(self.producer)?;
        // SAFETY: within the mapping and aligned (entries are of 8 or 16 bytes behind an aligned start); the kernel does
        // not read it before the counter says so.
        unsafe { slot.write(entry) };
        let producer = self.counter(self.producer)?;
        producer.store(producer.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        Ok(true)
    }

    /// Consumes an entry, if there is one.
    fn pop<T: Copy>(&self) -> io::Result<Option<T>> {
        if self.ready()? == 0 {
            return Ok(None);
        }
        let slot: *mut T = self.slot(self.consumer)?;
        // SAFETY: as for `push`; the kernel has written it before it moved its counter (the Acquire in `ready`).
        let entry = unsafe { slot.read() };
        let consumer = self.counter(self.consumer)?;
        consumer.store(consumer.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        Ok(Some(entry))
    }
}

/// The memory of all frames, which the kernel reads and writes too.
///
/// Invariant: `start` points to the `len` bytes of `_memory`, which nothing else touches.
#[derive(Debug)]
struct Frames {
    _memory: MappedBuffer,
    start: NonNull<u8>,
    len: usize,
}

impl Frames {
    /// The address of `size` bytes at an offset; `None`: they are not all within.
    fn at(&self, offset: usize, size: usize) -> Option<*mut u8> {
        offset.checked_add(size).filter(|end| *end <= self.len)?;
        // SAFETY: within the memory, as was just checked.
        Some(unsafe { self.start.as_ptr().add(offset) })
    }
}

/// Bytes of a frame's room.
pub(crate) const FRAME_BYTES: usize = 2048;

/// A socket bound to one queue of an interface. Half of its frames are for sending, half for receiving.
#[derive(Debug)]
pub(crate) struct Xsk {
    // Dropped in this order: the program is detached before the socket closes.
    _link: OwnedFd,
    _map: OwnedFd,
    fill: Ring,
    completion: Ring,
    receive: Ring,
    transmit: Ring,
    socket: OwnedFd,
    frames: Frames,
    /// Addresses of frames that are free to be sent from.
    free: Vec<u64>,
}

// SAFETY: the mappings belong to the socket alone in this process and have no thread affinity.
unsafe impl Send for Xsk {}

impl Xsk {
    /// `entries` is a power of two: of each ring, and half the number of frames.
    pub(crate) fn open(interface: &str, queue: u32, entries: u32) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: if_nametoindex(3) reads a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socket(2) takes its arguments by value.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = Self::register(&socket, entries)?;
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
        ] {
            set(socket.as_fd(), libc::SOL_XDP, ring, &entries)?;
        }
        let none = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
        let mut offsets = libc::xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
        get(socket.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
        let page = |offset: u64| i64::try_from(offset).map_err(io::Error::other);
        let ring = |offsets: &_, bytes, at| Ring::map(socket.as_fd(), offsets, bytes, entries, at);
        let descriptor = size_of::<libc::xdp_desc>();
        let fill = ring(&offsets.fr, 8, page(libc::XDP_UMEM_PGOFF_FILL_RING)?)?;
        let completion = ring(&offsets.cr, 8, page(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?)?;
        let receive = ring(&offsets.rx, descriptor, libc::XDP_PGOFF_RX_RING)?;
        let transmit = ring(&offsets.tx, descriptor, libc::XDP_PGOFF_TX_RING)?;
        let frame = |n: u32| u64::from(n) * FRAME_BYTES as u64;
        for n in 0..entries {
            fill.push(frame(n))?;
        }
        Self::bind(&socket, index, queue)?;
        let map = bpf::socket_map(queue + 1)?;
        bpf::put(map.as_fd(), queue, socket.as_fd())?;
        let program = bpf::load(map.as_fd())?;
        let link = bpf::attach(program.as_fd(), index)?;
        let free = (entries..2 * entries).map(frame).collect();
        Ok(Self {
            _link: link,
            _map: map,
            fill,
            completion,
            receive,
            transmit,
            socket,
            frames,
            free,
        })
    }

    fn register(socket: &OwnedFd, entries: u32) -> io::Result<Frames> {
        let len = 2 * entries as usize * FRAME_BYTES;
        let mut memory =
            MappedBuffer::new(len, HugePages::Transparent).map_err(io::Error::other)?;
        // The kernel pins its pages now; they are to lie near the thread that uses them.
        memory.prefault();
        let start = NonNull::from(&mut memory[..]).cast::<u8>();
        let frames = Frames { _memory: memory, start, len };
        let registration = libc::xdp_umem_reg {
            addr: frames.start.as_ptr() as u64,
            len: len as u64,
            chunk_size: u32::try_from(FRAME_BYTES).map_err(io::Error::other)?,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(socket.as_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)?;
        Ok(frames)
    }

    fn bind(socket: &OwnedFd, interface: u32, queue: u32) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).map_err(io::Error::other)?,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: bind(2) reads `len` bytes at the pointer, which are those of `address`.
        let answer = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        check(answer).map(drop)
    }

    /// Copies a packet into a frame and queues it; `false`: no frame is free, or it is longer than one.
    pub(crate) fn queue(&mut self, packet: &[u8]) -> io::Result<bool> {
        if packet.len() > FRAME_BYTES || self.transmit.room()? == 0 {
            return Ok(false);
        }
        let Some(address) = self.free.pop() else { return Ok(false) };
        let room = usize::try_from(address).ok().and_then(|at| self.frames.at(at, packet.len()));
        let room = room.ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: `room` has that many bytes in a frame that is neither in a ring nor lent; the packet lies elsewhere,
        // as our own frames are never handed out as slices while `self` is borrowed exclusively.
        unsafe { ptr::copy_nonoverlapping(packet.as_ptr(), room, packet.len()) };
        let len = u32::try_from(packet.len()).map_err(io::Error::other)?;
        self.transmit.push(libc::xdp_desc { addr: address, len, options: 0 })
    }

    /// Has the kernel send what is queued, and takes back the frames that it is done with.
    pub(crate) fn kick(&mut self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: sendto(2) without a buffer and an address reads nothing.
        let answer =
            unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        let kicked = usize::try_from(answer).map_err(|_| io::Error::last_os_error());
        while let Some(address) = self.completion.pop()? {
            self.free.push(address);
        }
        match kicked {
            // It has taken some, and wants to be asked again.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)
                ) =>
            {
                Ok(())
            }
            kicked => kicked.map(drop),
        }
    }

    /// Packets that are queued or on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.completion.entries as usize - self.free.len()
    }

    /// Hands the next received packet to `take`, if there is one, and its frame back to the kernel.
    pub(crate) fn receive<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> io::Result<Option<R>> {
        let Some(descriptor) = self.receive.pop::<libc::xdp_desc>()? else { return Ok(None) };
        let len = descriptor.len as usize;
        let start = usize::try_from(descriptor.addr).ok().and_then(|at| self.frames.at(at, len));
        let start = start.ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: within the frames (checked), written by the kernel before it produced the descriptor, and not written
        // again before the frame is in the fill ring.
        let taken = take(unsafe { std::slice::from_raw_parts(start, len) });
        let frame = descriptor.addr - descriptor.addr % FRAME_BYTES as u64;
        self.fill.push(frame)?;
        Ok(Some(taken))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

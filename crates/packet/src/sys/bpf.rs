//! The one program that AF_XDP needs to receive: hand every frame of a queue to the socket in the map, pass the others on.
use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `bpf(2)`, with an attribute block of 32-bit words that lie where the command wants them.
fn bpf(command: c_long, attributes: &mut [u32; 32]) -> io::Result<usize> {
    let len = size_of_val(attributes);
    // SAFETY: bpf(2) reads at most `len` bytes at the pointer, which are those of `attributes`; pointers within them are
    // the caller's, see there.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), len) };
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: usize) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: bpf(2) has just answered with this descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: BorrowedFd<'_>) -> u32 {
    u32::from_ne_bytes(fd.as_raw_fd().to_ne_bytes())
}

/// Two words of a pointer, as the attributes hold it.
fn pointer<T>(to: *const T) -> [u32; 2] {
    let address = to as u64;
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    let (low, high) = (half(address), half(address >> 32));
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

/// A map from queue numbers to AF_XDP sockets.
pub(super) fn socket_map(queues: u32) -> io::Result<OwnedFd> {
    const MAP_CREATE: c_long = 0;
    const XSKMAP: u32 = 17;
    let mut attributes = [0; 32];
    // Type, key bytes, value bytes, entries.
    attributes[..4].copy_from_slice(&[XSKMAP, 4, 4, queues]);
    owned(bpf(MAP_CREATE, &mut attributes)?)
}

/// Puts a socket into the map.
pub(super) fn put(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    const MAP_UPDATE: c_long = 2;
    let (key, value) = (queue, word(socket));
    let mut attributes = [0; 32];
    attributes[0] = word(map);
    attributes[2..4].copy_from_slice(&pointer(&raw const key));
    attributes[4..6].copy_from_slice(&pointer(&raw const value));
    // The pointers are to four bytes each, as the map was made, and live until the call returns.
    bpf(MAP_UPDATE, &mut attributes).map(drop)
}

/// Loads the program.
pub(super) fn load(map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PROG_LOAD: c_long = 5;
    const XDP: u32 = 6;
    // One instruction: operation, registers (source in the upper half), offset, value.
    let instruction = |operation: u8, registers: u8, offset: i16, value: u32| {
        let ([low, high], [a, b, c, d]) = (offset.to_ne_bytes(), value.to_ne_bytes());
        u64::from_ne_bytes([operation, registers, low, high, a, b, c, d])
    };
    let program = [
        // r2 = context.rx_queue_index
        instruction(0x61, 0x12, 16, 0),
        // r1 = the map; the value is its descriptor
        instruction(0x18, 0x11, 0, word(map)),
        instruction(0, 0, 0, 0),
        // r3 = XDP_PASS: what becomes of frames of a queue that is not in the map
        instruction(0xb7, 0x03, 0, 2),
        // return bpf_redirect_map(r1, r2, r3)
        instruction(0x85, 0, 0, 51),
        instruction(0x95, 0, 0, 0),
    ];
    let license = c"MIT OR Apache-2.0";
    let mut attributes = [0; 32];
    attributes[0] = XDP;
    attributes[1] = 6;
    attributes[2..4].copy_from_slice(&pointer(program.as_ptr()));
    attributes[4..6].copy_from_slice(&pointer(license.as_ptr()));
    // The pointers are to six instructions and a C string, which live until the call returns.
    owned(bpf(PROG_LOAD, &mut attributes)?)
}

/// Attaches the program to an interface, in the generic mode that every driver has; it is detached when the link closes.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    const LINK_CREATE: c_long = 28;
    const ATTACH_XDP: u32 = 37;
    const GENERIC: u32 = 2;
    let mut attributes = [0; 32];
    attributes[..4].copy_from_slice(&[word(program), interface, ATTACH_XDP, GENERIC]);
    owned(bpf(LINK_CREATE, &mut attributes)?)
}

//! The TUN/TAP driver's ioctls.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Makes an open `/dev/net/tun` a TAP device without packet information; gives the name that the kernel chose.
pub(crate) fn attach(file: &File, name: &str) -> io::Result<String> {
    // SAFETY: the structure holds integers and a union of them, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: names are C strings.
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a device's name has 1 to 15 bytes",
        ));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq` at the pointer.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(answer)?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    Ok(name.map(|byte| char::from(byte.to_ne_bytes()[0])).collect())
}

/// Says which offloads frames may need: none, so that every frame is one as on a cable. The setting belongs to the
/// device and would outlive a process that had set it otherwise.
pub(crate) fn no_offload(file: &File) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, NONE) };
    check(answer).map(drop)
}

/// Bytes of frames that may wait for the device; the default drops bursts.
pub(crate) fn set_send_buffer(file: &File, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETSNDBUF reads an `int` at the pointer.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETSNDBUF, &raw const bytes) };
    check(answer).map(drop)
}

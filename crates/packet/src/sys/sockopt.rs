//! Options of sockets.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::check;

/// `SOL_UDP`, `UDP_SEGMENT` and `UDP_GRO` of `linux/udp.h`.
pub(crate) const SOL_UDP: libc::c_int = 17;
pub(crate) const UDP_SEGMENT: libc::c_int = 103;
pub(crate) const UDP_GRO: libc::c_int = 104;

/// Sets an option whose value is an `int`.
pub(crate) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set(fd, level, name, &value)
}

/// Sets an option whose value is any structure of integers.
pub(super) fn set<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = ptr::from_ref(value).cast();
    // SAFETY: setsockopt(2) reads `len` bytes at the pointer, which are those of `value`.
    let answer = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, len) };
    check(answer).map(drop)
}

/// Reads an option whose value is any structure of integers.
pub(super) fn get<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = ptr::from_mut(value).cast();
    // SAFETY: getsockopt(2) writes at most `len` bytes at the pointer, which are those of `value`.
    let answer = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut len) };
    check(answer).map(drop)
}

/// Waits until a descriptor can be read (or written), for so many milliseconds at the most; -1: for ever.
pub(crate) fn poll(fd: BorrowedFd<'_>, write: bool, timeout_ms: libc::c_int) -> io::Result<bool> {
    let events = if write { libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: poll(2) reads and writes one entry at the pointer.
    let answer = unsafe { libc::poll(&raw mut entry, 1, timeout_ms) };
    check(answer).map(|ready| ready > 0)
}
